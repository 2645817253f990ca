"""2D joints of a video in COCO's JSON, read and written: hands as labelling tools and 2D detectors give them.

    python -m data_prep.own_coco results/kitchen/trajectory.npz --out VIDEOS/kitchen.json

writes what `infer.py` found as such a file, to be corrected in a tool for COCO keypoints. docs/finetune.md says
precisely what is accepted.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from haptic.export.npz import read_npz
from haptic.files import atomic_write
from haptic.geometry.cameras import project
from haptic.hand.model import load_hand_model, trajectory_joints

NUM_JOINTS = 21
SIDES = ("right", "left")
WHOLE_BODY_POINTS = 133  # COCO-WholeBody in one list: body, feet, face, left hand, right hand
WHOLE_BODY_HANDS = {"left": slice(91, 112), "right": slice(112, 133)}
PERSON_FIELDS = {"left": "lefthand", "right": "righthand"}
# What the names of the fingers' tips hold in OpenPose order, where a category names its keypoints.
TIPS = {4: ("thumb",), 8: ("index", "fore"), 12: ("middle",), 16: ("ring",), 20: ("little", "pinky")}
LAST_NUMBER = re.compile(r"(\d+)\D*$")
NAMES = (
    "wrist",
    *(f"{finger}{joint}" for finger in ("thumb", "index", "middle", "ring", "little") for joint in range(1, 5)),
)
SKELETON = [[1 if joint % 4 == 1 else joint, joint + 1] for joint in range(1, NUM_JOINTS)]  # counted from 1


@dataclass(frozen=True)
class OwnHand:
    """One hand over the T frames of a video, as it was labelled; NaN and weight 0 where nothing is said."""

    is_right: bool
    joints_img: Float[np.ndarray, "T 21 2"]
    joints_img_weight: Float[np.ndarray, "T 21"]
    joints_visible: Int[np.ndarray, "T 21"]  # 1 seen, 0 hidden, -1 not known
    joints_cam: Float[np.ndarray, "T 21 3"]
    box_xyxy: Float[np.ndarray, "T 4"]


@dataclass(frozen=True)
class _Entry:
    """One hand in one frame."""

    frame: int
    side: str
    track: str
    where: str
    points: Float[np.ndarray, "21 3"]  # x, y, v
    joints_cam: Float[np.ndarray, "21 3"]
    box_xyxy: Float[np.ndarray, " 4"]


def read_coco(path: Path, *, width: int, height: int, num_frames: int, first_number: int = 0) -> list[OwnHand]:
    """Read the hands of a video of this size and number of frames.

    Args:
        first_number: the number that the first frame has in file names.

    Raises:
        ValueError: it is not as documented; the message names file, annotation and field.
    """
    content = _load(path)
    frames = _frames(content, path, width=width, height=height, num_frames=num_frames, first_number=first_number)
    categories = _categories(content, path)
    entries = [
        entry
        for number, annotation in enumerate(_objects(content, "annotations", path))
        for entry in _entries(annotation, frames, categories, f"{path}: annotations[{number}]")
    ]
    if not entries:
        raise ValueError(f"{path}: no hand has a known keypoint; expected annotations with 21 keypoints x, y, v")
    weigh = _meaning_of_v(entries)
    tracks: dict[tuple[str, str], list[_Entry]] = {}
    for entry in entries:
        tracks.setdefault((entry.track, entry.side), []).append(entry)
    return [_own_hand(track, side == "right", num_frames, weigh) for (_name, side), track in sorted(tracks.items())]


def is_coco(path: Path) -> bool:
    """Say whether a JSON file is in COCO's format rather than that of docs/detections.md."""
    return "annotations" in _load(path)


def write_coco(
    path: Path,
    hands: Mapping[str, OwnHand],
    *,
    width: int,
    height: int,
    num_frames: int,
    with_joints_cam: bool = False,
) -> None:
    """Write labels as `read_coco` reads them; hands by track name, frames named as ffmpeg numbers them from 0."""
    images = [
        {"id": frame, "frame_index": frame, "file_name": f"{path.stem}/{frame:06d}.jpg", "width": width,
         "height": height}
        for frame in range(num_frames)
    ]  # fmt: skip
    annotations: list[dict[str, Any]] = []
    for name, hand in hands.items():
        for frame in np.flatnonzero((hand.joints_img_weight > 0).any(axis=1)).tolist():
            annotations.append(_annotation(len(annotations), name, hand, frame, with_joints_cam=with_joints_cam))
    categories = [
        {"id": number, "name": f"{side}_hand", "supercategory": "hand", "keypoints": list(NAMES), "skeleton": SKELETON}
        for number, side in enumerate(SIDES, start=1)
    ]
    with atomic_write(path) as file:
        file.write(json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode())


