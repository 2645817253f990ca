"""MTC (Xiang et al., CVPR 2019): both hands in the Panoptic dome, 31 HD cameras, 3D joints in centimetres."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset import DataSet, HandTruth, Request, Source, SourceClip, Split
from data_prep.pictures import PictureFiles, Undistorted
from data_prep.single_images import one_frame, picture_source
from haptic.files import load_plain_pickle

WIDTH_PX, HEIGHT_PX = 1920, 1080
CM_PER_M = 100.0
SPLITS = {"training": "training_data", "testing": "testing_data"}
KEPT_MAPS = 4  # 12 MB each

# A frame's place in the list, and a camera.
View = tuple[int, int]


def usable_cameras(hand: Mapping[str, Any] | None) -> set[int]:
    """Return the cameras that see a hand whole, as the authors choose: all joints inside, none hidden, no overlap."""
    if hand is None:
        return set()
    return {int(camera) for camera, seen in hand["2D"].items() if _is_seen_whole(seen)}


def hand_in_view(landmarks: Sequence[float], camera: Mapping[str, Any], *, is_right: bool) -> HandTruth:
    """Return a hand as a camera sees it once its picture is undistorted. Landmarks are world centimetres."""
    R, t = np.asarray(camera["R"], np.float64), np.asarray(camera["t"], np.float64).reshape(3)
    joints_cam = (np.asarray(landmarks, np.float64).reshape(21, 3) @ R.T + t) / CM_PER_M
    T_world_cam = np.eye(4)
    T_world_cam[:3, :3], T_world_cam[:3, 3] = R.T, -R.T @ t / CM_PER_M
    return one_frame(
        is_right=is_right, K=np.asarray(camera["K"], np.float64), width_px=WIDTH_PX, height_px=HEIGHT_PX,
        joints_cam=joints_cam, joints_visible=np.ones(21, np.int64), T_world_cam=T_world_cam,
    )  # fmt: skip


def open_mtc(request: Request) -> Source:
    """List the pictures in which at least one hand is seen whole."""
    annotation = load_plain_pickle(request.root / "annotation.pkl")
    cameras = load_plain_pickle(request.root / "camera_data.pkl")
    try:
        frames = annotation[SPLITS[request.split]]
        views = _listed_views(frames, cameras)
    except (KeyError, TypeError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{request.root}/annotation.pkl: not MTC's annotation ({what})") from None
    there, missing = _present(request.root, frames, views)

    def count(view: View) -> int:
        return sum(view[1] in usable_cameras(frames[view[0]].get(name)) for name in ("right_hand", "left_hand"))

    make = clip_maker(request.root, frames, cameras)
    return picture_source(there, make, num_hands=count, num_counted=count, missing=missing)


def clip_maker(
    root: Path, frames: Sequence[Mapping[str, Any]], cameras: Mapping[str, Any]
) -> Callable[[View], SourceClip]:
    """Return the function from a view to its clip."""

    @lru_cache(maxsize=KEPT_MAPS)
    def lens(sequence: str, number: int) -> Undistorted:
        K, distortion = (np.asarray(_camera(cameras, sequence, number)[name], np.float64) for name in ("K", "distCoef"))
        return Undistorted(K, distortion.reshape(-1), width_px=WIDTH_PX, height_px=HEIGHT_PX)

    def make(view: View) -> SourceClip:
        frame, number = frames[view[0]], view[1]
        sequence = frame["seqName"]
        camera = _camera(cameras, sequence, number)
        hands = [
            hand_in_view(frame[name]["landmarks"], camera, is_right=name == "right_hand")
            for name in ("right_hand", "left_hand")
            if number in usable_cameras(frame.get(name))
        ]
        path = picture_path(root, frame, number)
        return SourceClip(
            key=f"{sequence}-{frame['frame_str']}-{frame.get('id', 0)}-{number:02d}",
            pictures=PictureFiles([path], prepare=lambda image: lens(sequence, number)(image)),
            hands=hands, width_px=WIDTH_PX, height_px=HEIGHT_PX, fps=0.0,
            source=f"{path.relative_to(root)}, person {frame.get('id', 0)}",
        )  # fmt: skip

    return make


def picture_path(root: Path, frame: Mapping[str, Any], camera: int) -> Path:
    """Return where a camera's picture of a frame lies."""
    name = f"00_{camera:02d}_{frame['frame_str']}.jpg"
    return root / "hdImgs" / frame["seqName"] / frame["frame_str"] / name


def _is_seen_whole(seen: Mapping[str, Any]) -> bool:
    inside, hidden, overlap = (np.asarray(seen[name]).astype(bool) for name in ("insideImg", "occluded", "overlap"))
    return bool(inside.all()) and not hidden.any() and not overlap.any()


def _camera(cameras: Mapping[str, Any], sequence: str, number: int) -> Mapping[str, Any]:
    of_sequence = cameras[sequence]
    return of_sequence[number if not isinstance(of_sequence, Mapping) or number in of_sequence else str(number)]


def _listed_views(frames: Sequence[Mapping[str, Any]], cameras: Mapping[str, Any]) -> list[View]:
    """Return the views with a hand, those of one camera together: its map is then made once."""
    views = []
    for place, frame in enumerate(frames):
        seeing = usable_cameras(frame.get("left_hand")) | usable_cameras(frame.get("right_hand"))
        views += [(frame["seqName"], number, place) for number in seeing]
        if frame["seqName"] not in cameras:
            raise KeyError(f"camera_data.pkl has no {frame['seqName']}")
    return [(place, number) for _sequence, number, place in sorted(views)]


def _present(root: Path, frames: Sequence[Mapping[str, Any]], views: list[View]) -> tuple[list[View], tuple[str, ...]]:
    """Return the views whose picture is there. The published set lacks some pictures; a missing sequence is named."""
    sequences = sorted({frames[place]["seqName"] for place, _number in views})
    missing = tuple(f"hdImgs/{name}" for name in sequences if not (root / "hdImgs" / name).is_dir())
    return [view for view in views if picture_path(root, frames[view[0]], view[1]).is_file()], missing


DATA_SETS = (
    DataSet(
        name="mtc",
        title="MTC (Panoptic Studio, Monocular Total Capture)",
        licence="research only (CMU Panoptic Studio)",
        link="http://domedb.perception.cs.cmu.edu/monototalcapture.html",
        splits={"training": Split(0, "hands"), "testing": Split(0, "hands")},
        layout=("annotation.pkl", "camera_data.pkl", "hdImgs/*"),
        open=open_mtc,
        is_video=False,
    ),
)
