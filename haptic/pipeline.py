"""The main job in one call: video -> hands seen -> trajectories -> refined trajectories. Writes no files."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.geometry.cameras import project
from haptic.hand.landmarks import LandmarkKind, LandmarkModel, detector_landmarks, load_landmark_model
from haptic.hand.mirror import mirror_params, mirror_points
from haptic.hand.model import HandModel, in_runs, load_hand_model, trajectory_joints
from haptic.inference.keypoints import MIN_KNOWN_JOINTS, KeypointInitConfig, init_hand
from haptic.inference.network import NetworkConfig, run_network
from haptic.inference.scale import place_at_depth
from haptic.memory import give_back_memory, give_back_memory_every
from haptic.models.checkpoint import CheckpointInfo, match_hand_model
from haptic.models.haptic import Haptic
from haptic.perception.cameras import CameraConfig, video_camera
from haptic.perception.detections import follow_given, read_detections
from haptic.perception.detector import DetectorConfig, HandDetection, HandLandmarker
from haptic.perception.tracker import HandTracker, TrackerConfig
from haptic.perception.video import Frame, VideoInput, VideoSource, open_video
from haptic.records import Camera, HandTrack, Reconstruction, Trajectory
from haptic.refinement.refine import refine
from haptic.refinement.report import Quality, RefinementReport, measure_quality
from haptic.refinement.stages import RefinementConfig

# A wrist outside these is more likely a wrong focal length than a hand.
NEAREST_M, FARTHEST_M = 0.05, 20.0
TRIM_EVERY_FRAMES = 300  # free memory piles up in the C library while a film is decoded

ItemT = TypeVar("ItemT")
Init = Literal["keypoints", "network"]
Refine = Literal["off", "fast"]


@runtime_checkable
class Progress(Protocol):
    """Shows how far a stage is, and one-line notes."""

    def track(self, stage: str, items: Iterable[ItemT], total: int | None = None) -> Iterator[ItemT]:
        """Yield the items while showing how far the stage is."""
        ...

    def note(self, text: str) -> None:
        """Show one line of news."""
        ...


class Silence:
    """A `Progress` that shows nothing."""

    def track(self, stage: str, items: Iterable[ItemT], total: int | None = None) -> Iterator[ItemT]:
        """Yield the items."""
        del stage, total
        yield from items

    def note(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Network:
    """A network and what its checkpoint says about itself."""

    model: Haptic
    info: CheckpointInfo


@dataclass(frozen=True)
class PipelineConfig:
    """How a video becomes trajectories.

    `first_depth_m` is the known depth of the wrist of the first hand in its first frame. All hands are then scaled
    alike; the bare network (`refine="off"`) puts each hand there, in the place of Weak2Full.
    """

    init: Init = "keypoints"
    refine: Refine = "fast"
    detections: Path | None = None
    max_frames: int | None = None
    first_depth_m: float | None = None
    camera: CameraConfig = field(default_factory=CameraConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    keypoints: KeypointInitConfig = field(default_factory=KeypointInitConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)

    def __post_init__(self) -> None:
        if self.max_frames is not None and self.max_frames < 1:
            raise ValueError(f"max_frames is {self.max_frames}; it must be 1 or more, or left away for all")
        if self.first_depth_m is not None and not 0.02 < self.first_depth_m < 100:
            raise ValueError(f"first_depth_m is {self.first_depth_m}; expected metres, between 0.02 and 100")


@dataclass(frozen=True)
class Result:
    """A reconstruction and how it came about.

    `predicted_img` is, per hand, where the detector's landmarks (T, 21, 2) are expected on the solved hand: what the
    detections are fairly compared with. `details` are plain values for the summary.
    """

    reconstruction: Reconstruction
    predicted_img: dict[str, Float[Tensor, "T 21 2"]]
    quality: dict[str, Quality]
    camera_source: str
    notes: tuple[str, ...]
    seconds: dict[str, float]
    details: dict[str, Any]


@dataclass(frozen=True)
class _Seen:
    """What perception found: the hands, the time of every frame, and whose joints they are."""

    tracks: list[HandTrack]
    times_s: list[float]
    landmark_kind: LandmarkKind


def reconstruct(
    video: VideoSource | VideoInput | Path | str,
    config: PipelineConfig = PipelineConfig(),
    *,
    hand_model: HandModel | None = None,
    network: Network | None = None,
    progress: Progress | None = None,
) -> Result:
    """Find every hand of a video and return its trajectory; nothing is written.

    Args:
        video: a path, or what `open_video` returns.
        hand_model: the openhand if None.
        network: needed with `init="network"`.

    Raises:
        ValueError: the video, the detections, the cameras or the combination of options cannot be used.
    """
    source = open_video(video) if isinstance(video, VideoInput | Path | str) else video
    model = load_hand_model() if hand_model is None else hand_model
    show: Progress = Silence() if progress is None else progress
    how_betas, notes = _check_network(config, network, model)
    seconds: dict[str, float] = {}
    video_camera(source.info, None, config.camera)  # what is wrong with it is said before the long work
    with timed(seconds, "detection"):
        seen = _perceive(source, config, show)
    notes += [source.warning] if source.warning else []
    is_cut_short = config.max_frames is not None
    given = video_camera(source.info, len(seen.times_s), config.camera, is_cut_short=is_cut_short)
    advice = "; distances grow with it, so say --fov-deg or --focal-px if you know better" if given.is_assumed else ""
    notes.append(f"camera: {given.source}{advice}")
    tracks = seen.tracks
    if config.init == "network":
        assert network is not None
        with timed(seconds, "network"):
            runner = _NetworkRun(config, network, model, zero_betas=how_betas == "zero betas")
            trajectories = runner(source, seen, given.camera, show)
    else:
        with timed(seconds, "initialisation"):
            tracks, dropped = _with_joints(seen.tracks)
            notes += dropped
            trajectories = _place_hands(source, tracks, seen.landmark_kind, given.camera, config, model, show)
    reports: list[RefinementReport] = []
    landmark_model = load_landmark_model(seen.landmark_kind)
    if config.refine == "fast" and trajectories:
        with timed(seconds, "refinement"):
            hands = refine(
                model,
                trajectories,
                tracks,
                config.refinement.from_network() if config.init == "network" else config.refinement,
                landmark_model=landmark_model,
                watch=lambda stage, steps: show.track(f"refine ({stage})", steps, len(steps)),
            )
            trajectories, reports = [hand for hand, _ in hands], [report for _, report in hands]
    if config.first_depth_m is not None and trajectories and (config.init, config.refine) != ("network", "off"):
        trajectories, said = place_at_depth(model, trajectories, config.first_depth_m)
        notes += said
    notes += _doubts(model, trajectories)
    names = _names(tracks)
    reconstruction = Reconstruction(
        hands=dict(zip(names, trajectories, strict=True)),
        tracks=dict(zip(names, tracks, strict=True)),
        camera=given.camera,
        frame_time_s=torch.tensor(seen.times_s, dtype=torch.float64),
        image_width_px=source.info.width,
        image_height_px=source.info.height,
        fps=source.info.fps,
        hand_model=model.name,
    )
    details = {"init": config.init, "refine": config.refine}
    refinement = {name: report.to_dict() for name, report in zip(names, reports, strict=False)}
    return _summed_up(
        reconstruction,
        model,
        landmark_model,
        camera_source=given.source,
        notes=tuple(notes),
        seconds=seconds,
        details=details | {"refinement": refinement},
    )


def landmarks_img(model: HandModel, trajectory: Trajectory, landmark_model: LandmarkModel) -> Float[Tensor, "T 21 2"]:
    """Return the pixels where the detector's landmarks are expected on a solved hand, as the camera saw it."""
    if trajectory.is_right:
        points = in_runs(lambda run: detector_landmarks(model, run, landmark_model), trajectory.params)
    else:
        points = in_runs(
            lambda run: mirror_points(detector_landmarks(model, mirror_params(run), landmark_model)), trajectory.params
        )
    return project(points, trajectory.camera.K)


