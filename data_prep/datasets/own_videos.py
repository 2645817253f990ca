"""Your own videos with what is known of them: joints as COCO's JSON, detections as JSON, or `trajectory.npz`.

Beside `kitchen.mp4` lies `kitchen.json` (COCO's format, docs/finetune.md, or that of docs/detections.md), or
`kitchen.npz`, or `kitchen/trajectory.npz` as a run's folder has it; and, if the camera is known, `kitchen.cameras.json`
or `.npz` (as for `infer.py --cameras`), or `cameras.json` for all videos of the folder. With K given, 3D joints count
as the hands' true place. Without it they count about the wrist, and a trajectory's place rests on the camera that was
assumed: it counts as true with `--option camera=measured`. Rotations, which joints only imply, are fitted (`own_fit`).

Videos lie in `train/` and `val/`, or all in one folder: those named in `val.txt` are then for validation, or else the
last fifth by name.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit, UnusableError
from data_prep.labels import project_joints
from data_prep.own_coco import OwnHand, is_coco, read_coco
from data_prep.own_fit import fitted_rotations
from haptic.export.npz import read_npz
from haptic.hand.model import HandModel, load_hand_model, trajectory_joints
from haptic.perception.cameras import CameraConfig, read_cameras, video_camera
from haptic.perception.detections import read_detections
from haptic.perception.tracker import build_tracks
from haptic.perception.video import VIDEO_SUFFIXES, VideoSource, open_video
from haptic.records import Camera, HandTrack, Reconstruction, Trajectory

UNIT_HANDS = 1000  # a guess: a video's length is not known before it is read
KEY_SIGNS = "_+=,@-"
SPLITS = ("train", "val")
VALIDATION_LIST = "val.txt"
SHARED_CAMERAS = ("cameras.json", "cameras.npz")
VALIDATION_PART = 5  # one in so many
CAMERAS_AGREE = 0.01  # of the focal length
# Labels that do not fit together: reprojection over the hand's size in the picture, and wrist to middle knuckle.
MAX_REPROJECTION = 0.15
PALM_M = (0.03, 0.3)


def open_own_videos(request: Request) -> Source:
    """List the videos that have labels."""
    camera = request.options.get("camera", "assumed")
    if camera not in ("assumed", "measured"):
        raise ValueError(f"--option camera={camera}: expected assumed or measured")
    _first_number(request)
    units, missing = [], []
    for path in _videos_of(request.root, request.split):
        if _labels_of(path) is None:
            missing.append(f"{path.stem}.json, {path.stem}.npz or {path.stem}/trajectory.npz for {path.name}")
        else:
            units.append(Unit(str(path.relative_to(request.root)), UNIT_HANDS, 1))
    return Source(units, lambda unit: _own_clips(request, request.root / unit.name), missing)


def _videos_of(root: Path, split: str) -> list[Path]:
    """Return a split's videos.

    Raises:
        ValueError: there are none, or it is not clear which they are.
    """
    own = root / split
    if own.is_dir():
        if videos := _videos_in(own):
            return videos
        raise ValueError(f"{own}: no videos here; expected .mp4, .mov or others, each beside its labels")
    if any((root / other).is_dir() for other in SPLITS):
        raise ValueError(f"{root}: has no folder {split}; expected train and val, or name one with --split")
    videos = _videos_in(root)
    if not videos:
        raise ValueError(f"{root}: no videos here; expected .mp4, .mov or others, each beside its labels")
    validation = _validation_names(root, [path.name for path in videos])
    chosen = [path for path in videos if (path.name in validation) == (split == "val")]
    if not chosen:
        raise ValueError(
            f"{root}: no video is left for {split}, of {len(videos)}; expected two or more: before and after are "
            "compared on videos that were not trained on (or convert --split train alone)"
        )
    return chosen


def _videos_in(folder: Path) -> list[Path]:
    videos = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    for path, other in pairwise(videos):
        if path.stem == other.stem:
            raise ValueError(f"{path} and {other.name} have one name, so that their labels do; rename one")
    return videos


def _validation_names(root: Path, names: Sequence[str]) -> set[str]:
    listed = root / VALIDATION_LIST
    if not listed.is_file():
        # Neighbours by name are often takes of one scene: the last ones in a row share the least with the others.
        count = max(1, len(names) // VALIDATION_PART) if len(names) > 1 else 0
        return set(names[len(names) - count :])
    told = {line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()}
    unknown = sorted(told - set(names))
    if unknown:
        raise ValueError(f"{listed}: names {unknown[0]}, which is not here; expected names of videos, one in a line")
    return told


def _labels_of(video: Path) -> Path | None:
    places = (video.with_suffix(".json"), video.with_suffix(".npz"), video.with_suffix("") / "trajectory.npz")
    return next((path for path in places if path.is_file()), None)


def _cameras_of(video: Path) -> Path | None:
    own = (video.with_suffix(f".cameras{suffix}") for suffix in (".json", ".npz"))
    shared = (video.parent / name for name in SHARED_CAMERAS)
    return next((path for path in (*own, *shared) if path.is_file()), None)


def _first_number(request: Request) -> int:
    text = request.options.get("first_frame", "0")
    if not text.isdecimal():
        raise ValueError(f"--option first_frame={text}: expected the number of the first frame in file names, 0 or 1")
    return int(text)


def _own_clips(request: Request, path: Path) -> Iterator[SourceClip]:
    """Give a video as a clip. What is wrong with labels ends the run: who wrote them can put them right.

    Raises:
        DamagedError: the video cannot be read.
        UnusableError: its labels are wrong.
    """
    try:
        yield from _clips(request, path)
    except DamagedError:
        raise
    except ValueError as error:
        raise UnusableError(str(error)) from None


def _clips(request: Request, path: Path) -> Iterator[SourceClip]:
    labels = _labels_of(path)
    assert labels is not None, "listed with its labels"
    try:
        video = open_video(path)
        times_s = [frame.time_s for frame in video.frames()]
    except ValueError as error:
        raise DamagedError(str(error)) from None
    camera = _Camera(request, video, len(times_s))
    if labels.suffix == ".npz":
        hands = _trajectories(request, read_npz(labels), video, camera, labels)
    elif is_coco(labels):
        found = read_coco(
            labels, width=video.info.width, height=video.info.height, num_frames=len(times_s),
            first_number=_first_number(request),
        )  # fmt: skip
        model = _hand_model(request)
        hands = [_own_truth(hand, camera, labels, video, model) for hand in found]
    else:
        detections = read_detections(labels, width=video.info.width, height=video.info.height, num_frames=len(times_s))
        hands = [_track_truth(track, camera) for track in build_tracks(detections, times_s)]
    key = "".join(sign if (sign.isascii() and sign.isalnum()) or sign in KEY_SIGNS else "_" for sign in path.stem)
    yield SourceClip(
        key=key[:80],
        pictures=_VideoFrames(video, len(times_s)),
        hands=hands,
        width_px=video.info.width,
        height_px=video.info.height,
        fps=video.info.fps,
        source=path.name,
    )


class _Camera:
    """What is known of a video's camera: K and poses of each frame, and whether they were given."""

    def __init__(self, request: Request, video: VideoSource, num_frames: int) -> None:
        path = _cameras_of(video.info.path)
        found = video_camera(video.info, num_frames, CameraConfig(cameras=path))
        self.path, self.num_frames = path, num_frames
        self.K = found.camera.K.double().numpy()
        self.T_world_cam = found.camera.T_world_cam.double().numpy()
        self.is_K_given = path is not None and "K" in read_cameras(path, num_frames)
        self.is_measured = request.options.get("camera") == "measured"
        self.has_metadata = video.info.focal_px is not None

    @property
    def is_known(self) -> bool:
        """Whether K counts as true: it was given, or the video tells it and is to be believed."""
        return self.is_K_given or (self.is_measured and self.has_metadata)

    def check(self, other: Camera, labels: Path) -> None:
        """Refuse a trajectory that was made with another camera.

        Raises:
            ValueError: the focal lengths differ.
        """
        given, used = self.K[:, 0, 0], other.K[:, 0, 0].double().numpy()
        if self.is_K_given and np.abs(used / given - 1).max() > CAMERAS_AGREE:
            raise ValueError(
                f"{labels}: made with a focal length of {used[0]:.0f} px, but {self.path} says {given[0]:.0f} px; run "
                f"infer.py again with --cameras {self.path}"
            )


