"""Methods: a clip becomes trajectories. A method's name says all there is to it.

BASE[/DEPTH][@CAMERA][+REFINEMENT]

keypoints                 detector's joints, pose and place solved in each frame (no network)
keypoints-gt              the same from the labelled 2D joints, without metric landmarks
haptic                    the network over windows, its depth chained            (needs --checkpoint)
weak2full                 the network frame by frame, depth from its weak camera (needs --checkpoint)
.../constant-depth        the wrists' rays stay, their depth is that of the first frame seen
.../zoedepth, /depth-anything   the depth of the visible hand in a depth map      (extra [depth]; --zoedepth, ...)
.../wham                  the depth of the wrist of WHAM's body                  (needs --wham and --smpl)
...@diagonal, @x1.5, ...  a focal length of the image's diagonal, or so many times the true one
...+refine, +first-order  refined by ours, or by the paper's 1000 first-order steps
"""

import re
import time
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.data.augment import Augmentation, make_clip
from haptic.data.crops import CutConfig
from haptic.evaluation.clips import ClipPictures, EvalClip, truth_track
from haptic.evaluation.depth_maps import DepthNetwork
from haptic.evaluation.first_order import objective_value, refine_first_order
from haptic.evaluation.observing import detector_track
from haptic.evaluation.predictions import PredictedHand, Prediction
from haptic.evaluation.uplift import BodyWrists, at_depth, uplift_by_depth_maps, uplift_by_wham
from haptic.geometry.cameras import intrinsics
from haptic.geometry.lift import lift_at_depth, weak_depth
from haptic.hand.landmarks import LandmarkKind, load_landmark_model
from haptic.hand.mirror import mirror_camera, mirror_params
from haptic.hand.model import HandModel, trajectory_joints
from haptic.inference.keypoints import MIN_KNOWN_JOINTS, KeypointInitConfig, init_hand
from haptic.inference.network import MIN_DEPTH_M
from haptic.inference.windows import WindowConfig, cut_windows, first_depth, sane_weak_depth, stitch
from haptic.models.checkpoint import match_hand_model
from haptic.perception.detector import HandDetector
from haptic.pipeline import Network
from haptic.records import Camera, HandParams, HandPrediction, HandTrack, Trajectory
from haptic.refinement.refine import refine
from haptic.refinement.stages import RefinementConfig

Base = Literal["keypoints", "keypoints-gt", "haptic", "weak2full"]
Depth = Literal["own", "constant-depth", "zoedepth", "depth-anything", "wham"]
Refinement = Literal["off", "refine", "first-order"]
BASES: tuple[Base, ...] = ("keypoints", "keypoints-gt", "haptic", "weak2full")
NEEDS_NETWORK = ("haptic", "weak2full")
DEPTHS: tuple[Depth, ...] = ("constant-depth", "zoedepth", "depth-anything", "wham")
NAME = re.compile(
    r"(?P<base>[a-z0-9-]+?)(/(?P<depth>constant-depth|zoedepth|depth-anything|wham))?(@(?P<camera>true|diagonal|x[0-9.]+))?(\+(?P<refinement>refine|first-order))?"
)


@dataclass(frozen=True)
class Method:
    """A method by its parts."""

    base: Base
    depth: Depth = "own"
    camera: str = "true"
    refinement: Refinement = "off"

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        depth = "" if self.depth == "own" else f"/{self.depth}"
        camera = "" if self.camera == "true" else f"@{self.camera}"
        return self.base + depth + camera + ("" if self.refinement == "off" else f"+{self.refinement}")

    @property
    def needs_detector(self) -> bool:
        """Say whether it looks for joints: to start from, or to be refined by."""
        return self.base == "keypoints" or (self.base != "keypoints-gt" and self.refinement != "off")

    @property
    def needs_network(self) -> bool:
        """Say whether it needs a checkpoint."""
        return self.base in NEEDS_NETWORK

    @property
    def refinement_config(self) -> RefinementConfig:
        """How it is refined: held to the depth only where the network told it."""
        config = RefinementConfig()
        return config.from_network() if self.base == "haptic" and self.depth == "own" else config

    @property
    def needs_depth_map(self) -> bool:
        """Say whether it needs a depth network."""
        return self.depth in ("zoedepth", "depth-anything")


