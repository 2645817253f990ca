"""A synthetic clip before it is a picture: who moves how, seen from where; drawn by chance, evaluated at any time.

Body frame: the origin between the person's eyes, x to the person's right, y down, z forward. A left hand is described
as the right hand of the mirror image (x negated) and mirrored when it is evaluated. All motion is by cubic B-splines
with control values: two times continuously differentiable, and never beyond the values it is drawn from, so poses stay
within their limits.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import BSpline
from torch import Tensor

from haptic.geometry.cameras import intrinsics, project
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import apply_transform, invert_transform, make_transform
from haptic.hand.anatomy import pose_from_angles, sample_angles
from haptic.hand.mirror import mirror_params, mirror_points
from haptic.hand.model import HandModel, trajectory_joints
from haptic.records import Camera, HandParams, Trajectory

SHOULDER_BODY = (0.12, 0.3, -0.13)
MAX_DRAWS = 50
CLEARANCE_M = 0.025  # between joints of two hands, and between a joint and the desk
CHEST_Z_M = 0.12
MIN_HAND_DEPTH_M = 0.1
MIN_SHARE_SEEN = 0.75  # of the joints of a clip, inside the picture
UP_AND_BACK = (0.0, -0.8, -0.6)  # where the back of a hand faces that is neither pronated nor supinated


@dataclass(frozen=True)
class SceneConfig:
    """What clips are drawn from. Ranges are (lowest, highest)."""

    width_px: int = 640
    height_px: int = 480
    fps: float = 30.0
    num_frames: int = 32
    sides: tuple[Literal["right", "left"], ...] = ("right", "left")
    view: Literal["egocentric", "facing", "either"] = "either"
    fov_deg: tuple[float, float] = (50.0, 80.0)  # horizontal
    seconds_per_gesture: tuple[float, float] = (0.5, 1.0)
    betas_spread: float = 1.0  # standard deviations of the shape coefficients

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.fps <= 0 or min(self.width_px, self.height_px) < 16:
            raise ValueError(
                f"a clip of {self.num_frames} frames of {self.width_px} x {self.height_px} pixels at {self.fps} per "
                "second; expected at least one frame, 16 pixels on each side and a rate above zero"
            )
        if not 0 < self.fov_deg[0] <= self.fov_deg[1] < 170:
            raise ValueError(f"fov_deg is {self.fov_deg}; expected (lowest, highest) between 0 and 170 degrees")
        if not 0 < self.seconds_per_gesture[0] <= self.seconds_per_gesture[1]:
            raise ValueError(
                f"seconds_per_gesture is {self.seconds_per_gesture}; expected (lowest, highest) above zero"
            )


@dataclass(frozen=True)
class HandMotion:
    """One hand through time, by control values at even steps from the clip's start to its end.

    The forearm points from the elbow to the wrist; the hand turns about it (`supination`: 0 palm down, pi/2 thumb up,
    pi palm up), then bends at the wrist (`wrist_flexion` towards the palm, `wrist_deviation` towards the thumb).
    `angles` are the fingers' as in `haptic.hand.anatomy`.
    """

    is_right: bool
    betas: Float[np.ndarray, " 10"]
    wrist_body: Float[np.ndarray, "N 3"]
    elbow_body: Float[np.ndarray, "N 3"]
    supination: Float[np.ndarray, " N"]
    wrist_flexion: Float[np.ndarray, " N"]
    wrist_deviation: Float[np.ndarray, " N"]
    angles: Float[np.ndarray, "N 15 3"]


@dataclass(frozen=True)
class CameraMotion:
    """A camera through time: where it is, what it looks at and how far it leans, by control values at even steps."""

    K: Float[np.ndarray, "3 3"]
    place_body: Float[np.ndarray, "N 3"]
    target_body: Float[np.ndarray, "N 3"]
    roll: Float[np.ndarray, " N"]


@dataclass(frozen=True)
class Look:
    """Everything that is colour and light; `seed` decides textures and furniture."""

    seed: int
    skin: float  # 0 lightest, 1 darkest
    redness: float
    sleeve_start_m: float  # along the arm from the wrist; beyond the elbow: bare forearms
    light_direction_body: tuple[float, float, float]  # towards the light
    light_softness: float  # radius of the light over its distance
    light_color: tuple[float, float, float]
    ambient_color: tuple[float, float, float]
    exposure: float
    noise: float  # of the sensor, in units of full scale
    desk_height_m: float  # below the eyes


@dataclass(frozen=True)
class SyntheticScene:
    """A whole clip, ready to be rendered at any time between its first and last frame."""

    config: SceneConfig
    camera: CameraMotion
    hands: tuple[HandMotion, ...]
    look: Look

    @property
    def frame_time_s(self) -> Float[np.ndarray, " T"]:
        """When each frame is taken."""
        return np.arange(self.config.num_frames) / self.config.fps

    @property
    def duration_s(self) -> float:
        """From the first frame to the last, or one frame's time if there is only one."""
        return max(self.config.num_frames - 1, 1) / self.config.fps

    @property
    def hand_names(self) -> tuple[str, ...]:
        """The hands' names in files: right_0, left_0, ..."""
        sides = ["right" if hand.is_right else "left" for hand in self.hands]
        return tuple(f"{side}_{sides[:index].count(side)}" for index, side in enumerate(sides))


