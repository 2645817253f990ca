"""What the clips for training are drawn from: who does what, holding what, seen from where, in which light.

A clip is a `SyntheticScene` (hands, camera, light) with the things about it and the film it is taken on. All of it is
drawn from (seed, index) alone. Motion: gestures with smooth ways between them, pauses, fast strokes, and movements that
repeat; control values are dense (`KEY_RATE_HZ`), so that all of these are splines.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from haptic.data.samples import CROP_REACH
from haptic.data.synthetic.gestures import GestureBook, GestureKind, within_limits
from haptic.data.synthetic.objects import Shape, draw_palm_object, draw_pinched_object, draw_standing_object
from haptic.data.synthetic.scene import (
    CameraMotion,
    HandMotion,
    Look,
    SceneConfig,
    SyntheticScene,
    camera_T_body_cam,
    scene_trajectories,
    spline,
)
from haptic.geometry.cameras import project
from haptic.geometry.transforms import apply_transform
from haptic.hand.model import HandModel, trajectory_joints

KEY_RATE_HZ = 14.0
SIZES_PX = ((640, 480), (640, 480), (640, 360), (480, 640), (360, 640), (480, 480))
RATES_HZ = (30.0, 30.0, 30.0, 15.0, 10.0, 60.0)
SHOULDER_REACH_BODY = (0.17, 0.24, -0.06)  # of the right arm
UPPER_ARM_M, FOREARM_M = 0.29, 0.255
NO_DESK_M = 2.0  # a desk so far below is never met
MIN_DEPTH_M = 0.14
CLEARANCE_M = 0.019  # between joints of two hands: two fingers' flesh
DESK_CLEARANCE_M = 0.022
MIN_JOINTS_INSIDE = 9  # of 21, for a frame to have a label
MAX_DRAWS = 60
HIGHEST_CAMERA_DEG = 80

GESTURE_KINDS: tuple[GestureKind, ...] = ("natural", "sign", "pinch", "chance")
GESTURE_SHARES = (0.45, 0.33, 0.12, 0.10)

View = Literal["egocentric", "allocentric", "either"]


@dataclass(frozen=True)
class ClipsConfig:
    """The distribution. Ranges are (lowest, highest); shares are of clips."""

    num_frames: int = 16
    view: View = "either"
    egocentric_share: float = 0.45
    focal_widths: tuple[float, float] = (0.5, 4.0)  # allocentric cameras' focal length over the image's width
    egocentric_focal_widths: tuple[float, float] = (0.5, 1.1)
    two_hands_share: float = 0.55
    object_share: float = 0.3
    static_camera_share: float = 0.4
    rates_hz: tuple[float, ...] = RATES_HZ
    backgrounds: Path | None = None  # a folder of pictures
    crop_px: int = 256
    frame_px: int = 160
    expansion: float = 3.0  # of the network's box over the tight box of the joints
    crop_reach: float = CROP_REACH  # of the stored crop over the network's box; twice its `box_share` is enough

    def __post_init__(self) -> None:
        if self.num_frames < 1 or min(self.crop_px, self.frame_px) < 32 or not self.expansion >= 1:
            raise ValueError(
                f"num_frames {self.num_frames}, crop_px {self.crop_px}, frame_px {self.frame_px}, expansion "
                f"{self.expansion}: expected at least 1, 32, 32 and 1"
            )
        if not 0.5 <= self.crop_reach <= 4:
            raise ValueError(f"crop_reach is {self.crop_reach}; expected 0.5 to 4 of the network's box")
        for name in ("focal_widths", "egocentric_focal_widths"):
            low, high = getattr(self, name)
            if not 0.3 <= low <= high <= 10:
                raise ValueError(f"{name} is {(low, high)}; expected (lowest, highest) between 0.3 and 10")
        for name in ("egocentric_share", "two_hands_share", "object_share", "static_camera_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; a share lies between 0 and 1")
        if not self.rates_hz or min(self.rates_hz) <= 0:
            raise ValueError(f"rates_hz is {self.rates_hz}; expected one or more frame rates above zero")


@dataclass(frozen=True)
class HeldObject:
    """A thing that moves with a hand: its place in the right hand's rest axes about the wrist."""

    hand: int  # in the scene
    shape: Shape
    rotation: Float[np.ndarray, "3 3"]
    place: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class StandingObject:
    """A thing on the desk: its middle in the body's frame, turned about the vertical."""

    shape: Shape
    place_body: Float[np.ndarray, " 3"]
    turn: float