def _summed_up(
    reconstruction: Reconstruction,
    model: HandModel,
    landmark_model: LandmarkModel,
    *,
    camera_source: str,
    notes: tuple[str, ...],
    seconds: dict[str, float],
    details: dict[str, Any],
) -> Result:
    quality = {
        name: measure_quality(model, hand, reconstruction.tracks[name], landmark_model=landmark_model)
        for name, hand in reconstruction.hands.items()
    }
    predicted_img = {name: landmarks_img(model, hand, landmark_model) for name, hand in reconstruction.hands.items()}
    return Result(
        reconstruction=reconstruction,
        predicted_img=predicted_img,
        quality=quality,
        camera_source=camera_source,
        notes=notes,
        seconds=seconds,
        details=details | {"quality": {name: asdict(value) for name, value in quality.items()}},
    )


def _check_network(config: PipelineConfig, network: Network | None, model: HandModel) -> tuple[str, list[str]]:
    """Say how the network's shape numbers are to be read; refuse hands that do not belong together."""
    if network is None:
        if config.init == "network":
            raise ValueError("init is 'network' but no network is given; pass one, or use init='keypoints'")
        return "as is", []
    how = match_hand_model(network.info.hand_model_name, model.name)
    if how == "zero betas" and config.init == "network":
        return how, [f"weights trained on MANO run on {model.name}: poses carry over, shape is set to the mean hand"]
    return how, []


