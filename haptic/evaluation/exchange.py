"""Out with the sequences for other systems, in with what they made of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from haptic.data.shards import ShardStore
from haptic.evaluation.clips import ClipPictures, EvalClip, truth_track
from haptic.evaluation.foreign import READERS, read_foreign
from haptic.evaluation.predictions import Prediction, read_prediction
from haptic.files import atomic_write
from haptic.hand.model import HandModel

MAX_NAMED = 5


def export_inputs(folder: Path, clips: Sequence[EvalClip], store: ShardStore) -> None:
    """Write, per sequence, `frames/NAME/000000.jpg`, `cameras/NAME.npz`, `boxes/NAME.json` and a list of them all.

    Cameras and boxes are in pixels of these frames, in the formats that infer.py takes (docs/detections.md). No truth
    is written but the cameras and the tight boxes, which the protocols give to every method.
    """
    index = []
    for clip in clips:
        pictures = ClipPictures(clip, store)
        frames = folder / "frames" / clip.key
        frames.mkdir(parents=True, exist_ok=True)
        first = pictures.frame(0)
        height, width = first.pixels.shape[:2]
        for frame in range(clip.info.num_frames):
            with atomic_write(frames / f"{frame:06d}.jpg") as file:
                file.write(pictures.frame_bytes(frame))
        _write_cameras(folder / "cameras" / f"{clip.key}.npz", clip, first.scale, first.offset_px)
        _write_boxes(folder / "boxes" / f"{clip.key}.json", clip, first.scale, first.offset_px, (width, height))
        index.append({
            "sequence": clip.key, "set": clip.set_name, "fps": clip.info.fps, "num_frames": clip.info.num_frames,
            "width_px": width, "height_px": height, "hands": list(clip.hands),
        })  # fmt: skip
    with atomic_write(folder / "sequences.json") as file:
        file.write(json.dumps(index, indent=1).encode())


def read_system(
    place: str,
    system: str,
    clips: Sequence[EvalClip],
    *,
    allow_missing: bool,
    hand_model: HandModel | None = None,
) -> tuple[dict[str, Prediction], list[str]]:
    """Return a system's prediction of each sequence, and lines about files that are not of this benchmark.

    `place` is a folder of plain files, `NAME.npz` or `NAME/trajectory.npz`, or FORMAT:folder with another program's.

    Raises:
        ValueError: there is no such folder, a file cannot be read, or sequences are missing and may not be.
    """
    kind, sign, rest = place.partition(":")
    is_foreign = bool(sign) and kind in READERS
    folder = Path(rest if is_foreign else place).expanduser()
    if sign and not is_foreign and not folder.is_dir():
        raise ValueError(f"--predictions {system}={place}: no such folder, and no format {kind!r}; expected one of "
                         f"{', '.join(READERS)}")  # fmt: skip
    if not folder.is_dir():
        raise ValueError(f"--predictions {system}={place}: no such folder")
    predictions: dict[str, Prediction] = {}
    missing = []
    for clip in clips:
        if is_foreign:
            found = read_foreign(kind, folder, clip, hand_model)
        else:
            path = next((one for one in _places(folder, clip.key) if one.is_file()), None)
            found = None if path is None else read_prediction(path)
        if found is None:
            missing.append(clip.key)
            found = Prediction({}, where=f"{system}, {clip.key}")
        predictions[clip.key] = found
    lines = _strangers(folder, clips, system)
    if missing:
        line = (
            f"{system}: no prediction of {len(missing)} of {len(clips)} sequences ({_named(missing)}) in {folder}; "
            f"expected {missing[0]}.npz or {missing[0]}/trajectory.npz"
        )
        if len(missing) == len(clips) or not allow_missing:
            raise ValueError(line + ("" if len(missing) == len(clips) else "; --allow-missing scores the others"))
        lines.append(line + "; their hands count as not predicted (coverage)")
    return predictions, lines


def _strangers(folder: Path, clips: Sequence[EvalClip], system: str) -> list[str]:
    known = {clip.key for clip in clips}
    found = {path.stem if path.name != "trajectory.npz" else path.parent.name
             for path in (*folder.glob("*.npz"), *folder.glob("*/trajectory.npz"))}  # fmt: skip
    strange = sorted(found - known)
    if not strange:
        return []
    return [f"{system}: {len(strange)} files are of no sequence of this benchmark ({_named(strange)}); not scored"]


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")


def _places(folder: Path, key: str) -> tuple[Path, Path]:
    return folder / f"{key}.npz", folder / key / "trajectory.npz"


def _write_cameras(path: Path, clip: EvalClip, scale: np.ndarray, offset_px: np.ndarray) -> None:
    """Write the camera of every frame; a frame without a hand has that of the nearest one with a hand."""
    K, T_world_cam = np.zeros((clip.info.num_frames, 3, 3)), np.zeros((clip.info.num_frames, 4, 4))
    known = np.zeros(clip.info.num_frames, bool)
    for name in clip.hands:
        labels = clip.labels(name)
        frames = labels.frame_index.numpy()
        K[frames], T_world_cam[frames] = labels.camera.K.numpy(), labels.camera.T_world_cam.numpy()
        known[frames] = True
    nearest = np.flatnonzero(known)[np.abs(np.arange(len(known))[:, None] - np.flatnonzero(known)).argmin(1)]
    to_picture = np.array([[scale[0], 0, offset_px[0]], [0, scale[1], offset_px[1]], [0, 0, 1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        np.savez(file, K=to_picture @ K[nearest], T_world_cam=T_world_cam[nearest])


def _write_boxes(path: Path, clip: EvalClip, scale: np.ndarray, offset_px: np.ndarray, size: tuple[int, int]) -> None:
    detections = []
    for name in clip.hands:
        track = truth_track(clip, name)
        for place, frame in enumerate(track.frame_index.tolist()):
            half = float(track.box_side_px[place]) / 2
            center = track.box_center_img[place].double().numpy()
            corners = np.stack([center - half, center + half]) * scale + offset_px
            detections.append({
                "frame_index": frame, "hand": "right" if bool(track.is_right) else "left",
                "box": [round(float(side), 3) for side in corners.ravel()], "track_id": name,
            })  # fmt: skip
    content = {"format_version": 1, "image_size": list(size), "detections": detections}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps(content).encode())