@dataclass(frozen=True)
class Light:
    """A light far away. Only the first of a clip's lights casts shadows, or the first two."""

    direction_body: tuple[float, float, float]  # towards it
    color: tuple[float, float, float]
    casts_shadow: bool


@dataclass(frozen=True)
class Film:
    """What happens between the light and the file."""

    exposure_s: float  # motion blur; 0: none
    noise: float
    noise_grain_px: float
    softness_px: float  # of the lens, in pixels of the crop
    resolution: float  # 1: as rendered; below: taken with fewer pixels and enlarged
    background_blur_px: float
    contrast: float
    gain: tuple[float, float, float]  # white balance
    jpeg_quality: int


@dataclass(frozen=True)
class ClipDrawing:
    """Everything that is drawn for a clip; `is_egocentric` and `focal_widths` say which kind it is."""

    scene: SyntheticScene
    is_egocentric: bool
    focal_widths: float
    held: tuple[HeldObject, ...]
    standing: tuple[StandingObject, ...]
    has_desk: bool
    has_person: bool
    wall_distance_m: float
    lights: tuple[Light, ...]
    skin_gain: tuple[float, float, float]
    film: Film = field(repr=False)


def draw_clip(config: ClipsConfig, model: HandModel, book: GestureBook, *, rng: np.random.Generator) -> ClipDrawing:
    """Draw clips until the hands touch neither each other nor the desk and are in the picture long enough.

    After `MAX_DRAWS` the last one is taken with one hand only.
    """
    for draw in range(MAX_DRAWS + 1):
        drawing = _draw_once(config, book, rng=rng)
        if draw == MAX_DRAWS:
            scene = replace(drawing.scene, hands=drawing.scene.hands[:1])
            drawing = replace(drawing, scene=scene, held=tuple(thing for thing in drawing.held if thing.hand == 0))
        if _is_possible(drawing, model):
            break
    return drawing


def seen_frames(
    joints_img: Float[torch.Tensor, "T 21 2"], depth_m: Float[torch.Tensor, "T 21"], size: tuple[int, int]
) -> slice:
    """Return the longest stretch of frames in which enough of a hand is in the picture; it may be empty."""
    inside = ((joints_img > -0.5) & (joints_img < torch.tensor(size) - 0.5)).all(-1)
    good = ((inside.sum(-1) >= MIN_JOINTS_INSIDE) & (depth_m.amin(-1) > MIN_DEPTH_M)).tolist()
    best, start = slice(0, 0), 0
    for frame in range(len(good) + 1):
        if frame == len(good) or not good[frame]:
            if frame - start > best.stop - best.start:
                best = slice(start, frame)
            start = frame + 1
    return best


def _draw_once(config: ClipsConfig, book: GestureBook, *, rng: np.random.Generator) -> ClipDrawing:
    width, height = SIZES_PX[rng.integers(len(SIZES_PX))]
    is_egocentric = config.view == "egocentric" or (config.view == "either" and rng.random() < config.egocentric_share)
    fps = float(rng.choice(config.rates_hz))
    scene_config = SceneConfig(width_px=width, height_px=height, fps=fps, num_frames=config.num_frames)
    duration_s = max(config.num_frames - 1, 1) / fps
    has_desk = rng.random() < 0.6
    desk_height_m = float(rng.uniform(0.4, 0.56)) if has_desk else NO_DESK_M
    betas = rng.normal(0, 1.1, 10).clip(-3, 3)
    two = rng.random() < config.two_hands_share
    sides = (True, False) if two else ((True,) if rng.random() < 0.5 else (False,))
    together = two and rng.random() < 0.4
    meeting = np.array([rng.normal(0, 0.05), rng.uniform(0.1, 0.34), rng.uniform(0.26, 0.46)])
    hands, held = [], []
    for number, is_right in enumerate(sides):
        motion, thing = _draw_hand(
            config, book, duration_s, is_right=is_right, betas=betas, number=number,
            meeting=meeting if together else None, is_egocentric=is_egocentric, rng=rng,
        )  # fmt: skip
        hands.append(motion)
        held += [thing] if thing else []
    middle = _middle(hands, duration_s)
    low, high = config.egocentric_focal_widths if is_egocentric else config.focal_widths
    focal_widths = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    camera = _draw_camera(
        config,
        scene_config,
        focal_widths,
        middle,
        duration_s,
        is_egocentric=is_egocentric,
        desk_height_m=desk_height_m,
        rng=rng,
    )
    lights, look = _draw_light(desk_height_m, rng=rng)
    distance = float(np.linalg.norm(camera.place_body[0] - middle))
    standing = _draw_standing(desk_height_m, middle, rng=rng) if has_desk and rng.random() < 0.5 else ()
    return ClipDrawing(
        scene=SyntheticScene(config=scene_config, camera=camera, hands=tuple(hands), look=look),
        is_egocentric=is_egocentric,
        focal_widths=focal_widths,
        held=tuple(held),
        standing=standing,
        has_desk=has_desk,
        has_person=not is_egocentric,
        wall_distance_m=distance + float(np.exp(rng.uniform(np.log(0.35), np.log(4.0)))),
        lights=lights,
        skin_gain=_tint(rng, 0.06, 0.18),
        film=_draw_film(fps, rng=rng),
    )


