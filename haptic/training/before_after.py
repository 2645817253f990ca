"""What fine-tuning has brought: validation before the first step beside validation now, as a small table."""

import math
from collections.abc import Mapping

from haptic.training.validation import IMG_ERROR, best_value

TITLES = {
    "ga_mpjpe_mm": "GA-MPJPE, mm",
    "fa_mpjpe_mm": "FA-MPJPE, mm",
    "pa_mpjpe_mm": "PA-MPJPE, mm",
    "ra_mpjpe_mm": "RA-MPJPE, mm",
    "acc_norm_mm": "ACC-NORM, mm/frame²",
    IMG_ERROR: "2D error, % of the network's square",
}


def before_after_table(validations: Mapping[int, Mapping[str, float]]) -> str | None:
    """Return the table in Markdown from the scores by step; None unless step 0 and a later one were validated.

    `After` is the last step validated. Scores that the labels do not tell have no row. Less is better in each.
    """
    later = sorted(step for step in validations if step > 0)
    before = validations.get(0)
    if before is None or not later:
        return None
    after = validations[later[-1]]
    best = min(later, key=lambda step: _or_infinite(best_value(validations[step])))
    columns = [("before", before), (f"after {later[-1]} steps", after)]
    if best != later[-1]:
        columns.append((f"best.ckpt, step {best}", validations[best]))
    heads = [
        head for number, (name, _scores) in enumerate(columns) for head in ([name, "change"] if number else [name])
    ]
    lines = ["| validation | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for name, title in TITLES.items():
        if name in before and all(name in scores for _head, scores in columns):
            cells = [_number(before[name])]
            for _head, scores in columns[1:]:
                cells += [_number(scores[name]), _change(before[name], scores[name])]
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    if best_value(validations[best]) > best_value(before):
        lines += ["", "No validated step is better than the weights that the run began with: keep those."]
    return "\n".join(lines) + "\n"


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _change(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before > 0 else ""