DEFAULT_METHODS = (
    "keypoints", "keypoints+refine", "keypoints/constant-depth", "keypoints@diagonal", "keypoints@x1.5",
    "keypoints-gt", "keypoints-gt+refine",
)  # fmt: skip
NETWORK_METHODS = (
    "haptic", "haptic+refine", "weak2full", "weak2full+refine", "weak2full@diagonal", "weak2full@x1.5",
    "weak2full/constant-depth",
)  # fmt: skip


def parse_method(name: str) -> Method:
    """Return the method of this name.

    Raises:
        ValueError: there is none.
    """
    match = NAME.fullmatch(name)
    base = next((one for one in BASES if match and match["base"] == one), None)
    scale = match["camera"][1:] if match and (match["camera"] or "").startswith("x") else "1"
    if match is None or base is None or scale.count(".") > 1 or not 0.05 < float(scale) < 20:
        raise ValueError(
            f"there is no method {name!r}; expected BASE[/DEPTH][@diagonal or @x1.5][+refine or +first-order], BASE "
            f"one of {', '.join(BASES)}, DEPTH one of {', '.join(DEPTHS)}"
        )
    refinement: Refinement = match["refinement"] or "off"  # type: ignore[assignment]
    depth: Depth = match["depth"] or "own"  # type: ignore[assignment]
    return Method(base, depth, match["camera"] or "true", refinement)


def method_camera(method: Method, camera: Camera, *, width_px: int, height_px: int) -> Camera:
    """Return the camera that the method believes in: its place is true, its focal length need not be."""
    if method.camera == "true":
        return camera
    if method.camera == "diagonal":
        K = intrinsics((width_px**2 + height_px**2) ** 0.5, width=width_px, height=height_px).to(camera.K)
        return Camera(K.expand_as(camera.K).clone(), camera.T_world_cam)
    K = camera.K.clone()
    K[..., 0, 0] *= float(method.camera[1:])
    K[..., 1, 1] *= float(method.camera[1:])
    return Camera(K, camera.T_world_cam)