def _middle(hands: list[HandMotion], duration_s: float) -> Float[np.ndarray, " 3"]:
    """Return the mean of the wrists' places halfway through, in the body's frame."""
    places = []
    for hand in hands:
        place = spline(hand.wrist_body, np.array([duration_s / 2]), duration_s)[0].numpy()
        places.append(place * [1 if hand.is_right else -1, 1, 1])
    return np.mean(places, axis=0)


def _is_possible(drawing: ClipDrawing, model: HandModel) -> bool:
    scene = drawing.scene
    time_s = scene.frame_time_s
    T_body_cam = camera_T_body_cam(scene, time_s)
    earlier: list[torch.Tensor] = []
    longest = 0
    for trajectory in scene_trajectories(scene, model).values():
        joints_cam = trajectory_joints(model, trajectory)
        joints_img = project(joints_cam, trajectory.camera.K)
        seen = seen_frames(joints_img, joints_cam[..., 2], (scene.config.width_px, scene.config.height_px))
        longest = max(longest, seen.stop - seen.start)
        joints_body = apply_transform(T_body_cam, joints_cam)
        if joints_body[..., 1].max() > scene.look.desk_height_m - DESK_CLEARANCE_M:
            return False
        if any(torch.cdist(other, joints_body).min() < CLEARANCE_M for other in earlier):
            return False
        earlier.append(joints_body)
        for thing in drawing.standing:
            beside = joints_body - torch.from_numpy(thing.place_body).float()
            if (beside.norm(dim=-1) < 0.04 + max(thing.shape.half_size_m)).any():
                return False
    return longest == scene.config.num_frames


@dataclass
class _Way:
    """A hand's motion while it is drawn: values at even steps. Pauses, strokes and repetitions are put into it."""

    wrist: np.ndarray
    angles: np.ndarray
    supination: np.ndarray
    flexion: np.ndarray
    deviation: np.ndarray

    def parts(self) -> tuple[np.ndarray, ...]:
        return self.wrist, self.angles, self.supination, self.flexion, self.deviation

    def pause(self, *, rng: np.random.Generator) -> None:
        """Let some values be those before them."""
        for key in range(1, len(self.wrist)):
            if rng.random() < 0.6:
                for part in self.parts():
                    part[key] = part[key - 1]

    def dense(self, duration_s: float) -> tuple["_Way", np.ndarray]:
        """Return the motion at steps that are short enough for strokes and repetitions, and their times."""
        time_s = np.linspace(0, duration_s, max(4, int(np.ceil(duration_s * KEY_RATE_HZ)) + 3))
        parts = (spline(part, time_s, duration_s).numpy().astype(np.float64) for part in self.parts())
        return _Way(*parts), time_s

    def stroke(self, time_s: np.ndarray, *, rng: np.random.Generator) -> None:
        """Move the hand within a fifth of a second, perhaps back again."""
        moment, way = rng.uniform(0, time_s[-1]), rng.normal(0, 1, 3)
        way *= rng.uniform(0.08, 0.22) / np.linalg.norm(way)
        share = 1 / (1 + np.exp(-(time_s - moment) / rng.uniform(0.02, 0.05)))
        if rng.random() < 0.5:
            share = share - 1 / (1 + np.exp(-(time_s - moment - rng.uniform(0.2, 0.4)) / 0.04))
        self.wrist = self.wrist + share[:, None] * way

    def repeat(self, time_s: np.ndarray, other: np.ndarray | None, *, rng: np.random.Generator) -> None:
        """Wave, turn, beat, or go between the gesture and another one, over and over."""
        wave = np.sin(2 * np.pi * rng.uniform(0.8, 3.0) * time_s + rng.uniform(0, 2 * np.pi))
        what = rng.integers(4 if other is None else 5)
        if what == 0:
            way = rng.normal(0, 1, 3)
            self.wrist = self.wrist + wave[:, None] * way / np.linalg.norm(way) * rng.uniform(0.015, 0.06)
        elif what == 1:
            self.supination = self.supination + wave * rng.uniform(0.2, 0.7)
        elif what == 2:
            self.deviation = self.deviation + wave * rng.uniform(0.1, 0.35)
        elif what == 3:
            self.flexion = self.flexion + wave * rng.uniform(0.15, 0.5)
        else:
            self.angles = self.angles + (0.5 + 0.5 * wave)[:, None, None] * (other - self.angles)


