"""Augmentation: a window of one hand becomes network input with its labels, boxes and cameras in step.

Two ways. `official` is HaPTIC's: the crop is zoomed, turned, shifted and tinted, and the full frame too, but on its
own, so that the network sees a hand upright in a room that leans. `coherent` turns the camera: crop, full frame, labels
and camera share one roll; the full frame's zoom and shift are another focal length and principal point, which K
follows.

The stored image is turned by -turn about the principal point and then zoomed and shifted (coherent); that makes the
image of which all labels speak afterwards.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from haptic.data.batches import ClipBatch
from haptic.data.crops import AntiAlias, CutConfig, cut_crop
from haptic.data.readers import Picture, Window
from haptic.data.samples import HandLabels
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import make_transform
from haptic.records import Camera, HandParams, Targets


@dataclass(frozen=True)
class AugmentConfig:
    """How strong augmentation is; the defaults are HaMeR's and HaPTIC's numbers.

    Normal draws are cut: at one spread for zoom and shift, at two for the turn.
    """

    mode: Literal["official", "coherent", "off"] = "coherent"
    zoom: float = 0.3
    turn_deg: float = 30.0
    turn_rate: float = 0.6
    shift: float = 0.02  # of the box's side; always
    gain: float = 0.2  # colours are multiplied by 1 - gain ... 1 + gain
    frame_rate: float = 0.5  # the share of windows whose full frame is changed
    frame_turn_rate: float = 0.1  # of those; official only

    def __post_init__(self) -> None:
        for name in ("turn_rate", "frame_rate", "frame_turn_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        for name, limit in (("zoom", 0.3), ("turn_deg", 90.0), ("shift", 0.05), ("gain", 1.0)):
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(
                    f"augment.{name} is {getattr(self, name)}; expected 0 to {limit:g} (stored crops reach no further)"
                )


@dataclass(frozen=True)
class Augmentation:
    """What is done to a window of T frames.

    The crop's square is `crop_zoom` times as large (above 1: more is seen), moved by `crop_shift` of the box's side and
    turned by `turn_rad`; the full frame's likewise. `is_coherent`: the frame's change is the camera's.
    """

    crop_zoom: Float[np.ndarray, " T"]
    crop_shift: Float[np.ndarray, "T 2"]
    crop_gain: Float[np.ndarray, "T 3"]
    turn_rad: float
    frame_zoom: float
    frame_shift: Float[np.ndarray, " 2"]
    frame_gain: Float[np.ndarray, "T 3"]
    frame_turn_rad: float
    is_coherent: bool

    @staticmethod
    def none(num_frames: int) -> "Augmentation":
        """Return the augmentation that changes nothing."""
        ones = np.ones((num_frames, 3))
        return Augmentation(
            crop_zoom=np.ones(num_frames), crop_shift=np.zeros((num_frames, 2)), crop_gain=ones, turn_rad=0.0,
            frame_zoom=1.0, frame_shift=np.zeros(2), frame_gain=ones, frame_turn_rad=0.0, is_coherent=False,
        )  # fmt: skip


def draw_augmentation(num_frames: int, config: AugmentConfig, *, rng: np.random.Generator) -> Augmentation:
    """Draw what is done to a window: zoom and shift of the crop for every frame, its turn once for the window."""
    if config.mode == "off":
        return Augmentation.none(num_frames)
    crop_zoom = 1 + config.zoom * rng.standard_normal(num_frames).clip(-1, 1)
    crop_shift = config.shift * rng.standard_normal((num_frames, 2)).clip(-1, 1)
    turn_rad = _turn(config, config.turn_rate, rng=rng)
    crop_gain = rng.uniform(1 - config.gain, 1 + config.gain, (num_frames, 3))
    is_frame_changed = rng.random() < config.frame_rate
    frame_zoom = 1 + config.zoom * float(np.clip(rng.standard_normal(), -1, 1))
    frame_shift = config.shift * rng.standard_normal(2).clip(-1, 1)
    frame_turn_rad = _turn(config, config.frame_turn_rate, rng=rng)
    frame_gain = np.tile(rng.uniform(1 - config.gain, 1 + config.gain, 3), (num_frames, 1))
    is_coherent = config.mode == "coherent"
    if is_coherent:  # one camera: its turn, and its colours
        frame_turn_rad = turn_rad
        crop_gain = frame_gain
    if not is_frame_changed:
        frame_zoom, frame_shift = 1.0, np.zeros(2)
        if not is_coherent:
            frame_turn_rad, frame_gain = 0.0, np.ones((num_frames, 3))
    return Augmentation(
        crop_zoom=crop_zoom, crop_shift=crop_shift, crop_gain=crop_gain, turn_rad=turn_rad,
        frame_zoom=frame_zoom, frame_shift=frame_shift, frame_gain=frame_gain, frame_turn_rad=frame_turn_rad,
        is_coherent=is_coherent,
    )  # fmt: skip


def make_clip(
    window: Window,
    augmentation: Augmentation,
    *,
    cut: CutConfig,
    set_index: int = 0,
) -> ClipBatch:
    """Return a batch of one clip: pictures cut and turned, labels and cameras turned with them."""
    side_px = cut.box_share * window.labels.box_side_px.numpy().astype(np.float64)
    shift_px = augmentation.crop_shift * side_px[:, None]
    center_img = window.labels.box_center_img.numpy().astype(np.float64) + shift_px
    cut_side_px = side_px * augmentation.crop_zoom
    crops = [
        _cut(crop, center, side, augmentation.turn_rad, cut.crop_side_px, cut.anti_alias)
        for crop, center, side in zip(window.crops, center_img, cut_side_px, strict=True)
    ]
    matrix = _image_map(window, augmentation)
    frame_center, frame_side = _frame_cut(window, augmentation, matrix)
    frames = [
        _cut(frame, frame_center, frame_side, augmentation.frame_turn_rad, cut.frame_side_px, cut.anti_alias)
        for frame in window.frames
    ]
    labels = _turned(window.labels, matrix, augmentation.turn_rad)
    linear, offset = matrix[:, :2, :2], matrix[:, :2, 2]
    image_zoom = torch.linalg.det(linear).sqrt()
    center = (linear @ torch.from_numpy(center_img)[..., None])[..., 0] + offset
    return ClipBatch(
        crops=torch.from_numpy(np.stack(crops))[None],
        frames=torch.from_numpy(np.stack(frames))[None],
        crop_gain=torch.from_numpy(augmentation.crop_gain).float()[None],
        frame_gain=torch.from_numpy(augmentation.frame_gain).float()[None],
        box_center_img=center.float()[None],
        box_side_px=(torch.from_numpy(cut_side_px) * image_zoom).float()[None],
        camera=_one_clip(labels.camera),
        camera_weight=labels.camera_weight[None],
        targets=Targets(
            joints_img=labels.joints_img[None],
            joints_img_weight=labels.joints_img_weight[None],
            joints_cam=labels.joints_cam[None],
            joints_cam_weight=labels.joints_cam_weight[None],
            params=_one_clip(labels.params),
            params_weight=labels.params_weight[None],
        ),
        betas_weight=labels.betas_weight[None],
        place_weight=labels.place_weight[None],
        frame_index=labels.frame_index[None],
        frame_time_s=torch.from_numpy(window.frame_time_s).float()[None],
        is_right=torch.tensor([window.was_right]),
        set_index=torch.tensor([set_index]),
        keys=(window.key,),
    )


def _one_clip(record: Any) -> Any:
    """Return the record with an axis of one clip before all others."""
    return type(record)(**{f.name: getattr(record, f.name)[None] for f in fields(record)})


def _turn(config: AugmentConfig, rate: float, *, rng: np.random.Generator) -> float:
    turn_deg = config.turn_deg * float(np.clip(rng.standard_normal(), -2, 2))
    return float(np.radians(turn_deg)) if rng.random() < rate else 0.0


def _cut(
    picture: Picture, center_img: np.ndarray, side_img_px: float, turn_rad: float, side_px: int, anti_alias: AntiAlias
) -> UInt8[np.ndarray, "S S 3"]:
    """Cut a square, given in pixels of the image, out of a picture of part of it."""
    x, y = picture.scale * center_img + picture.offset_px
    return cut_crop(
        picture.pixels,
        center_img=(float(x), float(y)),
        box_side_px=float(side_img_px * picture.scale.max()),
        side_px=side_px,
        rotation_rad=turn_rad,
        anti_alias=anti_alias,
    )


def _frame_cut(window: Window, augmentation: Augmentation, matrix: Float[Tensor, "T 3 3"]) -> tuple[np.ndarray, float]:
    """Return middle and side, in pixels of the image, of the square that becomes the full frame."""
    center_img, side_img_px = _frame_square(window)
    if augmentation.is_coherent:
        # What the turned camera shows about its image's middle, which lies elsewhere in the image it was turned from.
        first = matrix[0].numpy()
        center_img = np.linalg.solve(first[:2, :2], center_img - first[:2, 2])
    else:
        center_img = center_img + augmentation.frame_shift * side_img_px
    return center_img, side_img_px * augmentation.frame_zoom


def _frame_square(window: Window) -> tuple[np.ndarray, float]:
    """Return middle and side of the square about the image, half a pixel off as `cut_full_frame` has it."""
    middle_x = window.width_px / 2 if window.was_right else window.width_px / 2 - 1
    return np.array([middle_x, window.height_px / 2]), float(max(window.width_px, window.height_px))


def _image_map(window: Window, augmentation: Augmentation) -> Float[Tensor, "T 3 3"]:
    """Return, per frame, the map from the image's pixels to those of the image that the labels speak of afterwards.

    It turns about the principal point, so that K stays as it is; the coherent frame's zoom and shift come after.
    """
    K = window.labels.camera.K.double()
    cos, sin = np.cos(augmentation.turn_rad), np.sin(augmentation.turn_rad)
    turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
    pivot = K[:, :2, 2]
    offset = pivot - pivot @ turn.T
    if augmentation.is_coherent:
        middle, side_img_px = (torch.as_tensor(value) for value in _frame_square(window))
        zoom = 1 / augmentation.frame_zoom
        shift = torch.from_numpy(augmentation.frame_shift) * side_img_px
        turn = turn * zoom
        offset = zoom * offset + (1 - zoom) * middle - zoom * shift
    matrix = torch.eye(3, dtype=torch.float64).repeat(len(K), 1, 1)
    matrix[:, :2, :2] = turn
    matrix[:, :2, 2] = offset
    return matrix


def _turned(labels: HandLabels, matrix: Float[Tensor, "T 3 3"], turn_rad: float) -> HandLabels:
    """Turn the camera: the image by `matrix`, everything in the camera's frame by -turn about its axis."""
    about_z = torch.tensor([0.0, 0.0, -turn_rad], dtype=torch.float64)
    rotation = rotation_from_aa(about_z)
    joints_img = labels.joints_img.double() @ matrix[:, :2, :2].transpose(-1, -2) + matrix[:, None, :2, 2]
    known = labels.joints_img_weight[..., None] > 0
    joints_cam = labels.joints_cam.double() @ rotation.T
    # The wrist is J0(betas) + transl, and MANO turns about it: J0 stays, the wrist is turned about the camera.
    transl = labels.params.transl.double()
    wrist_known = (labels.place_weight * labels.joints_cam_weight[:, 0])[:, None] > 0
    rest_wrist = labels.joints_cam[:, 0].double() - transl
    transl = torch.where(wrist_known, joints_cam[:, 0] - rest_wrist, transl)
    camera = Camera(
        K=(matrix @ labels.camera.K.double() @ rotation.T).float(),
        T_world_cam=(
            labels.camera.T_world_cam.double() @ make_transform(rotation.T, torch.zeros(3, dtype=torch.float64))
        ).float(),
    )
    params = HandParams(
        global_orient=(rotation @ labels.params.global_orient.double()).float(),
        hand_pose=labels.params.hand_pose,
        betas=labels.params.betas,
        transl=transl.float(),
    )
    return HandLabels(
        **{
            **labels.__dict__,
            "joints_img": torch.where(known, joints_img, torch.zeros_like(joints_img)).float(),
            "joints_cam": joints_cam.float(),
            "params": params,
            "camera": camera,
        }
    )