@dataclass
class MethodRunner:
    """Runs methods over one clip; what several of them need is made once. Seconds and objectives are kept by method."""

    clip: EvalClip
    pictures: ClipPictures
    hand_model: HandModel
    detector: HandDetector | None = None
    network: Network | None = None
    depth_networks: dict[Depth, DepthNetwork] = field(default_factory=dict)
    bodies: list[BodyWrists] | None = None  # whom WHAM sees
    seconds: dict[str, float] = field(default_factory=dict)
    objectives: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _tracks: dict[tuple[str, str], HandTrack] = field(default_factory=dict)
    _placed: dict[tuple[str, str], Trajectory | None] = field(default_factory=dict)

    def run(self, method: Method) -> list[tuple[str, Trajectory]]:
        """Return the trajectories of the clip's hands, by name; hands that the method cannot place are left out."""
        placed = []
        for name in self.clip.hands:
            start = time.perf_counter()
            trajectory = self._hand(method, name)
            self.seconds[method.name] = self.seconds.get(method.name, 0.0) + time.perf_counter() - start
            if trajectory is not None:
                placed.append((name, trajectory))
        return placed

    def predict(self, method: Method) -> Prediction:
        """Return what is scored: the joints of `run`, and which camera they were placed before."""
        hands = {}
        self.notes = []
        for name, trajectory in self.run(method):
            with torch.no_grad():
                joints = trajectory_joints(self.hand_model, trajectory)
            hands[name] = PredictedHand(
                frame_index=trajectory.frame_index,
                joints_cam=joints,
                joints_world=None,
                is_right=bool(trajectory.is_right),
                K=None if method.camera == "true" else trajectory.camera.K,
                params=trajectory.params,
                hand_model=self.hand_model.name,
            )
        return Prediction(
            hands, where=f"{method.name}, {self.clip.key}", fps=self.clip.info.fps, notes=tuple(self.notes)
        )

    def _hand(self, method: Method, name: str) -> Trajectory | None:
        placed = self._place(replace(method, refinement="off"), name)
        if placed is None or method.refinement == "off":
            return placed
        track, kind = self._track(method, name), self._landmark_kind(method)
        landmark_model, config = load_landmark_model(kind), method.refinement_config
        start = time.perf_counter()
        if method.refinement == "refine":
            ((refined, _report),) = refine(self.hand_model, [placed], [track], config, landmark_model=landmark_model)
        else:
            refined = refine_first_order(self.hand_model, placed, track, landmark_model, refinement=config)
        spent = time.perf_counter() - start
        for stage, trajectory in (("before", placed), ("after", refined)):
            value = objective_value(self.hand_model, placed, trajectory, track, landmark_model, refinement=config)
            self.objectives.append(
                {
                    "sequence": self.clip.key,
                    "hand": name,
                    "method": method.name,
                    "at": stage,
                    "objective": float(value),
                    "seconds": spent,
                    "frames": len(placed.frame_index),
                }
            )
        return refined

    def _place(self, method: Method, name: str) -> Trajectory | None:
        key = (method.name, name)
        if key not in self._placed:
            start = time.perf_counter()
            self._placed[key] = self._make(method, name)
            spent = time.perf_counter() - start
            self.seconds[f"{method.name}: place"] = self.seconds.get(f"{method.name}: place", 0.0) + spent
        return self._placed[key]

    def _make(self, method: Method, name: str) -> Trajectory | None:
        if method.depth != "own":
            return self._with_depth(method, name)
        info = self.clip.info
        camera = method_camera(method, self.clip.labels(name).camera, width_px=info.width_px, height_px=info.height_px)
        if method.needs_network:
            if self.network is None:
                raise ValueError(f"{method.name}: needs a network; give --checkpoint, or leave the method out")
            return NetworkOnClip(self.clip, self.pictures, self.hand_model, self.network)(method, name, camera)
        track = self._track(method, name)
        known = ((track.joints_img_weight > 0).sum(-1) >= MIN_KNOWN_JOINTS) & track.observed
        if not bool(known.any()):
            self.notes.append(f"{name}: the detector found no joints in any frame")
            return None
        settings = KeypointInitConfig(landmark_kind=self._landmark_kind(method))
        return init_hand(self.hand_model, track, camera, settings, width_px=info.width_px)

    def _with_depth(self, method: Method, name: str) -> Trajectory | None:
        """Return the hand of the same method with another depth."""
        own = replace(method, depth="own")
        if method.needs_depth_map:
            # One depth map per frame, whatever the number of hands: they are lifted together.
            placed = {one: self._place(own, one) for one in self.clip.hands}
            hands = {one: hand for one, hand in placed.items() if hand is not None}
            lifted, notes = uplift_by_depth_maps(
                self.hand_model, hands, self.pictures.frame, self._depth_network(method),
                width_px=self.clip.info.width_px, height_px=self.clip.info.height_px,
            )  # fmt: skip
            self.notes.extend(notes)
            for one in self.clip.hands:
                self._placed[method.name, one] = lifted.get(one)
            return lifted.get(name)
        moving = self._place(own, name)
        if moving is None or method.depth == "constant-depth":
            return None if moving is None else hold_depth(self.hand_model, moving)
        if self.bodies is None:
            raise ValueError(f"{method.name}: needs WHAM's results; give --wham and --smpl, or leave the method out")
        lifted_hand = uplift_by_wham(self.hand_model, moving, self.bodies)
        if lifted_hand is None:
            self.notes.append(f"{name}: WHAM has no body in any of its frames")
        return lifted_hand

    def _depth_network(self, method: Method) -> DepthNetwork:
        if method.depth not in self.depth_networks:
            raise ValueError(f"{method.name}: no depth network is given")
        return self.depth_networks[method.depth]

    def _landmark_kind(self, method: Method) -> LandmarkKind:
        return "joints" if method.base == "keypoints-gt" else "mediapipe"

    def _track(self, method: Method, name: str) -> HandTrack:
        """Return what the method knows of the picture: labelled joints, or what the detector sees in the true box."""
        source = "truth" if method.base == "keypoints-gt" else "detector"
        if (source, name) not in self._tracks:
            if source == "truth":
                track = truth_track(self.clip, name)
            else:
                assert self.detector is not None, "who asks for detected joints gives a detector"
                start = time.perf_counter()
                track = detector_track(self.clip, self.pictures, name, self.detector)
                self.seconds["detector"] = self.seconds.get("detector", 0.0) + time.perf_counter() - start
            self._tracks[source, name] = track
        return self._tracks[source, name]