def _draw_hand(
    config: ClipsConfig,
    book: GestureBook,
    duration_s: float,
    *,
    is_right: bool,
    betas: np.ndarray,
    number: int,
    meeting: np.ndarray | None,
    is_egocentric: bool,
    rng: np.random.Generator,
) -> tuple[HandMotion, HeldObject | None]:
    seconds_per_gesture = float(np.exp(rng.uniform(np.log(0.25), np.log(1.5))))
    num_keys = max(4, int(np.ceil(duration_s / seconds_per_gesture)) + 3)
    kind: GestureKind = rng.choice(np.array(GESTURE_KINDS), p=GESTURE_SHARES).item()
    angles = book.draw(kind, num_keys, rng=rng)
    if rng.random() < 0.25:  # one gesture and small changes of it
        angles = within_limits(angles[:1] + np.radians(rng.normal(0, 4, angles.shape)))
    held = None
    if rng.random() < config.object_share:
        shape, grip_angles, rotation, place = _draw_held(book, rng=rng)
        held = HeldObject(number, shape, rotation, place)
        angles = np.repeat(grip_angles[None], num_keys, axis=0)
    middle, wander = _draw_place(meeting, is_right=is_right, is_egocentric=is_egocentric, rng=rng)
    way = _Way(
        wrist=middle + rng.normal(0, 1, (num_keys, 3)).clip(-2, 2) * wander,
        angles=angles,
        supination=rng.uniform(-0.4, 3.1) + rng.normal(0, 1, num_keys) * np.exp(rng.uniform(np.log(0.05), np.log(0.8))),
        flexion=np.radians(rng.normal(-5, 24) + rng.normal(0, 16, num_keys)),
        deviation=np.radians(rng.normal(-4, 8) + rng.normal(0, 7, num_keys)),
    )
    style = rng.choice(np.array(("smooth", "pauses", "stroke", "repeated")), p=(0.35, 0.3, 0.15, 0.2))
    if style == "pauses":
        way.pause(rng=rng)
    way, time_s = way.dense(duration_s)
    if style == "stroke":
        way.stroke(time_s, rng=rng)
    elif style == "repeated":
        way.repeat(time_s, None if held else book.draw(kind, 1, rng=rng), rng=rng)
    wrist, elbow = _reach(way.wrist, swivel=rng.normal(0.5, 0.35))
    motion = HandMotion(
        is_right=is_right,
        betas=betas,
        wrist_body=wrist,
        elbow_body=elbow,
        supination=np.clip(way.supination, -0.5, 3.2),
        wrist_flexion=np.clip(way.flexion, np.radians(-65), np.radians(70)),
        wrist_deviation=np.clip(way.deviation, np.radians(-32), np.radians(22)),
        angles=within_limits(way.angles),
    )
    return motion, held