def _hand_model(request: Request) -> HandModel:
    return load_hand_model(None if request.mano is None else request.mano.right_path)


def _trajectories(
    request: Request, result: Reconstruction, video: VideoSource, camera: _Camera, labels: Path
) -> list[HandTruth]:
    size = (result.image_width_px, result.image_height_px)
    if size != (video.info.width, video.info.height):
        raise ValueError(
            f"{labels}: for a video of {size[0]} x {size[1]} pixels, but {video.info.name} has {video.info.width} x "
            f"{video.info.height}"
        )
    if len(result.frame_time_s) > camera.num_frames:
        raise ValueError(
            f"{labels}: has {len(result.frame_time_s)} frames, but {video.info.name} has {camera.num_frames}; expected "
            "the trajectory of this video"
        )
    model = _hand_model(request)
    if model.name != result.hand_model:
        raise ValueError(
            f"{labels}: the trajectory was made with the hand model {result.hand_model}, but {model.name} was "
            "given; name that model's file with --mano"
        )
    is_measured = camera.is_measured or camera.is_K_given
    camera.check(result.camera, labels)
    return [_hand_truth(hand, result, model, is_measured) for hand in result.hands.values()]


def _hand_truth(hand: Trajectory, result: Reconstruction, model: HandModel, is_measured: bool) -> HandTruth:
    num_frames = len(result.frame_time_s)
    rows = hand.frame_index[hand.observed].numpy()

    def spread(values: torch.Tensor) -> np.ndarray:
        """Return the observed frames' values at their frames, NaN elsewhere."""
        everything = np.full((num_frames, *values.shape[1:]), np.nan)
        everything[rows] = values[hand.observed].detach().double().numpy()
        return everything

    joints_cam = spread(trajectory_joints(model, hand))
    K = result.camera.K.double().numpy()
    return HandTruth(
        is_right=bool(hand.is_right),
        K=K,
        joints_cam=joints_cam,
        joints_img=project_joints(joints_cam, K),
        global_orient=spread(hand.params.global_orient),
        hand_pose=spread(hand.params.hand_pose),
        betas=spread(hand.params.betas),
        transl=spread(hand.params.transl),
        T_world_cam=result.camera.T_world_cam.double().numpy(),
        is_placed=is_measured,
        is_camera_known=is_measured,
    )