def sample_scene(config: SceneConfig, model: HandModel, *, rng: np.random.Generator) -> SyntheticScene:
    """Draw a clip: camera, one person's hands (one shape, one skin), gestures, light and room.

    Drawn again while hands touch each other or the desk, or are mostly outside the picture; after `MAX_DRAWS` tries the
    last drawing is taken as it is.
    """
    scene = _draw_scene(config, rng=rng)
    for _ in range(MAX_DRAWS):
        if _is_possible(scene, model):
            break
        scene = _draw_scene(config, rng=rng)
    return scene


def scene_camera(scene: SyntheticScene, time_s: Float[np.ndarray, " T"]) -> Camera:
    """Return the camera at these times; the world is the camera of the clip's first frame."""
    T_world_body = invert_transform(camera_T_body_cam(scene, np.zeros(1)))
    T_body_cam = camera_T_body_cam(scene, time_s)
    K = torch.from_numpy(scene.camera.K).float()
    return Camera(K=K.expand(len(time_s), 3, 3).clone(), T_world_cam=T_world_body @ T_body_cam)


def scene_trajectories(scene: SyntheticScene, model: HandModel) -> dict[str, Trajectory]:
    """Return the truth: each hand in every frame, as the camera sees it (left hands in MANO_LEFT's convention)."""
    camera = scene_camera(scene, scene.frame_time_s)
    num_frames = scene.config.num_frames
    return {
        name: Trajectory(
            frame_index=torch.arange(num_frames),
            time_s=torch.from_numpy(scene.frame_time_s).float(),
            params=hand_params_cam(scene, hand, model, scene.frame_time_s),
            camera=camera,
            confidence=torch.ones(num_frames),
            observed=torch.ones(num_frames, dtype=torch.bool),
            is_right=torch.tensor(hand.is_right),
        )
        for name, hand in zip(scene.hand_names, scene.hands, strict=True)
    }


def hand_params_cam(
    scene: SyntheticScene, hand: HandMotion, model: HandModel, time_s: Float[np.ndarray, " T"]
) -> HandParams:
    """Return a hand's parameters at these times in the camera of each, left hands in MANO_LEFT's convention."""
    params = hand_params_body(scene, hand, model, time_s)
    T_cam_body = invert_transform(camera_T_body_cam(scene, time_s))
    rest_wrist = model.rest_joints(params.betas)[:, 0]
    if not hand.is_right:
        rest_wrist = mirror_points(rest_wrist)
    wrist_cam = apply_transform(T_cam_body, (rest_wrist + params.transl)[:, None])[:, 0]
    return HandParams(
        global_orient=T_cam_body[:, :3, :3] @ params.global_orient,
        hand_pose=params.hand_pose,
        betas=params.betas,
        transl=wrist_cam - rest_wrist,
    )