def _annotation(number: int, name: str, hand: OwnHand, frame: int, *, with_joints_cam: bool) -> dict[str, Any]:
    known = hand.joints_img_weight[frame] > 0
    v = np.where(known, np.where(hand.joints_visible[frame] == 0, 1, 2), 0)
    xy = np.where(known[:, None], hand.joints_img[frame], 0.0)
    low, high = xy[known].min(axis=0), xy[known].max(axis=0)
    annotation: dict[str, Any] = {
        "id": number, "image_id": frame, "category_id": 1 if hand.is_right else 2, "track_id": name, "iscrowd": 0,
        "keypoints": [value for (x, y), seen in zip(xy.tolist(), v.tolist(), strict=True)
                      for value in (round(x, 2), round(y, 2), seen)],
        "num_keypoints": int(known.sum()),
        "bbox": [round(float(value), 2) for value in (*low, *(high - low))],
        "area": round(float(np.prod(high - low)), 2),
    }  # fmt: skip
    if with_joints_cam:
        annotation["joints_cam"] = [
            [round(value, 5) for value in joint] if np.isfinite(joint).all() else None
            for joint in hand.joints_cam[frame].tolist()
        ]
    return annotation


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); expected COCO's format, docs/finetune.md") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; expected an object with images and annotations")
    return content


