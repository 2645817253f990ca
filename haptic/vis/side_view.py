"""The hands from the side, to scale: depth to the right, up upwards, with the camera and where the hands have been.

The eye stands to the camera's right and looks across, without perspective. Everything is in the axes of the video's
first camera, so that a world that lies on its side still stands upright here.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from haptic.vis.painter import PaintedHand, paint_hands

BACKGROUND, GRID, GRID_STRONG, INK, FAINT = (250, 250, 248), (232, 232, 229), (208, 208, 204), (70, 70, 70), (150,) * 3
EYE_DISTANCE_M = 50.0  # so far that perspective is gone: 0.4 % over the width of two hands
MIN_SPAN_M = 0.5
MAX_SPAN_WITH_CAMERA_M = 1.6  # wider than that the hands would be too small: the camera is pointed at instead
MARGIN = 0.04
FRUSTUM_M = 0.06


@dataclass(frozen=True)
class SideFrame:
    """What the side view shows at one moment, in metres, in the first camera's axes."""

    hands: list[PaintedHand]
    trails: list[tuple[Float[np.ndarray, "_ 3"], tuple[float, float, float]]]
    T_first_cam: Float[np.ndarray, "4 4"]


class SideView:
    """Draws the side view; what never changes (grid, scale, whole paths) is drawn once."""

    def __init__(
        self,
        *,
        width: int,
        height: int,
        paths: list[tuple[Float[np.ndarray, "_ 3"], tuple[float, float, float]]],
        camera_path: Float[np.ndarray, "_ 3"],
        view_half_angles: tuple[float, float],
    ) -> None:
        self.width, self.height = width, height
        self.text_scale = max(0.34, height / 1250)
        self.view_half_angles = view_half_angles
        points = [path for path, _ in paths if len(path)]
        self.middle, self.px_per_m, self.shows_camera = self._fit(points, camera_path)
        focal = self.px_per_m * EYE_DISTANCE_M
        self.K = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
        self.across_m = float(np.median(np.concatenate(points)[:, 0])) if points else 0.0
        self.background = self._draw_background(paths, camera_path)

    def draw(self, moment: SideFrame) -> UInt8[np.ndarray, "H W 3"]:
        """Return the view at one moment."""
        picture = self.background.copy()
        for trail, color in moment.trails:
            self._draw_trail(picture, trail, color)
        hands = [PaintedHand(self.to_eye(hand.verts), hand.faces, hand.color, hand.is_filled) for hand in moment.hands]
        paint_hands(picture, hands, self.K, opacity=0.93, depth_jump=0.02 / EYE_DISTANCE_M, stripe_px=3.5)
        self._draw_camera(picture, moment.T_first_cam)
        return picture

    def to_eye(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Return points as the eye sees them: its x is depth, its y is down, it looks along -x."""
        seen = np.stack([points[:, 2], points[:, 1], self.across_m - points[:, 0]], axis=1)
        return seen + np.array([-self.middle[0], -self.middle[1], EYE_DISTANCE_M])

    def to_pixels(self, points: Float[np.ndarray, "_ 3"]) -> np.ndarray:
        """Return pixels of points in the first camera's axes."""
        flat = (points[:, [2, 1]] - self.middle) * self.px_per_m
        return flat + np.array([(self.width - 1) / 2, (self.height - 1) / 2])

    def _fit(self, points: list[np.ndarray], camera_path: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """Choose what is in view: the hands with room around them, and the camera unless it is too far."""
        camera = camera_path[:, [2, 1]] if len(camera_path) else np.zeros((1, 2))
        camera_low, camera_high = camera.min(axis=0) - FRUSTUM_M, camera.max(axis=0) + FRUSTUM_M
        if points:
            # A single wild frame must not make everything else small.
            hands_low, hands_high = np.quantile(np.concatenate(points)[:, [2, 1]], [0.005, 0.995], axis=0)
            hands_low, hands_high = hands_low - 0.1, hands_high + 0.1
        else:
            hands_low, hands_high = camera_low, camera_high
        low, high = np.minimum(hands_low, camera_low), np.maximum(hands_high, camera_high)
        shows_camera = bool((high - low).max() <= MAX_SPAN_WITH_CAMERA_M)
        if not shows_camera:
            low, high = hands_low, hands_high
        span = np.maximum(high - low, MIN_SPAN_M) * (1 + 2 * MARGIN)
        px_per_m = float(min(self.width / span[0], self.height / span[1]))
        return (low + high) / 2, px_per_m, shows_camera

    def _draw_background(
        self, paths: list[tuple[np.ndarray, tuple[float, float, float]]], camera_path: np.ndarray
    ) -> np.ndarray:
        picture = np.full((self.height, self.width, 3), BACKGROUND, np.uint8)
        self._draw_grid(picture)
        for path, color in paths:
            pale = tuple(0.3 * value + 0.7 * paper / 255 for value, paper in zip(color, BACKGROUND, strict=True))
            self._draw_line(picture, path, pale, thickness=1)
        if len(camera_path) > 1:
            self._draw_line(picture, camera_path, (0.7, 0.7, 0.7), thickness=1)
        self._write(picture, "side view: up and depth in m", (8, 6 + self._line_px()), INK)
        return picture

    def _draw_grid(self, picture: np.ndarray) -> None:
        step_m = next(step for step in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 1e9) if step * self.px_per_m >= 28 or step > 1e8)
        label_every = max(1, int(np.ceil(52 / (step_m * self.px_per_m))))
        half = np.array([self.width, self.height]) / 2 / self.px_per_m
        line_px = self._line_px()  # what is written elsewhere is not written over
        is_free = (
            lambda place: place < self.width - 2 * line_px,
            lambda place: 3 * line_px < place < self.height - 3 * line_px,
        )
        for axis in (0, 1):
            first, last = np.ceil((self.middle - half)[axis] / step_m), np.floor((self.middle + half)[axis] / step_m)
            for number in np.arange(first, last + 1):
                place = round((number * step_m - self.middle[axis]) * self.px_per_m + (picture.shape[1 - axis] - 1) / 2)
                start, end = ((place, 0), (place, self.height)) if axis == 0 else ((0, place), (self.width, place))
                cv2.line(picture, start, end, GRID_STRONG if number == 0 else GRID, 1)
                if number % label_every or not is_free[axis](place):
                    continue
                metres = number * step_m
                if axis == 0:
                    where = (place + 3, self.height - 8)
                else:
                    metres, where = -metres, (4, place - 3)
                self._write(picture, f"{metres + 0.0:.1f}", where, FAINT)

    def _draw_trail(self, picture: np.ndarray, trail: np.ndarray, color: tuple[float, float, float]) -> None:
        """Draw older stretches paler, in four steps."""
        for step, piece in enumerate(np.array_split(np.arange(len(trail)), 4)):
            if len(piece) < 1:
                continue
            share = 0.35 + 0.65 * step / 3
            mixed = tuple(
                share * value + (1 - share) * paper / 255 for value, paper in zip(color, BACKGROUND, strict=True)
            )
            self._draw_line(picture, trail[piece[0] : piece[-1] + 2], mixed, thickness=2)

    def _draw_line(self, picture: np.ndarray, points: np.ndarray, color: tuple[float, ...], thickness: int) -> None:
        pixels = np.clip(self.to_pixels(points), -4000, 8000)
        ends = np.round(pixels * 16).astype(np.int32)  # cv2 takes sixteenths of a pixel
        cv2.polylines(picture, [ends], isClosed=False, color=_bytes(color), thickness=thickness,
                      lineType=cv2.LINE_AA, shift=4)  # fmt: skip

    def _draw_camera(self, picture: np.ndarray, T_first_cam: np.ndarray) -> None:
        if not self.shows_camera:
            self._point_at_camera(picture, T_first_cam[:3, 3])
            return
        tan_x, tan_y = np.tan(self.view_half_angles)
        rim = [[0, 0, 0], [-tan_x, -tan_y, 1], [tan_x, -tan_y, 1], [tan_x, tan_y, 1], [-tan_x, tan_y, 1]]
        corners = np.array(rim, np.float64) * FRUSTUM_M @ T_first_cam[:3, :3].T + T_first_cam[:3, 3]
        for chain in ([1, 2, 3, 4, 1, 0, 2], [3, 0, 4]):
            self._draw_line(picture, corners[chain], (0.25, 0.25, 0.25), thickness=1)
        x, y = self.to_pixels(corners[:1])[0]
        self._write(
            picture, "camera", (max(4, int(x) - 8), int(y) + round(FRUSTUM_M * self.px_per_m) + self._line_px()), INK
        )

    def _point_at_camera(self, picture: np.ndarray, place: np.ndarray) -> None:
        distance_m = float(np.hypot(place[2] - self.middle[0], place[1] - self.middle[1]))
        row = self.height // 2
        cv2.arrowedLine(picture, (86, row), (52, row), INK, 1, cv2.LINE_AA, tipLength=0.3)
        self._write(picture, f"camera {distance_m:.1f} m", (52, row + 6 + self._line_px()), INK)

    def _line_px(self) -> int:
        return round(22 * self.text_scale)

    def _write(self, picture: np.ndarray, text: str, where: tuple[int, int], color: tuple[int, ...]) -> None:
        cv2.putText(picture, text, where, cv2.FONT_HERSHEY_SIMPLEX, self.text_scale, color, 1, cv2.LINE_AA)


def _bytes(color: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(255 * value) for value in color)