def _own_truth(hand: OwnHand, camera: _Camera, labels: Path, video: VideoSource, model: HandModel) -> HandTruth:
    side = "right" if hand.is_right else "left"
    if camera.is_measured and not camera.is_known:
        raise ValueError(
            f"{labels}: camera=measured, but neither a cameras file nor the video's metadata tells K; give "
            f"{labels.stem}.cameras.json"
        )
    has_joints_cam = bool(np.isfinite(hand.joints_cam).any())
    if has_joints_cam:
        _check_size(hand, f"{labels}: the {side} hand")
        if camera.is_known:
            _check_reprojection(hand, camera, f"{labels}: the {side} hand")
    global_orient, hand_pose = fitted_rotations(
        hand, camera.K, fps=video.info.fps, width_px=video.info.width, model=model
    )
    return HandTruth(
        is_right=hand.is_right,
        K=camera.K,
        joints_cam=hand.joints_cam if has_joints_cam else None,
        joints_img=hand.joints_img,
        joints_img_weight=hand.joints_img_weight,
        joints_visible=hand.joints_visible,
        box_xyxy=hand.box_xyxy,
        global_orient=global_orient,
        hand_pose=hand_pose,
        T_world_cam=camera.T_world_cam,
        is_placed=has_joints_cam and camera.is_known,
        is_camera_known=camera.is_known,
    )


