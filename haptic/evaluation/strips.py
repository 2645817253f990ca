"""The worst sequences as strips of pictures: truth white, prediction in the hand's colour."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from haptic.data.crops import cut_crop
from haptic.data.readers import Picture
from haptic.evaluation.checks import PairedHand
from haptic.evaluation.clips import ClipPictures
from haptic.files import atomic_path
from haptic.geometry.cameras import project
from haptic.hand.joints import PARENTS_21
from haptic.hand.palette import hand_color

JPEG_QUALITY = 88
TILE_PX, TILES, HEAD_PX = 224, 6, 22
REACH = 2.2  # of the tile over the tight box of the hand
DRAWN_SHIFT = 3  # eighths of a pixel
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class StripRow:
    """One sequence to be shown, and what is written above it."""

    pair: PairedHand
    pictures: ClipPictures
    caption: str


def write_strips(path: Path, rows: Sequence[StripRow]) -> None:
    """Write the strips below each other, as one picture."""
    lines = [_strip(row) for row in rows]
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), np.concatenate(lines)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def _strip(row: StripRow) -> UInt8[np.ndarray, "h w 3"]:
    places = np.linspace(0, len(row.pair.target) - 1, TILES).round().astype(int)
    tiles = [_tile(row, int(place)) for place in places]
    head = np.full((HEAD_PX, TILE_PX * TILES, 3), 24, np.uint8)
    cv2.putText(head, row.caption, (6, HEAD_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, WHITE, 1, cv2.LINE_AA)
    return np.concatenate([head, np.concatenate(tiles, axis=1)])


def _tile(row: StripRow, place: int) -> UInt8[np.ndarray, "s s 3"]:
    pair, labels = row.pair, row.pair.clip.labels(row.pair.name)
    picture = row.pictures.sharpest(pair.name, place)
    joints_img = labels.joints_img[place].double().numpy()
    low, high = joints_img.min(0), joints_img.max(0)
    side = REACH * float((high - low).max())
    middle = (low + high) / 2
    tile = _cut(picture, middle, side)
    to_tile = TILE_PX / side
    _draw(tile, (joints_img - middle) * to_tile + TILE_PX / 2, WHITE, 1)
    if bool(pair.predicted[place]) and pair.has_camera_points:
        K = labels.camera.K[place].double() if pair.K is None else pair.K[place]
        predicted = project(pair.pred[place][None], K[None])[0].numpy()
        red, green, blue = (int(255 * part) for part in hand_color(pair.name))
        _draw(tile, (predicted - middle) * to_tile + TILE_PX / 2, (red, green, blue), 2)
    else:
        cv2.putText(tile, "no prediction", (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, WHITE, 1, cv2.LINE_AA)
    return tile


def _cut(picture: Picture, middle: np.ndarray, side: float) -> np.ndarray:
    x, y = picture.scale * middle + picture.offset_px
    return cut_crop(
        picture.pixels, center_img=(float(x), float(y)), box_side_px=side * float(picture.scale.max()), side_px=TILE_PX
    )


def _draw(tile: np.ndarray, points: Float[np.ndarray, "21 2"], color: tuple[int, int, int], width: int) -> None:
    fixed = np.round(np.clip(points, -2000, 2000) * 2**DRAWN_SHIFT).astype(int)
    for rim, ink in ((width + 2, BLACK), (width, color)):
        for joint, parent in enumerate(PARENTS_21):
            if parent >= 0:
                ends = fixed[parent].tolist(), fixed[joint].tolist()
                cv2.line(tile, *ends, ink, rim, cv2.LINE_AA, DRAWN_SHIFT)