def hand_params_body(
    scene: SyntheticScene, hand: HandMotion, model: HandModel, time_s: Float[np.ndarray, " T"]
) -> HandParams:
    """Return a hand's parameters at these times in the body's frame, left hands in MANO_LEFT's convention."""

    def at(values: np.ndarray) -> Tensor:
        return spline(values, time_s, scene.duration_s)

    wrist_body = at(hand.wrist_body)
    to_elbow = _unit(at(hand.elbow_body) - wrist_body)
    back = to_elbow.new_tensor(UP_AND_BACK).expand_as(to_elbow)
    back = _unit(back - (back * to_elbow).sum(-1, keepdim=True) * to_elbow)
    forearm = torch.stack([to_elbow, back, torch.linalg.cross(to_elbow, back)], dim=-1)
    # In MANO's rest frame the forearm lies towards +x, the back of the hand +y, the thumb +z.
    about_x, about_y, about_z = torch.eye(3)
    bend = (
        rotation_from_aa(-at(hand.supination)[:, None] * about_x)
        @ rotation_from_aa(at(hand.wrist_flexion)[:, None] * about_z)
        @ rotation_from_aa(at(hand.wrist_deviation)[:, None] * about_y)
    )
    betas = torch.from_numpy(hand.betas).float().expand(len(time_s), 10)
    params = HandParams(
        global_orient=forearm @ bend,
        hand_pose=pose_from_angles(at(hand.angles)),
        betas=betas,
        transl=wrist_body - model.rest_joints(betas)[:, 0],
    )
    return params if hand.is_right else mirror_params(params)


def arm_points_body(
    scene: SyntheticScene, hand: HandMotion, time_s: Float[np.ndarray, " T"]
) -> tuple[Float[Tensor, "T 3"], Float[Tensor, "T 3"]]:
    """Return the elbow and the shoulder in the body's frame."""
    elbow = spline(hand.elbow_body, time_s, scene.duration_s)
    shoulder = elbow.new_tensor(SHOULDER_BODY).expand_as(elbow)
    return (elbow, shoulder) if hand.is_right else (mirror_points(elbow), mirror_points(shoulder))


def camera_T_body_cam(scene: SyntheticScene, time_s: Float[np.ndarray, " T"]) -> Float[Tensor, "T 4 4"]:
    """Return the camera's place in the body's frame at these times."""
    place = spline(scene.camera.place_body, time_s, scene.duration_s)
    forward = _unit(spline(scene.camera.target_body, time_s, scene.duration_s) - place)
    right = _unit(torch.linalg.cross(forward.new_tensor([0.0, 1.0, 0.0]).expand_as(forward), forward))
    level = torch.stack([right, torch.linalg.cross(forward, right), forward], dim=-1)
    roll = spline(scene.camera.roll, time_s, scene.duration_s)
    lean = rotation_from_aa(roll[:, None] * forward.new_tensor([0.0, 0.0, 1.0]))
    return make_transform(level @ lean, place)


def spline(
    values: Float[np.ndarray, " N *rest"], time_s: Float[np.ndarray, " T"], duration_s: float
) -> Float[Tensor, " T *rest"]:
    """Return the clamped cubic B-spline with these control values: it starts at the first and ends at the last."""
    degree = min(3, len(values) - 1)
    inner = np.linspace(0, duration_s, len(values) - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.full(degree, duration_s)])
    curve = BSpline(knots, np.asarray(values, np.float64), degree)
    return torch.from_numpy(curve(np.clip(time_s, 0, duration_s))).float()


def _draw_scene(config: SceneConfig, *, rng: np.random.Generator) -> SyntheticScene:
    seconds_per_gesture = rng.uniform(*config.seconds_per_gesture)
    num_keys = max(4, int(np.ceil(config.num_frames / config.fps / seconds_per_gesture)) + 3)
    egocentric = config.view == "egocentric" or (config.view == "either" and rng.random() < 0.6)
    betas = rng.normal(0, config.betas_spread, 10).clip(-3, 3)
    return SyntheticScene(
        config=config,
        camera=_sample_camera(config, num_keys, egocentric=egocentric, rng=rng),
        hands=tuple(
            _sample_hand(side == "right", betas, num_keys, egocentric=egocentric, rng=rng) for side in config.sides
        ),
        look=_sample_look(rng=rng),
    )


def _is_possible(scene: SyntheticScene, model: HandModel) -> bool:
    """Say whether the hands keep clear of each other, the desk and the face, and are seen most of the time."""
    time_s = scene.frame_time_s
    T_body_cam = camera_T_body_cam(scene, time_s)
    size = torch.tensor([scene.config.width_px, scene.config.height_px])
    earlier: list[Tensor] = []
    for trajectory in scene_trajectories(scene, model).values():
        joints_cam = trajectory_joints(model, trajectory)
        joints_img = project(joints_cam, trajectory.camera.K)
        is_inside = ((joints_img >= 0) & (joints_img < size)).all(-1) & (joints_cam[..., 2] > MIN_HAND_DEPTH_M)
        joints_body = apply_transform(T_body_cam, joints_cam)
        if is_inside.float().mean() < MIN_SHARE_SEEN or joints_body[..., 2].min() < CHEST_Z_M:
            return False
        if joints_body[..., 1].max() > scene.look.desk_height_m - CLEARANCE_M:
            return False
        if any(torch.cdist(other, joints_body).min() < CLEARANCE_M for other in earlier):
            return False
        earlier.append(joints_body)
    return True