def _draw_place(
    meeting: np.ndarray | None, *, is_right: bool, is_egocentric: bool, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Return the middle of a wrist's way and how far it wanders; hands that work together are near `meeting`."""
    if meeting is not None:
        beside = [rng.uniform(0.03, 0.09), rng.normal(0, 0.04), rng.normal(0, 0.04)]
        middle = meeting * [1 if is_right else -1, 1, 1] + beside
        return middle, float(np.exp(rng.uniform(np.log(0.005), np.log(0.035))))
    if not is_egocentric and rng.random() < 0.5:  # raised before the shoulder: signing, waving
        middle = np.array([rng.uniform(0.05, 0.38), rng.uniform(-0.1, 0.2), rng.uniform(0.18, 0.4)])
    else:
        middle = np.array([rng.uniform(-0.06, 0.3), rng.uniform(0.08, 0.36), rng.uniform(0.24, 0.5)])
    return middle, float(np.exp(rng.uniform(np.log(0.01), np.log(0.11))))


def _draw_held(book: GestureBook, *, rng: np.random.Generator) -> tuple[Shape, np.ndarray, np.ndarray, np.ndarray]:
    """Return an object, the gesture that holds it, and where it is."""
    if rng.random() < 0.65:
        shape = draw_palm_object(rng=rng)
        grip = book.grip(shape, rng=rng)
        return shape, grip.angles, grip.rotation, grip.place
    shape = draw_pinched_object(rng=rng)
    angles = book.draw_pinch_for(2 * shape.half_thickness_m + 0.004, rng=rng)
    tips = book.tips(angles[None])[0]
    across = (tips[1] - tips[0]) / max(float(np.linalg.norm(tips[1] - tips[0])), 1e-6)
    along = np.cross(across, rng.normal(0, 1, 3))
    along /= np.linalg.norm(along)
    rotation = np.stack([np.cross(along, across), along, across], axis=-1)
    return shape, angles, rotation, tips.mean(axis=0)


def _reach(wrist: np.ndarray, *, swivel: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the wrist, brought within the arm's reach, and the elbow: below the line to the shoulder, or outward."""
    shoulder = np.array(SHOULDER_REACH_BODY)
    way = wrist - shoulder
    length = np.linalg.norm(way, axis=-1, keepdims=True)
    reach = np.clip(length, 0.2, 0.97 * (UPPER_ARM_M + FOREARM_M))
    wrist = shoulder + way / length * reach
    along = way / length
    from_shoulder = (reach**2 + UPPER_ARM_M**2 - FOREARM_M**2) / (2 * reach)
    aside = np.sqrt(np.maximum(UPPER_ARM_M**2 - from_shoulder**2, 1e-6))
    down = np.array([np.sin(swivel), np.cos(swivel), -0.15])
    down = down - (along @ down)[:, None] * along
    down /= np.linalg.norm(down, axis=-1, keepdims=True)
    return wrist, shoulder + from_shoulder * along + aside * down


def _draw_camera(
    config: ClipsConfig,
    scene: SceneConfig,
    focal_widths: float,
    middle: np.ndarray,
    duration_s: float,
    *,
    is_egocentric: bool,
    desk_height_m: float,
    rng: np.random.Generator,
) -> CameraMotion:
    num_keys = max(4, int(np.ceil(duration_s / 0.35)) + 3)
    is_static = rng.random() < config.static_camera_share
    focal_px = focal_widths * scene.width_px
    K = np.array([[focal_px, 0, (scene.width_px - 1) / 2], [0, focal_px, (scene.height_px - 1) / 2], [0, 0, 1.0]])
    if is_egocentric:
        place = np.array([rng.normal(0, 0.02), rng.uniform(-0.12, 0.03), rng.uniform(-0.02, 0.1)])
        target = middle + rng.normal(0, 0.05, 3) + [0, rng.uniform(-0.04, 0.06), 0.08]
        roll = rng.normal(0, 0.12)
        shake, turn = (
            (0.0, 0.0) if is_static and rng.random() < 0.4 else (rng.uniform(0.004, 0.04), rng.uniform(0.005, 0.06))
        )
    else:
        shown_m = float(np.exp(rng.uniform(np.log(0.36), np.log(1.3))))
        side = min(scene.width_px, scene.height_px) / scene.width_px
        distance = max(focal_widths * shown_m / np.sqrt(side), 0.3)
        azimuth = rng.normal(0, 1.0) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
        height = np.radians(rng.uniform(-12, HIGHEST_CAMERA_DEG))
        way = np.array([np.cos(height) * np.sin(azimuth), -np.sin(height), np.cos(height) * np.cos(azimuth)])
        place = middle + distance * way
        place[1] = min(place[1], desk_height_m - 0.08)
        target = middle + rng.normal(0, 0.14, 3) * shown_m
        roll = rng.normal(0, 0.1)
        shake = 0.0 if is_static else distance * np.exp(rng.uniform(np.log(0.002), np.log(0.08)))
        turn = 0.0 if is_static else shown_m * np.exp(rng.uniform(np.log(0.004), np.log(0.12)))
    if rng.random() < 0.12:
        roll = rng.uniform(-np.pi, np.pi)
    moving = 0.0 if is_static else rng.uniform(0, 0.06)
    return CameraMotion(
        K=K,
        place_body=place + shake * rng.normal(0, 1, (num_keys, 3)).clip(-2, 2),
        target_body=target + turn * rng.normal(0, 1, (num_keys, 3)).clip(-2, 2),
        roll=roll + moving * rng.normal(0, 1, num_keys),
    )


def _draw_light(desk_height_m: float, *, rng: np.random.Generator) -> tuple[tuple[Light, ...], Look]:
    def direction() -> tuple[float, float, float]:
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.97)
        flat = np.sqrt(1 - height**2)
        return float(flat * np.cos(azimuth)), float(-height), float(flat * np.sin(azimuth))

    key = rng.uniform(0.55, 1.25)
    lights = [Light(direction(), _tint(rng, 0.12, 0.0, key), casts_shadow=True)]
    for _ in range(rng.integers(0, 3)):
        lights.append(Light(direction(), _tint(rng, 0.2, 0.0, rng.uniform(0.08, 0.4)), casts_shadow=False))
    if len(lights) > 1 and rng.random() < 0.15:
        lights[1] = replace(lights[1], casts_shadow=True)
    ambient = rng.uniform(0.18, 0.6)
    look = Look(
        seed=int(rng.integers(1 << 31)),
        skin=float(rng.uniform(0, 1)),
        redness=float(rng.uniform(0, 1)),
        sleeve_start_m=float(rng.choice([0.01, 0.04, 0.1, 0.17, 0.6], p=[0.15, 0.15, 0.15, 0.1, 0.45])),
        light_direction_body=lights[0].direction_body,
        light_softness=float(np.exp(rng.uniform(np.log(0.01), np.log(0.3)))),
        light_color=lights[0].color,
        ambient_color=_tint(rng, 0.1, 0.0, ambient),
        exposure=float(np.exp(rng.normal(0.0, 0.28))),
        noise=0.0,
        desk_height_m=desk_height_m,
    )
    return tuple(lights), look


def _draw_standing(desk_height_m: float, middle: np.ndarray, *, rng: np.random.Generator) -> tuple[StandingObject, ...]:
    things = []
    for _ in range(rng.integers(1, 4)):
        shape = draw_standing_object(rng=rng)
        place = np.array(
            [middle[0] + rng.normal(0, 0.25), desk_height_m - shape.half_size_m[1], rng.uniform(0.25, 0.8)]
        )
        things.append(StandingObject(shape, place, float(rng.uniform(0, np.pi))))
    return tuple(things)


def _draw_film(fps: float, *, rng: np.random.Generator) -> Film:
    is_blurred = rng.random() < 0.4
    return Film(
        exposure_s=float(min(rng.uniform(0.004, 0.03), 0.9 / fps)) if is_blurred else 0.0,
        noise=float(np.exp(rng.uniform(np.log(0.5), np.log(7.0)))),
        noise_grain_px=float(rng.choice([0.0, 0.0, 0.8, 1.4])),
        softness_px=float(rng.choice([0.0, 0.5, 0.8, 1.3], p=[0.35, 0.3, 0.2, 0.15])),
        resolution=float(rng.choice([1.0, 0.7, 0.45, 0.3], p=[0.6, 0.2, 0.15, 0.05])),
        background_blur_px=float(rng.choice([0.0, 1.5, 4.0], p=[0.6, 0.25, 0.15])),
        contrast=float(np.exp(rng.normal(0, 0.15))),
        gain=_tint(rng, 0.07, 0.0),
        jpeg_quality=int(rng.choice([92, 85, 70, 50, 35], p=[0.4, 0.25, 0.2, 0.1, 0.05])),
    )


def _tint(rng: np.random.Generator, spread: float, brightness: float, level: float = 1.0) -> tuple[float, float, float]:
    gain = level * np.exp(rng.normal(0, brightness) + rng.normal(0, spread, 3) * [1, 0.4, 1])
    return float(gain[0]), float(gain[1]), float(gain[2])