def hold_depth(model: HandModel, trajectory: Trajectory) -> Trajectory:
    """Return the trajectory with all wrists on their rays at the depth of the first one that was observed."""
    with torch.no_grad():
        wrist = trajectory_joints(model, trajectory)[:, 0]
    seen = torch.nonzero(trajectory.observed)
    first = int(seen[0]) if len(seen) else 0
    return at_depth(model, trajectory, wrist[first, 2].expand(len(wrist)))


class NetworkOnClip:
    """The network over the stored crops of a clip, within the labelled boxes."""

    def __init__(self, clip: EvalClip, pictures: ClipPictures, hand_model: HandModel, network: Network) -> None:
        self._clip, self._pictures, self._hand_model, self._network = clip, pictures, hand_model, network
        self._zero_betas = match_hand_model(network.info.hand_model_name, hand_model.name) == "zero betas"

    @torch.no_grad()
    def __call__(self, method: Method, name: str, camera: Camera) -> Trajectory:
        """Return a hand's trajectory by windows (`haptic`) or frame by frame (`weak2full`)."""
        track = self._pictures.track(name)
        num_frames = len(self._clip.labels(name).frame_index)  # the shard's track may go on
        if method.base == "haptic":
            windows = cut_windows(num_frames, WindowConfig())
            answers = [self._answer(track, window.frames) for window in windows]
            prediction = stitch(windows, answers)
        else:
            windows = []
            frames = [self._answer(track, (place,)) for place in range(num_frames)]
            joined = {key: torch.cat([vars(one)[key] for one in frames], dim=1) for key in vars(frames[0])}
            answers, prediction = frames, HandPrediction(**joined)
        is_right = bool(self._clip.labels(name).is_right)
        seen = camera if is_right else mirror_camera(camera, self._clip.info.width_px)
        side_px = self._network.model.config.box_share * track.labels.box_side_px[:num_frames]
        if method.base == "haptic":
            first = list(windows[0].frames)
            weak = weak_depth(answers[0].scale[0], side_px[first], seen.K[first])
            relative = prediction.depth[0]
            depth = first_depth(relative[first], weak, mode="ours") + relative - relative[0]
        else:
            depth = sane_weak_depth(weak_depth(prediction.scale[0], side_px, seen.K))
        depth = depth.clamp(min=MIN_DEPTH_M)
        transl = lift_at_depth(prediction.shift_crop[0], track.labels.box_center_img[:num_frames], depth, seen.K)
        betas = prediction.betas[0]
        shared = torch.zeros_like(betas) if self._zero_betas else betas.mean(0).expand_as(betas)
        if not self._zero_betas:
            transl = transl + (self._wrist(betas) - self._wrist(shared))
        params = HandParams(prediction.global_orient[0], prediction.hand_pose[0], shared, transl)
        return Trajectory(
            frame_index=self._clip.labels(name).frame_index,
            time_s=self._clip.time_s(name),
            params=params if is_right else mirror_params(params),
            camera=camera,
            confidence=torch.ones(num_frames),
            observed=torch.ones(num_frames, dtype=torch.bool),
            is_right=torch.tensor(is_right),
        )

    def _wrist(self, betas: Float[Tensor, "T 10"]) -> Float[Tensor, "T 3"]:
        return self._hand_model.rest_joints(betas)[:, 0]

    def _answer(self, track: Any, places: tuple[int, ...]) -> HandPrediction:
        batch = make_clip(
            track.window(places),
            Augmentation.none(len(places)),
            cut=CutConfig.of(self._network.model.config),
        ).as_clip()
        model = self._network.model.eval()
        device = next(model.parameters()).device
        answer = model.predict_clips([batch.to(device)])[0].to("cpu")
        return replace(answer, **{key: value.float() for key, value in vars(answer).items()})
