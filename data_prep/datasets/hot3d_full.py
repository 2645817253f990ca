"""HOT3D, the full release (Banerjee et al. 2024): whole recordings of Aria and Quest 3, pictures in VRS files.

Hands and headset are told at the times of every camera's pictures (Aria's colour and grey cameras are not in step):
they are matched by time, not by row. Frames without a good truth are masked. Test participants have none and are left
out.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import read_json, read_lines, read_table, vector
from data_prep.dataset import DamagedError, DataSet, Request, Source, SourceClip, Split, Unit, taking_apart
from data_prep.headsets import (
    COLOR,
    FPS,
    MIN_VISIBLE,
    PCA,
    STREAMS,
    HeadsetPictures,
    HeadsetView,
    quaternion_aa,
    quaternion_pose,
)
from data_prep.vrs import open_recording

SIDES = {"right": "1", "left": "0"}
MASKS = ("mask_qa_pass", "mask_hand_pose_available", "mask_headset_pose_available", "mask_good_exposure")
TEST_PARTICIPANTS = ("P0004", "P0005", "P0006", "P0008", "P0016", "P0020")
MAX_OFF_NS = 1_000_000  # of a pose from a picture's time
GAP = 1.5  # of the usual step between pictures: there a clip is cut
HEADSETS = {"train_aria": "Aria", "train_quest3": "Quest3", "hawor_aria": "Aria"}
# The 27 recordings on which HaWoR and those after it report, and the first frame that counts: before it truth settles.
HAWOR_START = 20
HAWOR = (
    "P0001_a68492d5", "P0001_9b6feab7", "P0014_8254f925", "P0011_76ea6d47", "P0014_84ea2dcc",
    "P0001_8d136980", "P0012_476bae57", "P0012_130a66e1", "P0014_24cb3bf0", "P0010_1c9fe708",
    "P0002_2ea9af5b", "P0011_11475e24", "P0010_0ecbf39f", "P0010_160e551c", "P0015_42b8b389",
    "P0012_915e71c6", "P0002_65085bfc", "P0011_47878e48", "P0011_cee8fe4f", "P0002_016222d1",
    "P0012_d85e10f6", "P0012_119de519", "P0010_41c4c626", "P0012_f7e3880b", "P0009_02511c2f",
    "P0011_72efb935", "P0010_924e574e",
)  # fmt: skip
TRAJECTORY = "headset_trajectory.csv"
NEEDED = ("mano_hand_pose_trajectory.jsonl", TRAJECTORY, "recording.vrs")


def open_full(request: Request) -> Source:
    """List the recordings of a headset that have truth."""
    units, missing = [], []
    found = {path.parent.name: path for path in sorted(request.root.glob("P*_*/metadata.json"))}
    if request.split.startswith("hawor"):
        missing += [name for name in HAWOR if name not in found]
        found = {name: found[name] for name in HAWOR if name in found}
    for name, path in found.items():
        facts = read_json(path)
        if facts.get("headset") != HEADSETS[request.split] or facts.get("participant_id") in TEST_PARTICIPANTS:
            continue
        if not facts.get("gt_available_status", {}).get("mano_hand_pose_gt", False):
            continue
        wanted = NEEDED if facts["headset"] == "Aria" else (*NEEDED, "camera_models.json")
        lacking = [f"{name}/{file}" for file in wanted if not (path.parent / file).is_file()]
        missing += lacking
        if not lacking:
            count = sum(len(times) for times in _streams(request, path.parent).values())
            units.append(Unit(name, 2 * count, 1))
    return Source(units, lambda unit: _clips(request, request.root / unit.name), missing)


def _streams(request: Request, folder: Path) -> dict[str, dict[int, bool]]:
    """Return the wanted cameras, and for each the times of its pictures and whether all is well there."""
    masks = [_mask(folder / "masks" / f"{name}.csv") for name in MASKS]
    masks = [mask for mask in masks if mask]
    if not masks:
        raise DamagedError(f"{folder / 'masks'}: none of {', '.join(MASKS)}; they tell the pictures' times")
    there = list(masks[0])
    if "streams" in request.options:
        wanted = [stream for stream in request.options["streams"].split(",") if stream in there]
    else:
        wanted = [COLOR] if COLOR in there else [stream for stream in STREAMS if stream in there]
    return {
        stream: {time: all(mask.get(stream, {}).get(time, False) for mask in masks) for time in masks[0][stream]}
        for stream in wanted
    }


def _mask(path: Path) -> dict[str, dict[int, bool]]:
    found: dict[str, dict[int, bool]] = {}
    for row in read_table(path, "stream_id", "timestamp[ns]", "mask") if path.is_file() else ():
        found.setdefault(row["stream_id"], {})[int(row["timestamp[ns]"])] = row["mask"].strip().lower() == "true"
    return found


def _clips(request: Request, folder: Path) -> Iterator[SourceClip]:
    """Give a clip for each camera, cut where pictures are missing."""
    assert request.mano is not None, "asked for by DataSet.mano"
    recording = open_recording(folder, is_aria=HEADSETS[request.split] == "Aria")
    poses, hands = _headset(folder / TRAJECTORY), _hands(folder / "mano_hand_pose_trajectory.jsonl")
    seen = _visibility(folder / "box2d_hands.csv")
    for stream, is_good in _streams(request, folder).items():
        times_ns = np.array(sorted(is_good))[HAWOR_START if request.split.startswith("hawor") else 0 :]
        steps = np.diff(times_ns)
        cuts = (np.flatnonzero(steps > GAP * np.median(steps)) + 1).tolist() if len(steps) else []
        lens, T_device_cam = recording.lens(stream)
        for start, stop in zip([0, *cuts], [*cuts, len(times_ns)], strict=True):
            part = times_ns[start:stop]
            T_world_device = [poses.nearest(time) for time in part]
            is_placed = [pose is not None for pose in T_world_device]
            lost = sum(is_good[time] and not placed for time, placed in zip(part.tolist(), is_placed, strict=True))
            T_world_cam = np.stack([(np.eye(4) if pose is None else pose) @ T_device_cam for pose in T_world_device])
            view = HeadsetView(lens, T_world_cam, is_sideways=stream == COLOR)
            truths = []
            for side, number in SIDES.items():
                rows = np.full((len(part), PCA + 6), np.nan)
                betas = np.zeros((len(part), 10))
                for row, time in enumerate(part.tolist()):
                    hand = (hands.nearest(time) or {}).get(number)
                    is_seen = seen is None or seen.get((stream, number, time), 0.0) >= MIN_VISIBLE
                    if hand is not None and is_good[time] and is_placed[row] and is_seen:
                        rows[row], betas[row] = _numbers(hand, f"{folder.name}, {time}, {side}")
                truths.append(view.hand(request.mano, side, rows, betas))
            yield SourceClip(
                key=f"{folder.name}_{stream}" + (f"_{start}" if start else ""),
                pictures=HeadsetPictures(_reader(recording, stream, part.tolist()), view),
                hands=truths,
                width_px=view.width_px,
                height_px=view.height_px,
                fps=FPS,
                source=f"{folder.name}, {stream}",
                damaged=[f"{folder}/{TRAJECTORY}: no pose for {lost} pictures of {stream}"] if lost else [],
            )


def _reader(recording: Any, stream: str, times_ns: list[int]) -> Any:
    return lambda frame: recording.read(stream, times_ns[frame])


def _numbers(hand: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a row as `HeadsetView.hand` takes it, and the shape."""
    wrist = hand.get("wrist_xform") or {}
    rotation = quaternion_aa(vector(wrist, "q_wxyz", (4,), where=where))
    parts = [vector(hand, "pose", (PCA,), where=where), rotation, vector(wrist, "t_xyz", (3,), where=where)]
    return np.concatenate(parts), vector(hand, "betas", (10,), where=where)


