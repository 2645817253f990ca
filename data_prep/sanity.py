"""`--check`: what the annotations say, before an hour is spent. Reads labels only, no pictures."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from data_prep.convert import readable_clips
from data_prep.dataset import DataSet, HandTruth, Source, SourceClip
from data_prep.labels import clip_hands, project_joints
from haptic.hand.joints import PARENTS_21

CHECKED_UNITS = 40
MAX_REPROJECTION_PX = 1.0
MAX_BONE_SPREAD = 0.1  # of a bone's length, over a clip; fingertips that are vertices move by 3 %
MAX_ACCELERATION = 200.0  # m/s^2; a fast strike reaches some 100
BONES = [(joint, parent) for joint, parent in enumerate(PARENTS_21) if parent >= 0]


@dataclass
class Sanity:
    """Numbers gathered from clips."""

    clips: int = 0
    frames: int = 0
    told: int = 0  # hand-frames that the set has an entry for
    kept: int = 0  # of those, usable
    sides: dict[str, int] = field(default_factory=lambda: {"right": 0, "left": 0})
    reprojection_px: list[np.ndarray] = field(default_factory=list)
    bone_spread: list[float] = field(default_factory=list)
    bone_mm: list[np.ndarray] = field(default_factory=list)
    acceleration: list[np.ndarray] = field(default_factory=list)
    depth_m: list[np.ndarray] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def add(self, clip: SourceClip) -> None:
        """Take a clip's numbers."""
        self.clips += 1
        self.frames += len(clip.pictures)
        for truth in clip.hands:
            self.told += len(truth.K)
            self._add_hand(truth, clip.fps)
        for name, labels in clip_hands(clip).items():
            self.kept += len(labels.frame_index)
            self.sides[name.split("_")[0]] += len(labels.frame_index)

    def _add_hand(self, truth: HandTruth, fps: float) -> None:
        if truth.joints_cam is None:
            return
        joints_cam = truth.joints_cam
        if truth.joints_img is not None and truth.is_placed and truth.is_camera_known:
            off = np.linalg.norm(project_joints(joints_cam, truth.K) - truth.joints_img, axis=-1)
            self.reprojection_px.append(off[np.isfinite(off)])
        bones = np.stack([np.linalg.norm(joints_cam[:, a] - joints_cam[:, b], axis=-1) for a, b in BONES], axis=-1)
        bones = bones[np.isfinite(bones).all(axis=-1)]
        self.bone_mm.append(1000 * bones.ravel())
        if len(bones) > 1:
            self.bone_spread.append(float((bones.std(axis=0) / bones.mean(axis=0).clip(1e-6)).max()))
        self.depth_m.append(joints_cam[np.isfinite(joints_cam[:, 0, 2]), 0, 2] if truth.is_placed else np.zeros(0))
        if fps > 0 and len(joints_cam) > 2 and truth.is_placed:
            wrist = joints_cam[:, 0]
            if truth.T_world_cam is not None:
                wrist = np.einsum("tab,tb->ta", truth.T_world_cam[:, :3, :3], wrist) + truth.T_world_cam[:, :3, 3]
            second = np.linalg.norm(np.diff(wrist, n=2, axis=0), axis=-1) * fps**2
            self.acceleration.append(second[np.isfinite(second)])


def check_source(data_set: DataSet, source: Source, split: str) -> tuple[list[str], list[str]]:
    """Return what was found, and what is wrong, in lines."""
    found = Sanity()
    step = max(1, len(source.units) // CHECKED_UNITS)
    looked_at = source.units[::step][:CHECKED_UNITS]
    for unit in looked_at:
        for clip in readable_clips(source, unit, found.damaged):
            found.add(clip)
    lines, faults = list(_count_lines(data_set, source, split)), []
    lines.append(
        f"looked at {len(looked_at)} of {len(source.units)} units: {found.clips} clips, {found.frames} frames, "
        f"{found.sides['right']} right and {found.sides['left']} left hands; "
        f"{1 - found.kept / max(found.told, 1):.1%} of {found.told} entries without a usable hand"
    )
    lines += list(_number_lines(found))
    faults += list(_faults(found))
    faults += [f"damaged: {text}" for text in found.damaged[:10]]
    return lines, faults


def _count_lines(data_set: DataSet, source: Source, split: str) -> Iterator[str]:
    facts = data_set.splits[split]
    is_by_unit = facts.counts in ("sequences", "files", "videos")
    here = len(source.units) if is_by_unit else sum(unit.num_counted for unit in source.units)
    if not facts.published:
        counted = facts.counts.removesuffix("s") if here == 1 else facts.counts
        yield f"{data_set.title}, {split}: {here} {counted}" + (" (no published number)" if data_set.link else "")
    else:
        verdict = "as published" if here == facts.published else f"published are {facts.published}"
        yield f"{data_set.title}, {split}: {here} {facts.counts}, {verdict}"
    if source.missing:
        yield f"missing: {len(source.missing)} parts, the first {source.missing[0]}"


def _number_lines(found: Sanity) -> Iterator[str]:
    for name, parts, unit in (
        ("2D against projected 3D", found.reprojection_px, "px"),
        ("bone length", found.bone_mm, "mm"),
        ("wrist depth", found.depth_m, "m"),
        ("wrist acceleration", found.acceleration, "m/s^2"),
    ):
        values = np.concatenate(parts) if parts else np.zeros(0)
        if len(values):
            low, middle, high, top = np.percentile(values, [0, 50, 99, 100])
            yield f"  {name:24s} least {low:.3g}, median {middle:.3g}, 99 % below {high:.3g}, most {top:.3g} {unit}"
    if found.bone_spread:
        middle, top = np.median(found.bone_spread), max(found.bone_spread)
        yield f"  bones vary over a clip by {middle:.2%} (median), {top:.2%} (most)"


def _faults(found: Sanity) -> Iterator[str]:
    if found.kept == 0:
        yield "no usable hand was found"
    off_px = np.concatenate(found.reprojection_px) if found.reprojection_px else np.zeros(0)
    if len(off_px) and np.median(off_px) > MAX_REPROJECTION_PX:
        yield (
            f"3D joints seen by the camera lie {np.median(off_px):.1f} px (median) from the 2D joints; expected below "
            f"{MAX_REPROJECTION_PX:g}: another version of annotations or calibration?"
        )
    bones = np.concatenate(found.bone_mm) if found.bone_mm else np.zeros(0)
    if len(bones) and not 5 < np.median(bones) < 80:
        yield f"bones are {np.median(bones):.3g} mm long (median); a hand's are some 30: another unit?"
    if found.bone_spread and np.median(found.bone_spread) > MAX_BONE_SPREAD:
        yield (
            f"bones change their length by {np.median(found.bone_spread):.0%} within a clip (median); expected below "
            f"{MAX_BONE_SPREAD:.0%}: are frames of several hands mixed up, or axes scaled apart?"
        )
    swift = np.concatenate(found.acceleration) if found.acceleration else np.zeros(0)
    if len(swift) and np.percentile(swift, 99) > MAX_ACCELERATION:
        yield f"1 % of the wrists accelerate by more than {np.percentile(swift, 99):.0f} m/s^2; a hand stays below 100"