def _check_size(hand: OwnHand, where: str) -> None:
    """Refuse 3D joints in another unit."""
    palm_m = np.linalg.norm(hand.joints_cam[:, 9] - hand.joints_cam[:, 0], axis=-1)
    palm_m = palm_m[np.isfinite(palm_m)]
    if len(palm_m) and not PALM_M[0] <= np.median(palm_m) <= PALM_M[1]:
        raise ValueError(
            f"{where}: joints_cam are {np.median(palm_m):.3g} from the wrist to the middle finger's knuckle; expected "
            "metres, about 0.1"
        )


def _check_reprojection(hand: OwnHand, camera: _Camera, where: str) -> None:
    """Refuse 3D joints that K does not bring to the 2D ones: other axes, another unit, another size of picture."""
    off_px = np.linalg.norm(project_joints(hand.joints_cam, camera.K) - hand.joints_img, axis=-1)
    known = np.isfinite(hand.joints_img)
    size_px = np.where(known, hand.joints_img, -np.inf).max(axis=1) - np.where(known, hand.joints_img, np.inf).min(
        axis=1
    )
    share = off_px / np.maximum(size_px.max(axis=-1), 1.0)[:, None]
    share, off_px = share[np.isfinite(share)], off_px[np.isfinite(share)]
    told = np.isfinite(hand.joints_cam).all(axis=-1) & known.all(axis=-1)
    if told.any() and (not len(share) or np.median(share) > MAX_REPROJECTION):
        off = f"{np.median(off_px):.0f} px from" if len(share) else "behind the camera, not at"
        raise ValueError(
            f"{where}: joints_cam seen by K lie {off} keypoints; expected metres before the camera, x right, y down, z "
            "forward, and K in pixels of this video"
        )


def _track_truth(track: HandTrack, camera: _Camera) -> HandTruth:
    joints_img = np.full((camera.num_frames, 21, 2), np.nan)
    is_known = (track.joints_img_weight > 0) & track.observed[:, None]
    joints_img[track.frame_index.numpy()] = np.where(is_known.numpy()[..., None], track.joints_img.numpy(), np.nan)
    return HandTruth(
        is_right=bool(track.is_right),
        K=camera.K,
        joints_img=joints_img,
        T_world_cam=camera.T_world_cam,
        is_placed=False,
        is_camera_known=camera.is_known,
    )


class _VideoFrames:
    """A video's frames in order, decoded as they are asked for."""

    def __init__(self, video: VideoSource, num_frames: int) -> None:
        self._video, self._num_frames = video, num_frames
        self._frames = iter(video.frames())
        self._next = 0

    def __len__(self) -> int:
        return self._num_frames

    def read(self, frame: int) -> np.ndarray:
        """Return a frame; going back starts anew."""
        if frame < self._next:
            self._frames, self._next = iter(self._video.frames()), 0
        try:
            for one in self._frames:
                self._next = one.index + 1
                if one.index == frame:
                    return one.image
        except ValueError as error:
            raise DamagedError(str(error)) from None
        raise DamagedError(f"{self._video.info.path}: ends before frame {frame}, which the labels speak of")


DATA_SETS = (
    DataSet(
        name="own-videos",
        title="Your own videos",
        licence="your own",
        link="",
        splits={"train": Split(counts="videos"), "val": Split(counts="videos")},
        layout=(),
        open=open_own_videos,
        mano="openhand by default",
        options={
            "camera": "assumed (default) or measured: whether the K of trajectories, or of a video's metadata, is true",
            "first_frame": "the number of a video's first frame in COCO's file names, 0 if not given",
        },
    ),
)