class _ByTime:
    """Records by their times; the nearest within a millisecond is meant."""

    def __init__(self, records: dict[int, Any]) -> None:
        self._times_ns = np.array(sorted(records), np.int64)
        self._records = records

    def nearest(self, time_ns: int) -> Any:
        """Return the record of a time, or None."""
        if not len(self._times_ns):
            return None
        found = int(self._times_ns[np.abs(self._times_ns - time_ns).argmin()])
        return self._records[found] if abs(found - time_ns) <= MAX_OFF_NS else None


def _headset(path: Path) -> _ByTime:
    """Return world from device."""
    poses = {}
    with taking_apart(path, "not the headset's trajectory"):
        columns = (*(f"t_wo_{axis}[m]" for axis in "xyz"), *(f"q_wo_{axis}" for axis in "wxyz"))
        for row in read_table(path, "timestamp[ns]", *columns):
            place = [float(row[f"t_wo_{axis}[m]"]) for axis in "xyz"]
            turn = [float(row[f"q_wo_{axis}"]) for axis in "wxyz"]
            poses[int(row["timestamp[ns]"])] = quaternion_pose(np.array(turn), np.array(place))
    return _ByTime(poses)


def _hands(path: Path) -> _ByTime:
    """Return hands by number ("0": left, "1": right)."""
    hands = {}
    with taking_apart(path, "not a list of hands"):
        for line in read_lines(path):
            record = json.loads(line)
            hands[int(record["timestamp_ns"])] = record["hand_poses"]
    return _ByTime(hands)


def _visibility(path: Path) -> dict[tuple[str, str, int], float] | None:
    """Return how much of a hand is seen (0 to 1, whatever the column's name says), by camera, hand and time."""
    if not path.is_file():
        return None
    with taking_apart(path, "not the boxes of hands"):
        return {
            (row["stream_id"], row["hand_index"], int(row["timestamp[ns]"])): float(row["visibility_ratio[%]"])
            for row in read_table(path, "stream_id", "hand_index", "timestamp[ns]", "visibility_ratio[%]")
        }


DATA_SETS = (
    DataSet(
        name="hot3d",
        title="HOT3D (full recordings)",
        licence="HOT3D licence (its MANO numbers: MANO licence)",
        link="https://github.com/facebookresearch/hot3d",
        splits={"train_aria": Split(), "train_quest3": Split(), "hawor_aria": Split(27, "sequences")},
        layout=("P*_*/metadata.json", "P*_*/mano_hand_pose_trajectory.jsonl"),
        open=open_full,
        mano="needed",
        needs_left_mano=True,
        options={"streams": "comma-separated; default 214-1 of Aria, 1201-1 and 1201-2 of Quest 3"},
    ),
)
