"""Where pixels become network input, for training and inference alike: a crop about a box, and the full frame.

The warp is the one HaMeR and HaPTIC were trained with: OpenCV 4's, whose coordinates are multiples of 1/32 pixel.
OpenCV 5 warps exactly, which differs by up to five grey values; so the coordinates are computed here and only the
lookup is OpenCV's.
"""

from dataclasses import dataclass, fields
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, RGB
IMAGE_STD = (0.229, 0.224, 0.225)

COORDINATE_BITS = 10  # OpenCV's fixed-point coordinates while stepping along a row
SUBPIXEL_BITS = 5  # and after it: 32 steps per pixel
INT16 = np.iinfo(np.int16)
# HaMeR blurs before it shrinks, from this ratio of the crop's side to twice the output's on.
BLUR_FROM_RATIO = 1.1
BLUR_REACH_SIGMA = 4.0

AntiAlias = Literal["off", "blur"]


@dataclass(frozen=True)
class CutConfig:
    """How pictures are cut for a network; its own config has fields of the same names, and says what they mean."""

    crop_side_px: int = 256
    frame_side_px: int = 256
    box_share: float = 1.0
    anti_alias: AntiAlias = "off"

    def __post_init__(self) -> None:
        for name in ("crop_side_px", "frame_side_px"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")

    @classmethod
    def of(cls, network_config: Any) -> "CutConfig":
        """Return what a network's config (`HapticConfig`) says of it."""
        return cls(**{one.name: getattr(network_config, one.name) for one in fields(cls)})


def cut_crop(
    image: UInt8[np.ndarray, "H W 3"],
    *,
    center_img: tuple[float, float],
    box_side_px: float,
    side_px: int = 256,
    rotation_rad: float = 0.0,
    anti_alias: AntiAlias = "off",
) -> UInt8[np.ndarray, "S S 3"]:
    """Return the square of the image about a box, black outside the image; `off` is what HaPTIC does.

    Args:
        box_side_px: side of the square in pixels of the image, with all margins included (`haptic.geometry.boxes`).
        rotation_rad: turns the square's axes in the image (augmentation).
        anti_alias: `blur` smooths what is shrunk, as HaMeR's demo does.
    """
    if not (np.isfinite([*center_img, box_side_px, rotation_rad]).all() and box_side_px > 0):
        raise ValueError(
            f"a box of side {box_side_px} px about {tuple(center_img)} cannot be cut; expected finite numbers "
            "and a side above zero"
        )
    if anti_alias == "blur":
        image, center_img = _blurred_part(image, center_img, box_side_px, side_px)
    return _warp(image, crop_matrix(center_img, box_side_px, side_px=side_px, rotation_rad=rotation_rad), side_px)


def cut_full_frame(
    image: UInt8[np.ndarray, "H W 3"],
    *,
    is_flipped: bool = False,
    side_px: int = 256,
    anti_alias: AntiAlias = "off",
) -> UInt8[np.ndarray, "S S 3"]:
    """Return the whole image, padded to a square with black and shrunk.

    The square is about (W/2, H/2), half a pixel off the middle of the pixel centres, as official weights know it.

    Args:
        is_flipped: the image was flipped for a left hand, and with it that half pixel.
    """
    height, width = image.shape[:2]
    return cut_crop(
        image,
        center_img=(width / 2 - 1 if is_flipped else width / 2, height / 2),
        box_side_px=max(width, height),
        side_px=side_px,
        anti_alias=anti_alias,
    )


def normalise(images: UInt8[np.ndarray, "*batch S S 3"]) -> Float[Tensor, "*batch 3 S S"]:
    """Return pictures as the network takes them: channels first, ImageNet's mean and spread."""
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return normalise_on_device(pixels)


def normalise_on_device(
    pixels: UInt8[Tensor, "*batch S S 3"], *, gain: Float[Tensor, "*batch 3"] | None = None
) -> Float[Tensor, "*batch 3 S S"]:
    """Return pictures as the network takes them, where they are.

    Args:
        gain: factors of the colours (augmentation), before what is brighter than white is cut off.
    """
    values = pixels.movedim(-1, -3).float()
    if gain is not None:
        values = (values * gain[..., None, None]).clamp(0, 255)
    mean = values.new_tensor(IMAGE_MEAN)[:, None, None] * 255
    std = values.new_tensor(IMAGE_STD)[:, None, None] * 255
    return (values - mean) / std


def crop_matrix(
    center_img: tuple[float, float], box_side_px: float, *, side_px: int, rotation_rad: float = 0.0
) -> Float64[np.ndarray, "2 3"]:
    """Return the affine map from pixels of the image to pixels of the crop.

    It is fixed by three points in single precision (centre, middle of the bottom, middle of the right), as the official
    code does it.
    """
    cos, sin = np.cos(rotation_rad), np.sin(rotation_rad)
    center = np.array(center_img, dtype=np.float32)
    half = box_side_px / 2
    down = np.array([-half * sin, half * cos], dtype=np.float32)
    right = np.array([half * cos, half * sin], dtype=np.float32)
    source = np.stack([center, center + down, center + right]).astype(np.float32)
    middle = side_px / 2
    target = np.array([[middle, middle], [middle, side_px], [side_px, middle]], dtype=np.float32)
    return cv2.getAffineTransform(source, target).astype(np.float64)


def _warp(image: np.ndarray, matrix: np.ndarray, side_px: int) -> np.ndarray:
    """Do cv2.warpAffine as OpenCV 4 did it: bilinear between 32nds of a pixel, zero outside."""
    inverse = _inverse_affine(matrix)
    one = float(1 << COORDINATE_BITS)
    steps = np.arange(side_px, dtype=np.float64)
    half_subpixel = 1 << (COORDINATE_BITS - SUBPIXEL_BITS - 1)
    whole = np.empty((side_px, side_px, 2), np.int16)
    parts = []
    for axis, row in enumerate(inverse):
        along_x = np.rint(row[0] * steps * one)
        along_y = np.rint((row[1] * steps + row[2]) * one) + half_subpixel
        # Beyond what 16 bits hold there is nothing but border; 32 bits are enough up to there.
        low, high = (float(pick(along_x) + pick(along_y)) for pick in (np.min, np.max))
        is_far = low < INT16.min * one or high > INT16.max * one
        kind = np.int64 if is_far else np.int32
        fixed = (along_y.astype(kind)[:, None] + along_x.astype(kind)[None, :]) >> (COORDINATE_BITS - SUBPIXEL_BITS)
        pixels = fixed >> SUBPIXEL_BITS
        whole[..., axis] = np.clip(pixels, INT16.min, INT16.max) if is_far else pixels
        parts.append(fixed & ((1 << SUBPIXEL_BITS) - 1))
    table_index = (parts[1] << SUBPIXEL_BITS | parts[0]).astype(np.uint16)
    return cv2.remap(
        np.ascontiguousarray(image),
        whole,
        table_index,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )


def _inverse_affine(matrix: np.ndarray) -> np.ndarray:
    """Invert in OpenCV's order of operations, for the last bit's sake."""
    (a, b, c), (d, e, f) = matrix
    determinant = 1 / (a * e - b * d)
    ia, ib, id_, ie = e * determinant, -b * determinant, -d * determinant, a * determinant
    return np.array([[ia, ib, -ia * c - ib * f], [id_, ie, -id_ * c - ie * f]])


def _blurred_part(
    image: np.ndarray, center_img: tuple[float, float], box_side_px: float, side_px: int
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the blurred surroundings of a box, and its centre in them; the image itself if it needs no blur."""
    ratio = box_side_px / side_px / 2
    if ratio <= BLUR_FROM_RATIO:
        return image, center_img
    sigma = (ratio - 1) / 2
    reach = int(BLUR_REACH_SIGMA * sigma + 0.5)
    margin = int(np.ceil(box_side_px / np.sqrt(2))) + reach + 2  # the half diagonal: a turned box fits too
    height, width = image.shape[:2]
    left, top = (max(0, int(c) - margin) for c in center_img)
    right, bottom = min(width, int(center_img[0]) + margin), min(height, int(center_img[1]) + margin)
    if left >= right or top >= bottom:
        return image, center_img
    part = image[top:bottom, left:right]
    kernel = (2 * reach + 1, 2 * reach + 1)
    part = cv2.GaussianBlur(part, kernel, sigma, borderType=cv2.BORDER_REPLICATE)
    return part, (center_img[0] - left, center_img[1] - top)
