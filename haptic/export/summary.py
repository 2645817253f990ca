"""`summary.json`: what was found, how well it fits, which camera was assumed, what it cost and what it ran on."""

import json
import math
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import haptic
from haptic.files import atomic_write
from haptic.hand.model import HandModel, trajectory_joints
from haptic.hand.reprojection import NEAR_SHARE, measure_reprojection
from haptic.records import HandTrack, Reconstruction, Trajectory

FORMAT_VERSION = 1
REPORTED_PACKAGES = (
    "torch", "numpy", "timm", "smplx", "mediapipe", "av", "opencv-python", "embreex", "viser", "matplotlib"
)  # fmt: skip


def build_summary(
    result: Reconstruction,
    model: HandModel,
    *,
    source: str,
    intrinsics_source: str,
    seconds: Mapping[str, float],
    options: Mapping[str, Any] | None = None,
    predicted_img: Mapping[str, Tensor] | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the summary as plain values.

    Args:
        source: the video, as the user named it.
        intrinsics_source: in words, where the focal length came from.
        seconds: per stage, in the order in which they ran.
        predicted_img: per hand, where the detector's landmarks (T, 21, 2) are expected; without it the model's joints
            are compared with them.
        details: what a stage has to say, by the stage's name, e.g. refinement's before and after.
    """
    predicted_img = predicted_img or {}
    num_frames = len(result.frame_time_s)
    hands = {
        name: _hand(model, hand, result.tracks.get(name), predicted_img.get(name), num_frames)
        for name, hand in result.hands.items()
    }
    with_a_hand = {int(frame) for hand in result.hands.values() for frame in hand.frame_index}
    summary = {
        "format_version": FORMAT_VERSION,
        "video": {
            "source": source,
            "frames": num_frames,
            "duration_s": _duration_s(result),
            "fps": result.fps,
            "image_size": [result.image_width_px, result.image_height_px],
        },
        "hands_found": len(hands),
        "frames_with_a_hand": len(with_a_hand),
        "hands": hands,
        "camera": _camera(result, intrinsics_source),
        "hand_model": result.hand_model,
        "details": dict(details or {}),
        "seconds": {stage: round(float(cost), 3) for stage, cost in seconds.items()},
        "total_seconds": round(float(sum(seconds.values())), 3),
        "options": dict(options or {}),
        "versions": _versions(),
    }
    return _plain(summary)


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary as JSON that people can read."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as file:
        file.write(text.encode())


def _hand(
    model: HandModel, hand: Trajectory, track: HandTrack | None, predicted_img: Tensor | None, num_frames: int
) -> dict[str, Any]:
    frames = len(hand.frame_index)
    summary: dict[str, Any] = {
        "side": "right" if hand.is_right else "left",
        "frames": frames,
        "observed_frames": int(hand.observed.sum()),
        "filled_frames": int((~hand.observed).sum()),
        "coverage": frames / num_frames if num_frames else 0.0,
    }
    if not frames:
        return summary
    with torch.no_grad():
        wrist_cam = trajectory_joints(model, hand)[:, 0]
    depth_m = wrist_cam[:, 2]
    summary |= {
        "first_frame": int(hand.frame_index[0]),
        "last_frame": int(hand.frame_index[-1]),
        "first_time_s": float(hand.time_s[0]),
        "last_time_s": float(hand.time_s[-1]),
        "mean_confidence": float(hand.confidence.float().mean()),
        "wrist_depth_m": {
            "least": float(depth_m.min()), "median": float(depth_m.median()), "most": float(depth_m.max())
        },
        "betas": [float(value) for value in hand.params.betas[0]],
    }  # fmt: skip
    if track is not None:
        with torch.no_grad():
            summary["reprojection"] = _reprojection(model, hand, track, predicted_img)
    return summary


def _reprojection(
    model: HandModel, hand: Trajectory, track: HandTrack, predicted_img: Tensor | None
) -> dict[str, Any] | None:
    found = measure_reprojection(model, hand, track, predicted_img)
    if not found.is_known.any():
        return None
    error_px, share = found.error_px[found.is_known].double(), found.box_share[found.is_known].double()
    return {
        "compared": "joints" if predicted_img is None else "landmarks",
        "mean_px": float(error_px.mean()),
        "median_px": float(error_px.median()),
        "percentile_90_px": float(error_px.kthvalue(max(1, round(0.9 * len(error_px)))).values),
        "median_share_of_box": float(share.median()),
        "share_within_tenth_of_box": float((share <= NEAR_SHARE).double().mean()),
    }


def _camera(result: Reconstruction, intrinsics_source: str) -> dict[str, Any]:
    camera: dict[str, Any] = {"intrinsics_source": intrinsics_source}
    K = result.camera.K
    if len(K):
        focal_px = float(K[0, 0, 0])
        is_fixed = torch.equal(K, K[:1].expand_as(K))
        identity = torch.eye(4, dtype=result.camera.T_world_cam.dtype)
        camera |= {
            "K": K[0].tolist(),
            "is_fixed_K": is_fixed,
            "horizontal_fov_deg": math.degrees(2 * math.atan(result.image_width_px / 2 / focal_px)),
            "has_world": not bool((result.camera.T_world_cam == identity).all()),
        }
    return camera


def _duration_s(result: Reconstruction) -> float:
    times_s = result.frame_time_s
    if not len(times_s):
        return 0.0
    return float(times_s[-1] - times_s[0]) + (1 / result.fps if result.fps > 0 else 0.0)


def _versions() -> dict[str, str]:
    versions = {"haptic": haptic.__version__, "python": platform.python_version(), "system": platform.platform()}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    return versions


def _plain(value: Any) -> Any:
    """Turn tensors, arrays, paths and tuples into what JSON has; numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