def _objects(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    values = content.get(name)
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise ValueError(f"{path}: {name} is {type(values).__name__}; expected a list of objects, as COCO has it")
    return values


def _frames(
    content: dict[str, Any], path: Path, *, width: int, height: int, num_frames: int, first_number: int
) -> dict[Any, int]:
    """Return the video's frame of each image id."""
    frames: dict[Any, int] = {}
    for number, image in enumerate(_objects(content, "images", path)):
        where = f"{path}: images[{number}]"
        if not isinstance(image.get("id"), int | str) or image["id"] in frames:
            raise ValueError(f"{where}: id is {image.get('id')!r}; expected a number of its own for each image")
        size = [image.get("width", width), image.get("height", height)]
        if size != [width, height]:
            raise ValueError(
                f"{where}: of {size[0]} x {size[1]} pixels, but the video has {width} x {height}; expected keypoints "
                "in the video's pixels; scale them, and width and height"
            )
        frame, hint = _frame_of(image, where, first_number)
        if not 0 <= frame < num_frames:
            raise ValueError(f"{where}: frame {frame}, but the video has frames 0 to {num_frames - 1}; {hint}")
        frames[image["id"]] = frame
    taken = list(frames.values())
    if len(set(taken)) < len(taken):
        twice = next(frame for frame in taken if taken.count(frame) > 1)
        raise ValueError(f"{path}: two images are frame {twice}; expected one image for each frame of one video")
    return frames


def _frame_of(image: dict[str, Any], where: str, first_number: int) -> tuple[int, str]:
    """Return the frame, and what to do if there is no such frame."""
    for name in ("frame_index", "frame_id"):
        if name in image:
            value = image[name]
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{where}: {name} is {value!r}; expected a whole number, 0 for the first frame")
            return value, f"{name} counts from 0"
    file_name = image.get("file_name")
    found = LAST_NUMBER.search(Path(file_name).stem) if isinstance(file_name, str) else None
    if found is None:
        raise ValueError(
            f"{where}: neither frame_index nor a number at the end of file_name ({file_name!r}) says which frame it is"
        )
    hint = f"the first frame has the number {first_number} in file names; say another with --option first_frame=NUMBER"
    return int(found[1]) - first_number, hint


def _categories(content: dict[str, Any], path: Path) -> dict[Any, str]:
    """Return the side of each category that tells one."""
    sides: dict[Any, str] = {}
    if "categories" not in content:
        return sides
    for number, category in enumerate(_objects(content, "categories", path)):
        names = category.get("keypoints")
        if isinstance(names, list) and len(names) == NUM_JOINTS and all(isinstance(name, str) for name in names):
            for place, words in TIPS.items():
                if not any(word in names[place].lower() for word in words):
                    raise ValueError(
                        f"{path}: categories[{number}] has {names[place]!r} for keypoint {place}; expected OpenPose "
                        "order: wrist, then thumb, index, middle, ring, little finger, each from palm to tip"
                    )
        name = str(category.get("name", "")).lower()
        told = [side for side in SIDES if side in name]
        if len(told) == 1:
            sides[category.get("id")] = told[0]
    return sides


def _entries(
    annotation: dict[str, Any], frames: dict[Any, int], categories: dict[Any, str], where: str
) -> list[_Entry]:
    """Return the hands of an annotation: one of a hand has one, one of a person up to two."""
    image_id = annotation.get("image_id")
    if not isinstance(image_id, int | str) or image_id not in frames:
        raise ValueError(f"{where}: image_id is {image_id!r}, which is no id in images")
    frame = frames[image_id]
    where = f"{where} (frame {frame})"
    attributes = annotation.get("attributes")
    track = annotation.get("track_id", attributes.get("track_id") if isinstance(attributes, dict) else None)
    if isinstance(track, bool) or not isinstance(track, int | str | None):
        raise ValueError(f"{where}: track_id is {track!r}; expected a string or a whole number")
    name = "" if track is None else str(track)
    found: list[_Entry] = []
    for side, points, field, prefix in _hand_points(annotation, categories, where):
        read = _points(points, f"{where}: {field}")
        if (read[:, 2] > 0).any():
            joints_cam = _joints_cam(annotation.get(f"{prefix}joints_cam"), f"{where}: {prefix}joints_cam")
            box = _box(annotation.get(f"{prefix}box" if prefix else "bbox"), where)
            found.append(_Entry(frame, side, name, where, read, joints_cam, box))
    return found


def _hand_points(annotation: dict[str, Any], categories: dict[Any, str], where: str) -> list[tuple[str, Any, str, str]]:
    """Return side, numbers, the field they are from, and what the hand's other fields begin with."""
    people = [(side, f"{prefix}_kpts", f"{prefix}_") for side, prefix in PERSON_FIELDS.items()]
    if any(field in annotation for _side, field, _prefix in people):
        return [
            (side, annotation[field], field, prefix)
            for side, field, prefix in people
            if annotation.get(field) is not None and annotation.get(f"{prefix}valid", True)
        ]
    points = annotation.get("keypoints")
    if isinstance(points, list) and len(points) == 3 * WHOLE_BODY_POINTS:
        return [
            (side, points[3 * part.start : 3 * part.stop], "keypoints", f"{PERSON_FIELDS[side]}_")
            for side, part in WHOLE_BODY_HANDS.items()
        ]
    if not isinstance(points, list) or len(points) != 3 * NUM_JOINTS:
        told = "is missing" if points is None else f"has {len(points) if isinstance(points, list) else 'no'} numbers"
        raise ValueError(
            f"{where}: keypoints {told}; expected 63 (21 times x, y, v), 399 of COCO-WholeBody, or lefthand_kpts and "
            "righthand_kpts"
        )
    side = annotation.get("hand", categories.get(annotation.get("category_id")))
    if side not in SIDES:
        raise ValueError(
            f'{where}: hand is {side!r}; expected "hand": "right" or "left", or a category whose name holds one of '
            "these words"
        )
    return [(side, points, "keypoints", "")]


def _points(values: Any, where: str) -> Float[np.ndarray, "21 3"]:
    points = _numbers(values, where, (3 * NUM_JOINTS,), "63 finite numbers, 21 times x, y, v").reshape(NUM_JOINTS, 3)
    v = points[:, 2]
    if not ((v >= 0) & ((v <= 1) | (v == 2))).all():
        wrong = float(v[~((v >= 0) & ((v <= 1) | (v == 2)))][0])
        raise ValueError(
            f"{where} has v = {wrong:g}; expected 0 (not labelled), 1 (hidden), 2 (seen), or confidences from 0 to 1"
        )
    known = points[v > 0, :2]
    if len(known) > 1 and np.ptp(known, axis=0).max() < 1:
        raise ValueError(f"{where} all lie in one pixel; expected x and y in pixels of the video")
    return points


def _joints_cam(values: Any, where: str) -> Float[np.ndarray, "21 3"]:
    unknown = [np.nan] * 3
    if values is None:
        return np.full((NUM_JOINTS, 3), np.nan)
    if not isinstance(values, list) or len(values) != NUM_JOINTS:
        raise ValueError(f"{where}: expected 21 times [x, y, z] in metres, or null where a joint is not known")
    told = [value for value in values if value is not None]
    _numbers(told, where, (len(told), 3), "[x, y, z] in metres for each joint, or null")
    return np.array([unknown if value is None else value for value in values], np.float64)


def _box(values: Any, where: str) -> Float[np.ndarray, " 4"]:
    """Return a box left, top, width, height as corners; NaN where there is none (COCO's tools write zeros then)."""
    if values is None or values == []:
        return np.full(4, np.nan)
    left, top, width, height = _numbers(values, f"{where}: bbox", (4,), "left, top, width, height").tolist()
    return np.array([left, top, left + width, top + height]) if min(width, height) > 0 else np.full(4, np.nan)


def _numbers(values: Any, where: str, shape: tuple[int, ...], expected: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        is_fine = array.dtype.kind in "fiu" and array.shape == shape and bool(np.isfinite(array).all())
    except ValueError:  # ragged
        is_fine = False
    if not is_fine and (shape[0] or values):
        raise ValueError(f"{where}: expected {expected}")
    return np.asarray(values, np.float64)


def _meaning_of_v(entries: Sequence[_Entry]) -> Any:
    """Return what makes weights and visibility of v: COCO's 0, 1, 2 in a file with a 2 in it, else confidences."""
    everything = np.concatenate([entry.points[:, 2] for entry in entries])
    is_graded = bool((everything == 2).any())
    fractions = (everything != np.round(everything)).any()
    if is_graded and fractions:
        blamed = next(one for one in entries if (one.points[:, 2] != np.round(one.points[:, 2])).any())
        raise ValueError(
            f"{blamed.where}: v is a confidence here, but 2 (seen) elsewhere in the file; expected one or the other"
        )

    def weigh(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if is_graded:
            return (v > 0).astype(np.float64), np.where(v > 0, (v == 2).astype(np.int64), -1)
        return v, np.full(v.shape, -1, np.int64)

    return weigh


def _own_hand(track: Sequence[_Entry], is_right: bool, num_frames: int, weigh: Any) -> OwnHand:
    hand = OwnHand(
        is_right=is_right,
        joints_img=np.full((num_frames, NUM_JOINTS, 2), np.nan),
        joints_img_weight=np.zeros((num_frames, NUM_JOINTS)),
        joints_visible=np.full((num_frames, NUM_JOINTS), -1, np.int64),
        joints_cam=np.full((num_frames, NUM_JOINTS, 3), np.nan),
        box_xyxy=np.full((num_frames, 4), np.nan),
    )
    for entry in track:
        frame = entry.frame
        if (hand.joints_img_weight[frame] > 0).any():
            side = "right" if is_right else "left"
            what = f"of the track {entry.track!r}" if entry.track else "without a track_id"
            raise ValueError(f"{entry.where}: a second {side} hand {what} in this frame; give each hand its track_id")
        weight, visible = weigh(entry.points[:, 2])
        hand.joints_img_weight[frame], hand.joints_visible[frame] = weight, visible
        hand.joints_img[frame] = np.where(weight[:, None] > 0, entry.points[:, :2], np.nan)
        hand.joints_cam[frame], hand.box_xyxy[frame] = entry.joints_cam, entry.box_xyxy
    return hand


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the 2D joints of a trajectory as COCO's JSON; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.own_coco", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trajectory", type=Path, help="trajectory.npz that infer.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file, named as the video: kitchen.json")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th frame")
    parser.add_argument("--hand-model", type=Path, help="the MANO_RIGHT.pkl the trajectory was made with")
    options = parser.parse_args(arguments)
    try:
        if options.every < 1:
            raise ValueError(f"--every {options.every}: expected 1 or more")
        result = read_npz(options.trajectory)
        model = load_hand_model(options.hand_model)
        if model.name != result.hand_model:
            raise ValueError(
                f"{options.trajectory}: made with the hand model {result.hand_model}; name its file with --hand-model"
            )
        num_frames = len(result.frame_time_s)
        hands = {}
        for name, trajectory in result.hands.items():
            joints_img = np.full((num_frames, NUM_JOINTS, 2), np.nan)
            rows = (trajectory.observed & (trajectory.frame_index % options.every == 0)).numpy()
            projected = project(trajectory_joints(model, trajectory), trajectory.camera.K).detach().numpy()
            joints_img[trajectory.frame_index.numpy()[rows]] = projected[rows]
            known = np.isfinite(joints_img).all(axis=-1)
            hands[name] = OwnHand(
                is_right=bool(trajectory.is_right),
                joints_img=joints_img,
                joints_img_weight=known.astype(np.float64),
                joints_visible=np.where(known, 1, -1),
                joints_cam=np.full((num_frames, NUM_JOINTS, 3), np.nan),
                box_xyxy=np.full((num_frames, 4), np.nan),
            )
        write_coco(
            options.out, hands, width=result.image_width_px, height=result.image_height_px, num_frames=num_frames
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    found = sum(int((hand.joints_img_weight > 0).any(axis=1).sum()) for hand in hands.values())
    print(f"{options.out}: {found} hands in {num_frames} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