def _perceive(source: VideoSource, config: PipelineConfig, show: Progress) -> _Seen:
    """Decode the video once and follow its hands."""
    info = source.info
    given: list[HandDetection] = []
    if config.detections is not None:
        given = read_detections(config.detections, width=info.width, height=info.height, num_frames=None)
    limits = [limit for limit in (info.num_frames, config.max_frames) if limit is not None]
    times_s: list[float] = []

    def frames() -> Iterator[Frame]:
        for frame in show.track("find hands", source.frames(stop=config.max_frames), min(limits, default=None)):
            times_s.append(frame.time_s)
            yield frame
            give_back_memory_every(TRIM_EVERY_FRAMES, frame.index)

    if config.detections is not None:
        if config.max_frames is not None:
            given = [detection for detection in given if detection.frame_index < config.max_frames]
        return _follow(frames(), given, times_s, config)
    with HandLandmarker(config.detector) as detector:
        tracker = HandTracker(detector, config.tracker)
        for frame in frames():
            tracker.step(frame)
        return _Seen(tracker.finish(), times_s, "mediapipe")


def _follow(
    frames: Iterator[Frame], given: Sequence[HandDetection], times_s: list[float], config: PipelineConfig
) -> _Seen:
    """Make tracks of given detections; hands that come as boxes only get their joints from our detector."""
    origin = str(config.detections)
    if config.init == "network" or all(detection.has_joints for detection in given):
        return _Seen(follow_given(frames, given, None, config.tracker, origin=origin), times_s, "joints")
    with HandLandmarker(config.detector) as detector:
        return _Seen(follow_given(frames, given, detector, config.tracker, origin=origin), times_s, "mediapipe")


def _with_joints(tracks: list[HandTrack]) -> tuple[list[HandTrack], list[str]]:
    """Leave out tracks that are boxes only, and say so: there is nothing to solve a hand from."""
    kept, dropped = [], []
    for track in tracks:
        known = ((track.joints_img_weight > 0).sum(-1) >= MIN_KNOWN_JOINTS) & track.observed
        if known.any():
            kept.append(track)
            continue
        first, last = int(track.frame_index[0]), int(track.frame_index[-1])
        dropped.append(f"a hand in frames {first} to {last} has boxes but no joints were found in them; left out")
    return kept, dropped


def _place_hands(
    source: VideoSource,
    tracks: list[HandTrack],
    landmark_kind: LandmarkKind,
    camera: Camera,
    config: PipelineConfig,
    model: HandModel,
    show: Progress,
) -> list[Trajectory]:
    """Solve every hand from its joints."""
    settings = replace(config.keypoints, landmark_kind=landmark_kind)
    return [
        init_hand(model, track, camera[track.frame_index], settings, width_px=source.info.width)
        for track in show.track("place hands", tracks, len(tracks))
    ]


@dataclass(frozen=True)
class _NetworkRun:
    """The network over one video."""

    config: PipelineConfig
    network: Network
    model: HandModel
    zero_betas: bool

    def __call__(self, source: VideoSource, seen: _Seen, camera: Camera, show: Progress) -> list[Trajectory]:
        """Return one trajectory per track."""
        num_frames = len(seen.times_s)
        settings = self.config.network
        frames = show.track("network", source.frames(stop=num_frames), num_frames)
        return run_network(
            self.network.model,
            ((frame.index, frame.image) for frame in frames),
            seen.tracks,
            camera=camera,
            config=replace(settings, first_depth_m=self.config.first_depth_m or settings.first_depth_m),
            hand_model=self.model,
            zero_betas=self.zero_betas,
        )


def _doubts(model: HandModel, trajectories: list[Trajectory]) -> list[str]:
    """Say where hands came out at distances at which no camera films them."""
    depths_m = [float(trajectory_joints(model, hand)[:, 0, 2].median()) for hand in trajectories]
    far = [depth_m for depth_m in depths_m if not NEAREST_M < depth_m < FARTHEST_M]
    return [
        f"a hand came out {depth_m:.2g} m from the camera, which is hard to believe: check the focal length"
        for depth_m in far
    ]


def _names(tracks: list[HandTrack]) -> list[str]:
    """Name hands by side and order of appearance: right_0, left_0, right_1, ..."""
    counts = {"right": 0, "left": 0}
    names = []
    for track in tracks:
        side = "right" if track.is_right else "left"
        names.append(f"{side}_{counts[side]}")
        counts[side] += 1
    return names


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long a stage took, and give the memory it needed on the way back to the system."""
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start
    give_back_memory()
