"""What a number means: data, boxes, joints, alignment, unit, missing frames. Its hash goes with the number.

Two numbers with one hash were measured the same way; change any field and the hash changes.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Literal

from haptic.metrics import MissingRule

# What a metric is multiplied by to come from metres (or shares) into its unit.
UNITS: dict[str, float] = {
    "mm": 1000.0, "cm": 100.0, "%": 100.0, "share": 1.0, "rte %": 1.0,
    "mm/frame2": 1000.0, "cm/frame2": 100.0, "m/s2": 1.0, "10 m/s3": 0.1, "cm3": 1e6,
}  # fmt: skip
Space = Literal["camera", "world"]
Quantity = Literal["occlusion", "crop_px", "crop_aspect", "centre_offset"]


@dataclass(frozen=True)
class Metric:
    """A function of `haptic.metrics` with its options, the unit and the head of its column.

    `pa_auc`, `pa_f_score` and `coverage` are made of several functions; `haptic.evaluation.scoring` knows them, and
    which functions are of vertices or of two hands.
    """

    function: str
    title: str
    unit: str
    space: Space = "camera"
    options: tuple[tuple[str, str | float | int | bool], ...] = ()
    uses_fps: bool = False

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"metric {self.title}: the unit is {self.unit!r}; expected one of {', '.join(UNITS)}")

    @property
    def head(self) -> str:
        """Title and unit as the column says it."""
        return f"{self.title} ({self.unit.removeprefix('rte ')})"


@dataclass(frozen=True)
class Split:
    """Some frames of a set: those whose quantity lies in [low, high)."""

    name: str
    quantity: Quantity
    low: float
    high: float


@dataclass(frozen=True)
class Protocol:
    """How one set is scored. `data_set` names the shards; `sources` are what the protocol is taken from."""

    name: str
    data_set: str
    split: str
    metrics: tuple[Metric, ...]
    hands: Literal["both", "right"] = "both"
    box_source: str = "truth: the tight box of the labelled joints"
    joints: str = "21, OpenPose order"
    cameras: str = "true K and true camera poses"
    chunk_frames: int | None = None  # None: whole tracks
    missing: MissingRule = field(default_factory=MissingRule)
    average: Literal["sequences", "frames"] = "sequences"
    splits: tuple[Split, ...] = ()
    sources: str = ""  # not part of the hash: words, no rule

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError(f"protocol {self.name}: no metrics; name at least one")
        titles = [metric.title for metric in self.metrics]
        if len(set(titles)) != len(titles):
            raise ValueError(f"protocol {self.name}: two metrics have one title among {titles}; columns go by titles")
        if self.chunk_frames is not None and self.chunk_frames < 1:
            raise ValueError(f"protocol {self.name}: chunk_frames is {self.chunk_frames}; it must be 1 or more")

    @property
    def hash(self) -> str:
        """Eight hexadecimal digits of everything that decides the number."""
        values = {name: value for name, value in asdict(self).items() if name != "sources"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]

    def describe(self) -> str:
        """Return one paragraph for below a table."""
        rule: str = self.missing.kind
        if rule == "split":
            rule += f" (runs of {self.missing.min_run_frames} frames or more)"
        chunks = "whole tracks" if self.chunk_frames is None else f"chunks of {self.chunk_frames} frames"
        metrics = "; ".join(_metric_words(metric) for metric in self.metrics)
        return (
            f"`{self.hash}` {self.name}: data {self.data_set}, split {self.split}; hands: {self.hands}; boxes: "
            f"{self.box_source}; joints: {self.joints}; cameras: {self.cameras}; {chunks}; frames without prediction: "
            f"{rule}; mean over {self.average}. {metrics}." + (f" {self.sources}" if self.sources else "")
        )


def _metric_words(metric: Metric) -> str:
    options = ", ".join(f"{name}={value}" for name, value in metric.options)
    where = "" if metric.space == "camera" else ", in the world"
    return f"{metric.title} = {metric.function}({options}){where}, {metric.unit.removeprefix('rte ')}"


# --- the columns that several papers share --------------------------------------------------------------------------

GA = Metric("ga_mpjpe", "GA", "cm", options=(("scale", True),))
FA = Metric("fa_mpjpe", "FA", "cm", options=(("first_frames", 1), ("scale", True)))
ACC_NORM = Metric(
    "acc_norm", "ACC-NORM", "cm/frame2", options=(("reading", "difference_of_norms"), ("over_joints", "l2"))
)
PA_CM = Metric("pa_mpjpe", "PA", "cm")
RA_CM = Metric("ra_mpjpe", "RA", "cm")
PA_MM = Metric("pa_mpjpe", "PA", "mm")
RA_MM = Metric("ra_mpjpe", "RA", "mm")
C_CM = Metric("c_mpjpe", "C", "cm")
C_MM = Metric("c_mpjpe", "C", "mm")
ACC_MM = Metric("acc_error", "Acc", "mm/frame2", space="world")
ACC_M_S2 = Metric("acc_error", "Acc s", "m/s2", space="world", uses_fps=True)
G_128 = Metric("g_mpjpe", "G", "mm", space="world")
GA_128 = Metric("wa_mpjpe", "GA", "mm", space="world", options=(("segment_frames", 128),))
RTE = Metric("rte", "RTE", "rte %", space="world")
JERK = Metric("jerk", "Jerk", "10 m/s3", space="world", uses_fps=True)
COVERAGE = Metric("coverage", "Coverage", "%")
PA_AUC = Metric("pa_auc", "AUC", "%", options=(("max_threshold", 0.05), ("steps", 100)))


PA_V = Metric("pa_mpvpe", "PA-V", "mm")
RA_V = Metric("ra_mpvpe", "RA-V", "mm")
F_5 = Metric("pa_f_score", "F@5", "share", options=(("threshold", 0.005),))
F_15 = Metric("pa_f_score", "F@15", "share", options=(("threshold", 0.015),))
MRRPE = Metric("mrrpe", "MRRPE", "mm")
PEN = Metric("penetration_volume", "Pen", "cm3")
ACC_CAM_M_S2 = Metric("acc_error", "Acc s", "m/s2", uses_fps=True)


def w_metrics(segment_frames: int) -> tuple[Metric, Metric]:
    """Return WA- and W-MPJPE in segments of so many frames."""
    options = (("segment_frames", segment_frames),)
    return (
        Metric("wa_mpjpe", f"WA{segment_frames}", "mm", space="world", options=options),
        Metric("w_mpjpe", f"W{segment_frames}", "mm", space="world", options=(*options, ("first_frames", 2))),
    )
