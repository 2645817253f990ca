"""How long the metrics take: `python benchmarks/metrics.py`, on one thread, best of three.

The second number is the processor's own time, which other work on the machine disturbs less.
"""

import time
from collections.abc import Callable

import torch

from haptic import metrics
from haptic.hand.model import load_hand_model
from haptic.records import HandParams

FRAMES = 10_000
POSITIONS = (
    metrics.mpjpe, metrics.ra_mpjpe, metrics.pa_mpjpe, metrics.ga_mpjpe, metrics.fa_mpjpe, metrics.w_mpjpe,
    metrics.wa_mpjpe, metrics.g_mpjpe, metrics.acc_norm, metrics.acc_error,
)  # fmt: skip


def main() -> None:
    """Print a table."""
    rng = torch.Generator().manual_seed(0)
    joints = 0.1 * torch.randn(FRAMES, 21, 3, generator=rng)
    verts = 0.1 * torch.randn(FRAMES, 778, 3, generator=rng)
    torch.set_num_threads(1)
    print(f"{FRAMES} frames unless said otherwise; seconds by the clock and of the processor\n")
    for metric in POSITIONS:
        report(f"{metric.__name__}, 21 joints", lambda metric=metric: metric(joints + 0.01, joints))
    report("rte, wrists", lambda: metrics.rte(joints[:, 0] + 0.01, joints[:, 0]))
    report("pck_auc, 21 joints", lambda: metrics.pck_auc(joints + 0.01, joints, max_threshold=0.05))
    for metric in (metrics.pa_mpvpe, metrics.ga_mpjpe):
        report(f"{metric.__name__}, 778 vertices", lambda metric=metric: metric(verts + 0.01, verts))
    report("f_score, 778 vertices, 500 frames", lambda: metrics.f_score(verts[:500], verts[500:1000], threshold=0.005))

    model = load_hand_model(None)
    upright = torch.eye(3)
    hand = model(HandParams(upright[None], upright.expand(1, 15, 3, 3), torch.zeros(1, 10), torch.zeros(1, 3))).verts
    hands = hand.expand(100, -1, -1)
    faces = {"faces_a": model.faces, "faces_b": model.faces}
    report("penetration_volume, 100 frames", lambda: metrics.penetration_volume(hands, hands + 0.01, **faces))


def report(name: str, call: Callable[[], object]) -> None:
    """Print the best of three runs."""
    clock_s, processor_s = [], []
    for _ in range(3):
        start_s, start_processor_s = time.perf_counter(), time.process_time()
        call()
        clock_s.append(time.perf_counter() - start_s)
        processor_s.append(time.process_time() - start_processor_s)
    print(f"{name:36}{min(clock_s):8.3f}{min(processor_s):8.3f}")


if __name__ == "__main__":
    main()
