"""Everything a run leaves behind: numbers per frame and sequence, tables, plots, strips, seconds."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from haptic.data.shards import ShardStore
from haptic.evaluation.benchmarks import Benchmark
from haptic.evaluation.checks import PairedHand
from haptic.evaluation.clips import ClipPictures, EvalClip, set_digest
from haptic.evaluation.jobs import MethodFiles, folder_name
from haptic.evaluation.scoring import FrameScores, SequenceScore
from haptic.evaluation.strips import StripRow, write_strips
from haptic.evaluation.tables import (
    FramesFormat,
    build_tables,
    console,
    latex,
    markdown,
    write_csv,
    write_frames,
    write_sequences,
)
from haptic.files import atomic_write
from haptic.vis.score_plots import ErrorCurve, ErrorPoints, write_error_against_focal, write_error_over_time

WORST = 10
# Sequences are worst by the first of these that says something: a single picture has no GA, a 2D label no PA.
WORST_BY = ("ga_mm", "pa_mm", "epe_px")
MIN_CURVE_HANDS = 3


@dataclass
class Scored:
    """What was scored, as it comes together."""

    benchmark: Benchmark
    clips: list[EvalClip]
    command: str
    notes: list[str] = field(default_factory=list)
    sequences: list[SequenceScore] = field(default_factory=list)
    frames: list[FrameScores] = field(default_factory=list)
    pairs: dict[tuple[str, str, str], PairedHand] = field(default_factory=dict)
    console: str = ""

    @property
    def methods(self) -> list[str]:
        """The methods and systems, in the order in which they were scored."""
        return list(dict.fromkeys(method for method, _key, _hand in self.pairs))


def write_report(
    scored: Scored, out: Path, files: MethodFiles, *, seed: int, frames: FramesFormat, has_pictures: bool
) -> None:
    """Write all files of a run; what is measured in seconds goes to `timing.csv` alone."""
    digests = {
        name: set_digest([clip for clip in scored.clips if clip.set_name == name]) for name in scored.benchmark.sets
    }
    tables = build_tables(scored.benchmark, scored.sequences, scored.methods, digests, seed=seed)
    scored.console = console(tables)
    notes = list(dict.fromkeys(scored.notes))
    _write_text(out / "table.md", markdown(scored.benchmark, tables, command=scored.command, notes=notes))
    _write_text(out / "table.tex", latex(tables))
    write_sequences(out / "sequences.csv", scored.sequences)
    write_frames(out, scored.frames, kind=frames)
    _write_protocols(out / "protocols.json", scored.benchmark)
    refinements = _write_times(scored, out, files)
    if refinements:
        _write_text(out / "timing.md", refinements)
        scored.console += f"\n\n{refinements}"
    if has_pictures:
        _write_plots(scored, out)
        _write_worst(scored, out)


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def _write_protocols(path: Path, benchmark: Benchmark) -> None:
    """Write every protocol with its hash, so that a number can be traced without this program."""
    content = {protocol.hash: asdict(protocol) for protocol in benchmark.protocols}
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_times(scored: Scored, out: Path, files: MethodFiles) -> str:
    """Write seconds and objectives; return a table of what refinement does and takes, empty if there is none."""
    rows: list[dict[str, Any]] = []
    times: list[list[Any]] = []
    objectives: list[list[Any]] = []
    for method in scored.methods:
        for clip in scored.clips:
            path = files.timing(method, clip.key)
            if not path.is_file():  # another system's
                continue
            report = json.loads(path.read_text())
            times.append([method, clip.set_name, clip.key, report["frames"], f"{report['seconds']:.3f}"])
            rows += report["objectives"]
            objectives += [
                [row["method"], clip.set_name, row["sequence"], row["hand"], row["at"], f"{row['objective']:.6g}"]
                for row in report["objectives"]
            ]
    write_csv(out / "timing.csv", ["method", "set", "sequence", "hand_frames", "seconds"], times)
    if objectives:
        head = ["method", "set", "sequence", "hand", "at", "objective"]
        write_csv(out / "refinement.csv", head, objectives)
    return refinement_table(rows)


def refinement_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return, per method, the mean objective before and after, on how many tracks it is lower, and seconds per track.

    "Lower" compares two refinements of one start on one track, so it is told where both have run.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    after = {(row["method"], row["sequence"], row["hand"]): row["objective"] for row in rows if row["at"] == "after"}
    lines = [
        "| refinement | tracks | frames | objective before | after | median after | lowest on | seconds per track |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        own = {at: [row for row in rows if row["method"] == method and row["at"] == at] for at in ("before", "after")}
        start = method.rpartition("+")[0]
        rivals = [other for other in methods if other.rpartition("+")[0] == start and other != method]
        tracks = [(row["sequence"], row["hand"]) for row in own["after"]]
        shared = [track for track in tracks if all((rival, *track) in after for rival in rivals)] if rivals else []
        wins = sum(after[method, *track] <= min(after[rival, *track] for rival in rivals) for track in shared)
        means = [float(np.mean([row["objective"] for row in own[at]])) for at in ("before", "after")]
        median = float(np.median([row["objective"] for row in own["after"]]))
        frames = sum(row["frames"] for row in own["after"])
        seconds = float(np.mean([row["seconds"] for row in own["after"]]))
        lowest = f"{wins} of {len(shared)}" if shared else "-"
        lines.append(
            f"| {method} | {len(tracks)} | {frames} | {means[0]:.4g} | {means[1]:.4g} | {median:.4g} | {lowest} | "
            f"{seconds:.1f} |"
        )
    return "\n".join(lines) + "\n" if methods else ""


def _write_plots(scored: Scored, out: Path) -> None:
    grouped: dict[str, dict[str, list[FrameScores]]] = defaultdict(lambda: defaultdict(list))
    for score in scored.frames:
        grouped[score.set_name][score.method].append(score)
    for column, words in (("ga_mm", "GA error (mm)"), ("fa_mm", "FA error (mm)")):
        for set_name, methods in grouped.items():
            curves = {method: _curve(own, column) for method, own in methods.items()}
            curves = {method: curve for method, curve in curves.items() if len(curve.time_s)}
            if curves:
                path = out / "pictures" / f"{set_name}-{column.split('_')[0]}-over-time.png"
                write_error_over_time(path, curves, title=f"{set_name}: median and quartiles over hands", label=words)
    for column, words in (("c_mm", "C error (mm)"), ("ga_mm", "GA error (mm)")):
        points = {
            method: _points([f for f in scored.frames if f.method == method], column) for method in scored.methods
        }
        if any(len(cloud.error) for cloud in points.values()):
            path = out / "pictures" / f"{column.split('_')[0]}-against-focal.png"
            write_error_against_focal(path, points, title="mean error of each hand's track", label=words)


def _curve(scores: list[FrameScores], column: str) -> ErrorCurve:
    """Return quartiles over hands by time since the hand's first frame; where few hands are left it ends."""
    longest = max(len(score.columns[column]) for score in scores)
    values = np.full((len(scores), longest), np.nan)
    time_s = np.zeros(longest)
    for row, score in enumerate(scores):
        own = score.columns[column]
        values[row, : len(own)] = own
        since = score.columns["time_s"] - score.columns["time_s"][0]
        time_s[: len(own)] = np.maximum(time_s[: len(own)], since)
    enough = (~np.isnan(values)).sum(0) >= min(MIN_CURVE_HANDS, len(scores))
    kept = values[:, enough]
    if not kept.size or np.isnan(kept).all():
        return ErrorCurve(*(np.zeros(0) for _ in range(4)))
    low, middle, high = np.nanquantile(kept, [0.25, 0.5, 0.75], axis=0)
    return ErrorCurve(time_s[enough], middle, low, high)


