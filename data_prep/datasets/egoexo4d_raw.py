"""Ego-Exo4D hand pose (Grauman et al. 2024) from the raw download, without its preparation having been run.

Joints are world points that several views agreed on, named one by one; they are filtered as the official preparation
filters them (`data_prep.egoexo_hands`). Pictures are the prepared ones where they are there, else frames of the head
camera's film, straightened with the calibration. About a frame per second: single pictures.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.arrays import read_json, vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Pictures, Request, Source, SourceClip, Split, Unit
from data_prep.egoexo_hands import MIN_JOINTS, believed, hand_points, possible_joints
from data_prep.fisheye import Fisheye624
from data_prep.frames import pinhole
from data_prep.pictures import FilmFrames, PictureFiles

SIDE_PX, FOCAL_PX = 512, 150.0  # of the straightened pictures
LENS_PX = 1408  # of the film, and of the calibration as the official preparation writes it
KINDS = {"manual": "annotation", "automatic": "automatic"}
SIDES = ("right", "left")
COLOR = "camera-rgb"


def open_raw(request: Request) -> Source:
    """List the takes of a split."""
    kind = request.options.get("annotation", "manual")
    if kind not in KINDS:
        raise ValueError(f"--option annotation={kind}: expected manual or automatic")
    hands, cameras = _folders(request, KINDS[kind])
    takes = {take["take_uid"]: take for take in read_json(request.root / "takes.json")}
    units, missing = [], []
    for path in _listed(request, hands):
        take = takes.get(path.stem)
        lacking = [] if take else [f"{path.stem} in takes.json"]
        if not (cameras / path.name).is_file():
            lacking.append(f"{(cameras / path.name).relative_to(request.root)}")
        if take and _pictures_of(request, take) is None:
            lacking.append(f"image/undistorted/{request.split}/{take['root_dir']} (or its film and calibration)")
        missing += lacking
        if not lacking:
            count = len(read_json(path))
            units.append(Unit(path.stem, 2 * count, count))

    def clips(unit: Unit) -> Iterator[SourceClip]:
        return _clips(request, takes[unit.name], hands / f"{unit.name}.json", cameras / f"{unit.name}.json")

    return Source(units, clips, missing)


def _folders(request: Request, kind: str) -> tuple[Path, Path]:
    """Return the folders of hands and of cameras, of a download in either of the two layouts."""
    base = request.root / "annotations" / "ego_pose"
    for hands, cameras in (
        (base / request.split / "hand" / kind, base / request.split / "camera_pose"),
        (base / "hand" / kind, base / "hand" / "camera_pose"),
    ):
        if hands.is_dir():
            return hands, cameras
    raise ValueError(f"{base / request.split / 'hand' / kind}: no such folder; expected the annotations of the takes")


def _listed(request: Request, hands: Path) -> list[Path]:
    """Return the annotation files of the split; one folder may hold those of all splits."""
    found = sorted(hands.glob("*.json"))
    if request.split in hands.parts[len(request.root.parts) :]:
        return found
    listed = set(read_json(request.root / "annotations" / "splits.json")["split_to_take_uids"][request.split])
    return [path for path in found if path.stem in listed]


def _camera_name(take: Mapping[str, Any]) -> str:
    """Return the name of the head camera."""
    cameras = [one["cam_id"] for one in take["capture"]["cameras"] if str(one["is_ego"]).lower() == "true"]
    if len(cameras) > 1:
        cameras = [name for name in cameras if name in take.get("frame_aligned_videos", {})] or cameras
        cameras = [name for name in cameras if "aria" in name.lower()] or cameras
    if not cameras:
        raise DamagedError(f"takes.json: the take {take['root_dir']} has no head camera")
    return str(cameras[0])


def _pictures_of(request: Request, take: Mapping[str, Any]) -> Path | None:
    """Return the folder of prepared pictures, or else the film."""
    name = take["root_dir"]
    prepared = request.root / "image" / "undistorted" / request.split / name
    film = request.root / "takes" / name / "frame_aligned_videos" / f"{_camera_name(take)}_214-1.mp4"
    if prepared.is_dir():
        return prepared
    return film if film.is_file() and _calibration(request.root, name).is_file() else None


def _calibration(root: Path, name: str) -> Path:
    return root / "aria_calib_json" / f"{name}.json"


def _clips(request: Request, take: Mapping[str, Any], hands: Path, cameras: Path) -> Iterator[SourceClip]:
    """Give a picture for each frame that has a camera and a hand."""
    where = _pictures_of(request, take)
    assert where is not None, "listed with its pictures"
    camera = _camera_name(take)
    poses = read_json(cameras).get(camera) or {}
    film = None if where.is_dir() else FilmFrames(where, 1 << 30)
    extrinsics = poses.get("camera_extrinsics") or {}
    K = vector(poses, "camera_intrinsics", (3, 3), where=str(cameras)) if extrinsics else np.eye(3)
    for number, records in sorted(read_json(hands).items(), key=lambda item: int(item[0])):
        if number not in extrinsics or not records:
            continue
        T_cam_world = np.eye(4)
        T_cam_world[:3] = vector(extrinsics, number, (3, 4), where=f"{cameras}, frame {number}")
        truths = [_hand(records[0], side, camera, K, T_cam_world) for side in SIDES]
        if not any(truths):
            continue
        yield SourceClip(
            key=f"{hands.stem}_{int(number):06d}",
            pictures=_pictures(request, take, where, film, int(number)),
            hands=[truth for truth in truths if truth is not None],
            width_px=SIDE_PX,
            height_px=SIDE_PX,
            fps=0.0,
            source=f"{take['root_dir']}, frame {number}",
        )


def _hand(
    record: Mapping[str, Any], side: str, camera: str, K: np.ndarray, T_cam_world: np.ndarray
) -> HandTruth | None:
    """Return what is believed of a hand; None if too little is."""
    world, joints_img = hand_points(record, side, camera)
    joints_cam = world @ T_cam_world[:3, :3].T + T_cam_world[:3, 3]
    is_good = possible_joints(world) & believed(joints_cam, joints_img, K, side_px=SIDE_PX)
    if is_good.sum() < MIN_JOINTS:
        return None
    is_good[0] = True  # known, or no joint would be possible
    return HandTruth(
        is_right=side == "right",
        K=K[None],
        joints_cam=np.where(is_good[:, None], joints_cam, np.nan)[None],
        joints_img=joints_img[None],
        T_world_cam=np.linalg.inv(T_cam_world)[None],
    )


def _pictures(request: Request, take: Mapping[str, Any], where: Path, film: FilmFrames | None, number: int) -> Pictures:
    if film is None:
        return PictureFiles([where / f"{number:06d}.jpg"])
    return _FilmStill(film, number, _calibration(request.root, take["root_dir"]))


class _FilmStill:
    """One frame of the upright film, turned back to the sensor's landscape and straightened."""

    def __init__(self, film: FilmFrames, number: int, calibration: Path) -> None:
        self._film, self._number, self._calibration = film, number, calibration

    def __len__(self) -> int:
        return 1

    def read(self, frame: int) -> np.ndarray:
        """Return the picture."""
        assert frame == 0, "a picture has one frame"
        image = cv2.rotate(self._film.read(self._number), cv2.ROTATE_90_COUNTERCLOCKWISE)
        return straightening(self._calibration)(image)


@lru_cache(maxsize=2)
def straightening(path: Path) -> Any:
    """Return what makes the straightened pictures of a take: 512 px, a focal length of 150.

    Raises:
        DamagedError: the calibration cannot be read.
    """
    cameras = {one.get("Label"): one for one in read_json(path).get("CameraCalibrations", [])}
    if COLOR not in cameras:
        raise DamagedError(f"{path}: no calibration of {COLOR} in it")
    params = np.asarray(cameras[COLOR]["Projection"]["Params"], np.float64)
    middle = (SIDE_PX - 1) / 2
    lens = Fisheye624(params, LENS_PX, LENS_PX)
    return lens.straightened(pinhole(FOCAL_PX, FOCAL_PX, middle, middle), (SIDE_PX, SIDE_PX))


DATA_SETS = (
    DataSet(
        name="egoexo4d-raw",
        title="Ego-Exo4D hand pose (raw annotations)",
        licence="Ego4D licence (signed agreement)",
        link="https://github.com/EGO4D/ego-exo4d-egopose",
        splits={"train": Split(), "val": Split()},
        layout=("takes.json", "annotations/ego_pose"),
        open=open_raw,
        is_video=False,
        options={"annotation": "manual (default) or automatic"},
    ),
)