def _sample_hand(
    is_right: bool, betas: np.ndarray, num_keys: int, *, egocentric: bool, rng: np.random.Generator
) -> HandMotion:
    # A reachable place before the chest, in which the hand wanders; egocentric hands keep below the line of sight.
    middle = np.array([rng.uniform(0.02, 0.2), rng.uniform(0.16, 0.3) if egocentric else rng.uniform(0.0, 0.3), 0])
    middle[2] = rng.uniform(0.3, 0.45)
    wander = rng.uniform(0.02, 0.08)
    elbow = np.array([rng.uniform(0.2, 0.33), rng.uniform(0.4, 0.52), rng.uniform(-0.05, 0.12)])
    supination = rng.choice([0.15, 0.5, 0.9]) * np.pi + rng.normal(0, 0.35)
    angles = sample_angles(num_keys, rng=rng).numpy().astype(np.float64)
    return HandMotion(
        is_right=is_right,
        betas=betas,
        wrist_body=middle + rng.normal(0, 1, (num_keys, 3)).clip(-2, 2) * wander,
        elbow_body=elbow + rng.normal(0, 0.02, (num_keys, 3)),
        supination=np.clip(supination + rng.normal(0, 0.5, num_keys), -0.3, 3.0),
        wrist_flexion=np.radians(rng.normal(-5, 22, num_keys).clip(-55, 60)),
        wrist_deviation=np.radians(rng.normal(-4, 9, num_keys).clip(-28, 18)),
        angles=angles,
    )


def _sample_camera(config: SceneConfig, num_keys: int, *, egocentric: bool, rng: np.random.Generator) -> CameraMotion:
    fov = np.radians(rng.uniform(*config.fov_deg))
    focal_px = config.width_px / 2 / np.tan(fov / 2)
    jitter = rng.normal(0, 1, (num_keys, 3)).clip(-2, 2)
    if egocentric:
        place = np.array([0, rng.uniform(-0.1, 0.02), rng.uniform(0.0, 0.08)])
        target = np.array([rng.uniform(-0.03, 0.03), rng.uniform(0.2, 0.3), rng.uniform(0.42, 0.55)])
    else:
        place = np.array([rng.uniform(-0.25, 0.25), rng.uniform(-0.1, 0.15), rng.uniform(0.9, 1.25)])
        target = np.array([rng.uniform(-0.04, 0.04), rng.uniform(0.08, 0.22), 0.4])
    return CameraMotion(
        K=intrinsics(focal_px, width=config.width_px, height=config.height_px).numpy().astype(np.float64),
        place_body=place + jitter * 0.025,
        target_body=target + rng.normal(0, 0.02, (num_keys, 3)).clip(-0.05, 0.05),
        roll=rng.normal(0, 0.05, num_keys),
    )


def _sample_look(*, rng: np.random.Generator) -> Look:
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.95)
    flat = np.sqrt(1 - height**2)
    warmth = rng.uniform(-0.12, 0.15)
    sky = rng.uniform(-0.1, 0.1)
    ambient = rng.uniform(0.3, 0.65)
    return Look(
        seed=int(rng.integers(1 << 31)),
        skin=float(rng.uniform(0, 1)),
        redness=float(rng.uniform(0, 1)),
        sleeve_start_m=float(rng.choice([0.02, 0.08, 0.14, 0.5])),
        light_direction_body=(float(flat * np.cos(azimuth)), float(-height), float(flat * np.sin(azimuth))),
        light_softness=float(rng.uniform(0.03, 0.3)),
        light_color=(1 + warmth, 1.0, 1 - warmth),
        ambient_color=(ambient * (1 - sky), ambient, ambient * (1 + sky)),
        exposure=float(np.exp(rng.normal(0, 0.25))),
        noise=float(rng.uniform(0.002, 0.02)),
        desk_height_m=float(rng.uniform(0.44, 0.54)),
    )


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)