def _points(scores: list[FrameScores], column: str) -> ErrorPoints:
    told = [score for score in scores if not np.isnan(score.columns[column]).all()]
    return ErrorPoints(
        np.array([score.focal_widths for score in told]),
        np.array([np.nanmean(score.columns[column]) for score in told]),
    )


def _write_worst(scored: Scored, out: Path) -> None:
    """Write each method's worst hands' tracks by the error after one alignment: what is wrong there can be seen."""
    store = ShardStore()
    for method in scored.methods:
        ranked = []
        for score in scored.frames:
            told = [score.columns[column] for column in WORST_BY if not _is_empty(score.columns[column])]
            if score.method == method and told:
                errors = told[0]
                ranked.append((float(np.nanmean(errors)), score))
        ranked.sort(key=lambda one: (-one[0], one[1].sequence, one[1].hand))
        rows = [
            StripRow(
                pair=scored.pairs[method, score.sequence, score.hand],
                pictures=ClipPictures(scored.pairs[method, score.sequence, score.hand].clip, store),
                caption=f"{method}   {score.sequence}   {score.hand}   {_words(score)}   "
                f"focal length {score.focal_widths:.2f} widths   (truth white)",
            )
            for _error, score in ranked[:WORST]
        ]
        if rows:
            write_strips(out / "pictures" / f"worst-{folder_name(method)}.jpg", rows)


def _is_empty(values: np.ndarray) -> bool:
    return bool(np.isnan(values).all())


def _words(score: FrameScores) -> str:
    told = {column: score.columns[column] for column in WORST_BY if not _is_empty(score.columns[column])}
    return "   ".join(
        f"{column.split('_')[0].upper()} {np.nanmean(values):.1f} {column.split('_')[1]}"
        for column, values in told.items()
    )
