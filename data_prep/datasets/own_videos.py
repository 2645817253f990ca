"""Your own videos with what is known of them: `trajectory.npz` as haptic writes it, or detections as JSON.

Beside `kitchen.mp4` lies `kitchen.npz`, or `kitchen/trajectory.npz` as a run's folder has it, or `kitchen.json` in the
format of docs/detections.md. A trajectory gives joints and parameters, detections give 2D joints. Frames that were
not observed are not used. A trajectory's place rests on the camera that was assumed: it counts as true only with
`--option camera=measured`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.frames import pinhole
from data_prep.labels import project_joints
from haptic.export.npz import read_npz
from haptic.hand.model import HandModel, load_hand_model, trajectory_joints
from haptic.perception.detections import read_detections
from haptic.perception.tracker import build_tracks
from haptic.perception.video import VIDEO_SUFFIXES, VideoSource, open_video
from haptic.records import HandTrack, Reconstruction, Trajectory

UNIT_HANDS = 1000  # a guess: a video's length is not known before it is read
KEY_SIGNS = "_+=,@-"


def open_own_videos(request: Request) -> Source:
    """List the videos that have labels."""
    camera = request.options.get("camera", "assumed")
    if camera not in ("assumed", "measured"):
        raise ValueError(f"--option camera={camera}: expected assumed or measured")
    units, missing = [], []
    for path in sorted(request.root.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            if _labels_of(path) is None:
                missing.append(f"{path.stem}.npz, {path.stem}/trajectory.npz or {path.stem}.json for {path.name}")
            else:
                units.append(Unit(path.name, UNIT_HANDS, 1))
    return Source(units, lambda unit: _clips(request, request.root / unit.name), missing)


def _labels_of(video: Path) -> Path | None:
    places = (video.with_suffix(".npz"), video.with_suffix("") / "trajectory.npz", video.with_suffix(".json"))
    return next((path for path in places if path.is_file()), None)


def _clips(request: Request, path: Path) -> Iterator[SourceClip]:
    labels = _labels_of(path)
    assert labels is not None, "listed with its labels"
    try:
        video = open_video(path)
        if labels.suffix == ".npz":
            result = read_npz(labels)
            num_frames = len(result.frame_time_s)
            size = (result.image_width_px, result.image_height_px)
            if size != (video.info.width, video.info.height):
                raise ValueError(
                    f"{labels}: for a video of {size[0]} x {size[1]} pixels, but {path.name} has {video.info.width} x "
                    f"{video.info.height}"
                )
            hands = _trajectories(request, result)
            fps = result.fps
        else:
            times_s = [frame.time_s for frame in video.frames()]
            num_frames, fps = len(times_s), video.info.fps
            found = read_detections(labels, width=video.info.width, height=video.info.height, num_frames=num_frames)
            hands = [_track_truth(track, video, num_frames) for track in build_tracks(found, times_s)]
    except ValueError as error:
        raise DamagedError(str(error)) from None
    key = "".join(sign if (sign.isascii() and sign.isalnum()) or sign in KEY_SIGNS else "_" for sign in path.stem)
    yield SourceClip(
        key=key[:80],
        pictures=_VideoFrames(video, num_frames),
        hands=hands,
        width_px=video.info.width,
        height_px=video.info.height,
        fps=fps,
        source=path.name,
    )


def _trajectories(request: Request, result: Reconstruction) -> list[HandTruth]:
    models = [load_hand_model(None)] if request.mano is None else [load_hand_model(request.mano.right_path)]
    fitting = [model for model in models if model.name == result.hand_model]
    if not fitting:
        raise ValueError(
            f"the trajectory was made with the hand model {result.hand_model}, but {models[0].name} was given; name "
            "that model's file with --mano"
        )
    is_measured = request.options.get("camera") == "measured"
    return [_hand_truth(hand, result, fitting[0], is_measured) for hand in result.hands.values()]


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


def _track_truth(track: HandTrack, video: VideoSource, num_frames: int) -> HandTruth:
    width, height = video.info.width, video.info.height
    focal_px = float(np.hypot(width, height))  # unknown: a field of view of some 53 degrees over the diagonal
    joints_img = np.full((num_frames, 21, 2), np.nan)
    is_known = (track.joints_img_weight > 0) & track.observed[:, None]
    joints_img[track.frame_index.numpy()] = np.where(is_known.numpy()[..., None], track.joints_img.numpy(), np.nan)
    return HandTruth(
        is_right=bool(track.is_right),
        K=np.tile(pinhole(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2), (num_frames, 1, 1)),
        joints_img=joints_img,
        is_placed=False,
        is_camera_known=False,
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
        splits={"all": Split()},
        layout=(),
        open=open_own_videos,
        mano="openhand by default",
        options={"camera": "assumed (default) or measured: whether K and so the hands' places are true"},
    ),
)
