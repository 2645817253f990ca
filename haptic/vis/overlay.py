"""`overlay.mp4`: the hands over the video, beside them a view from the side, below them when each hand was seen."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from haptic.geometry.transforms import invert_transform
from haptic.hand.model import HandModel, trajectory_faces, trajectory_joints, trajectory_mesh
from haptic.hand.palette import hand_color
from haptic.records import Reconstruction, Trajectory
from haptic.vis.film import open_film
from haptic.vis.painter import PaintedHand, paint_hands
from haptic.vis.side_view import SideFrame, SideView

CHUNK_FRAMES = 64  # meshes are made this many frames at a time, so that a long video costs no more memory
MIN_VIEW_HEIGHT_PX = 360  # a smaller video is enlarged: one could not read what is written on it
SIDE_VIEW_SHARE = 0.9  # of the video's height
MIN_SIDE_VIEW_PX, MAX_SIDE_VIEW_PX = 320, 640
PAPER, INK = (250, 250, 248), (60, 60, 60)


@dataclass(frozen=True)
class OverlayConfig:
    """How the overlay is drawn and encoded."""

    max_video_side_px: int = 1280  # with the side view the film is then at most 1920 wide
    opacity: float = 0.8
    trail_s: float = 2.0
    crf: int = 20
    preset: str = "veryfast"

    def __post_init__(self) -> None:
        if self.max_video_side_px < 64:
            raise ValueError(f"max_video_side_px is {self.max_video_side_px}; it must be at least 64")
        if not 0 < self.opacity <= 1:
            raise ValueError(f"opacity is {self.opacity}; it must lie above 0 and be at most 1")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf is {self.crf}; x264 takes 0 (no loss) to 51 (worst)")


def write_overlay(
    path: Path,
    video_frames: Iterable[tuple[int, float, np.ndarray]],
    result: Reconstruction,
    model: HandModel,
    config: OverlayConfig = OverlayConfig(),
) -> int:
    """Write the film from (frame index, time in s, RGB image) as they come; return the number of frames written.

    The film keeps the video's times. Nothing is kept but the frame at hand and a few frames' meshes.
    """
    painter = OverlayPainter(result, model, config)
    num_frames = 0
    with open_film(path, fps=result.fps, crf=config.crf, preset=config.preset) as film:
        for frame_index, time_s, image in video_frames:
            film.add(painter.draw(frame_index, image), time_s)
            num_frames += 1
        if not num_frames:
            raise ValueError(f"{path}: no frame of the video came; an overlay needs at least one")
    return num_frames


class OverlayPainter:
    """Draws one frame of the overlay: also for a still in a document."""

    def __init__(self, result: Reconstruction, model: HandModel, config: OverlayConfig = OverlayConfig()) -> None:
        self.config = config
        self.size_px = (result.image_width_px, result.image_height_px)
        longer, shorter_height = max(self.size_px), self.size_px[1]
        scale = max(1.0, MIN_VIEW_HEIGHT_PX / shorter_height)
        self.scale = min(scale, config.max_video_side_px / longer)
        self.video_size = tuple(max(2, round(side * self.scale)) for side in self.size_px)
        self.text_scale = max(0.4, self.video_size[1] / 1100)
        self.hands = [_HandFrames(name, hand, model) for name, hand in result.hands.items() if len(hand.frame_index)]
        self.K = result.camera.K.numpy()
        self.T_first_cam = _seen_from_first(result.camera.T_world_cam)
        for hand in self.hands:
            hand.place_wrists(self.T_first_cam)
        self.trail_s = config.trail_s
        self.side_view = self._side_view()
        self.timeline = _Timeline(self.hands, len(result.frame_time_s), self._canvas_width())

    def draw(self, frame_index: int, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H2 W2 3"]:
        """Return the whole picture, of even width and height."""
        if image.shape[:2] != self.size_px[::-1]:
            raise ValueError(
                f"frame {frame_index} of the video is {image.shape[1]} x {image.shape[0]}; "
                f"the reconstruction was made from frames of {self.size_px[0]} x {self.size_px[1]}"
            )
        present = [(hand, row) for hand in self.hands if (row := hand.row_of_frame.get(frame_index)) is not None]
        video = self._draw_video(frame_index, image, present)
        side = self.side_view.draw(self._side_frame(frame_index, present))
        strip = self.timeline.draw(frame_index)
        height = video.shape[0] + strip.shape[0]
        canvas = np.full((height + height % 2, self._canvas_width(), 3), PAPER, np.uint8)
        canvas[: video.shape[0], : video.shape[1]] = video
        canvas[: video.shape[0], -side.shape[1] :] = side
        canvas[video.shape[0] : height] = strip
        return canvas

    def _draw_video(
        self, frame_index: int, image: np.ndarray, present: list[tuple["_HandFrames", int]]
    ) -> UInt8[np.ndarray, "H W 3"]:
        width, height = self.video_size
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        picture = image.copy() if self.scale == 1 else cv2.resize(image, (width, height), interpolation=method)
        hands = [
            PaintedHand(hand.verts_cam(row), hand.faces, hand.color, not hand.observed[row]) for hand, row in present
        ]
        if hands:
            K = scale_K(self.K[min(frame_index, len(self.K) - 1)], width / self.size_px[0], height / self.size_px[1])
            stripe_px = max(4.0, height / 100)
            paint_hands(picture, hands, K, opacity=self.config.opacity, stripe_px=stripe_px)
            taken: list[tuple[int, int, int, int]] = []
            for hand, row in present:
                self._label(picture, hand, row, K, taken)
        return picture

    def _label(
        self, picture: np.ndarray, hand: "_HandFrames", row: int, K: np.ndarray, taken: list[tuple[int, int, int, int]]
    ) -> None:
        """Write name, state and confidence below the hand, above it where there is no room; clear of other labels."""
        joints = hand.joints_cam[row]
        if joints[:, 2].min() <= 0:
            return
        pixels = joints @ K.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        state = "" if hand.observed[row] else " filled in"
        text = f"{hand.name}{state} {hand.confidence[row]:.2f}"
        text_width, text_height = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self.text_scale, 1)[0]
        width, height = text_width + 10, text_height + 15
        x = int(np.clip(pixels[:, 0].mean() - width / 2, 2, max(2, picture.shape[1] - width - 2)))
        lowest_y = picture.shape[0] - height - 2
        below, above = pixels[:, 1].max() + 10, pixels[:, 1].min() - height - 10
        y = int(np.clip(below if below <= lowest_y else above, 2, max(2, lowest_y)))
        for other_x, other_y, other_width, other_height in taken:
            if abs(other_x + other_width / 2 - x - width / 2) < (width + other_width) / 2 and abs(y - other_y) < height:
                y = other_y - height - 2 if other_y > height + 2 else other_y + other_height + 2
        taken.append((x, y, width, height))
        box = picture[max(y, 0) : y + height, x : x + width]
        box[...] = (0.3 * box + 0.7 * 25).astype(np.uint8)
        color = tuple(round(255 * value) for value in hand.color)
        origin = (x + 5, y + text_height + 4)
        cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, self.text_scale, color, 1, cv2.LINE_AA)
        bar_y, bar_width = y + height - 6, width - 10
        cv2.rectangle(picture, (x + 5, bar_y), (x + 5 + bar_width, bar_y + 2), (90, 90, 90), -1)
        share = float(np.clip(hand.confidence[row], 0, 1))
        cv2.rectangle(picture, (x + 5, bar_y), (x + 5 + round(share * bar_width), bar_y + 2), color, -1)

    def _side_frame(self, frame_index: int, present: list[tuple["_HandFrames", int]]) -> SideFrame:
        T_first_cam = self.T_first_cam[min(frame_index, len(self.T_first_cam) - 1)]
        hands, trails = [], []
        for hand, row in present:
            verts_first = hand.verts_cam(row) @ T_first_cam[:3, :3].T + T_first_cam[:3, 3]
            hands.append(PaintedHand(verts_first, hand.faces, hand.color, not hand.observed[row]))
            first = int(np.searchsorted(hand.time_s, hand.time_s[row] - self.trail_s))
            trails.append((hand.wrists_first[first : row + 1], hand.color))
        return SideFrame(hands, trails, T_first_cam)

    def _side_view(self) -> SideView:
        width, height = self.video_size
        side_width = int(np.clip(SIDE_VIEW_SHARE * height, MIN_SIDE_VIEW_PX, MAX_SIDE_VIEW_PX))
        side_width += (width + side_width) % 2
        focal = np.median(self.K[:, [0, 1], [0, 1]], axis=0) if len(self.K) else np.array([max(self.size_px)] * 2)
        return SideView(
            width=side_width,
            height=height,
            paths=[(hand.wrists_first, hand.color) for hand in self.hands],
            camera_path=self.T_first_cam[:, :3, 3],
            view_half_angles=(
                float(np.arctan(self.size_px[0] / 2 / focal[0])),
                float(np.arctan(self.size_px[1] / 2 / focal[1])),
            ),
        )

    def _canvas_width(self) -> int:
        return self.video_size[0] + self.side_view.width


def scale_K(K: Float[np.ndarray, "3 3"], scale_x: float, scale_y: float) -> Float[np.ndarray, "3 3"]:
    """Return the intrinsics of the resized picture. Pixel centres are integers, so a picture's edge lies at -0.5."""
    resize = np.array([[scale_x, 0, 0.5 * scale_x - 0.5], [0, scale_y, 0.5 * scale_y - 0.5], [0, 0, 1]])
    return resize @ np.asarray(K, np.float64)


class _HandFrames:
    """One hand, frame by frame; its meshes are made in chunks when they are asked for."""

    def __init__(self, name: str, trajectory: Trajectory, model: HandModel) -> None:
        self.name = name
        self.color = hand_color(name)
        self.faces = trajectory_faces(model, trajectory).cpu().numpy()
        self.observed = trajectory.observed.numpy()
        self.confidence = trajectory.confidence.numpy()
        self.time_s = trajectory.time_s.numpy()
        self.frame_index = trajectory.frame_index.numpy()
        self.row_of_frame = {int(frame): row for row, frame in enumerate(self.frame_index)}
        with torch.no_grad():
            self.joints_cam = trajectory_joints(model, trajectory).cpu().numpy()
        self.wrists_first = self.joints_cam[:, 0]
        self._make_verts: Callable[[int], np.ndarray] = lambda start: _chunk_verts(model, trajectory, start)
        self._chunk_start = -1
        self._chunk = np.zeros((0, 0, 3), np.float32)

    def place_wrists(self, T_first_cam: Float[np.ndarray, "N 4 4"]) -> None:
        """Say where the wrist is in the first camera's axes."""
        moves = T_first_cam[self.frame_index]
        self.wrists_first = (moves[:, :3, :3] @ self.joints_cam[:, 0, :, None])[..., 0] + moves[:, :3, 3]

    def verts_cam(self, row: int) -> Float[np.ndarray, "V 3"]:
        """Return the mesh of one of its frames."""
        start = row - row % CHUNK_FRAMES
        if start != self._chunk_start:
            self._chunk_start, self._chunk = start, self._make_verts(start)
        return self._chunk[row - start]


class _Timeline:
    """A line per hand through the video: high where it is sure, hatched where filled in, empty where it is not."""

    def __init__(self, hands: list[_HandFrames], num_frames: int, width: int) -> None:
        self.text_scale = max(0.38, width / 3200)
        self.row_px = round(42 * self.text_scale)
        self.left = round(190 * self.text_scale)
        self.width, self.num_frames = width, num_frames
        height = self.row_px * len(hands) + 8 if hands else 24
        self.background = np.full((height, width, 3), PAPER, np.uint8)
        if not hands:
            cv2.putText(self.background, "no hand found", (8, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.38, INK, 1, cv2.LINE_AA)
        for order, hand in enumerate(hands):
            self._draw_hand(hand, top=4 + order * self.row_px)

    def draw(self, frame_index: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return the lines with a mark at the frame."""
        strip = self.background.copy()
        column = int(self._columns(np.array([frame_index + 0.5]))[0])
        cv2.line(strip, (column, 0), (column, strip.shape[0]), (200, 40, 40), 1)
        return strip

    def _columns(self, frames: np.ndarray) -> np.ndarray:
        return self.left + frames * (self.width - self.left - 8) / max(self.num_frames, 1)

    def _draw_hand(self, hand: _HandFrames, top: int) -> None:
        color = np.array(hand.color) * 255
        name_place = (6, top + self.row_px - 5)
        cv2.putText(
            self.background, hand.name, name_place, cv2.FONT_HERSHEY_SIMPLEX, self.text_scale, INK, 1, cv2.LINE_AA
        )
        columns = np.arange(self.left, self.width - 8)
        frames = ((columns - self.left + 0.5) * self.num_frames / max(self.width - self.left - 8, 1)).astype(int)
        is_hatched = columns % 4 < 2
        full = self.row_px - 4
        bottom = top + self.row_px - 2
        self.background[bottom, self.left : self.width - 8] = 215
        for column, frame, hatch in zip(columns, frames, is_hatched, strict=True):
            row = hand.row_of_frame.get(int(frame))
            if row is None or (hatch and not hand.observed[row]):
                continue
            rise = max(2, round(full * float(np.clip(hand.confidence[row], 0, 1))))
            self.background[bottom - rise : bottom, column] = color if hand.observed[row] else color * 0.5 + 110


def _chunk_verts(model: HandModel, trajectory: Trajectory, start: int) -> np.ndarray:
    rows = torch.arange(start, min(start + CHUNK_FRAMES, len(trajectory.frame_index)))
    with torch.no_grad():
        return trajectory_mesh(model, trajectory[rows]).verts.cpu().numpy()


def _seen_from_first(T_world_cam: torch.Tensor) -> Float[np.ndarray, "N 4 4"]:
    """Return where each camera stands, as the first one sees it."""
    if not len(T_world_cam):
        return np.eye(4)[None]
    return (invert_transform(T_world_cam[0]) @ T_world_cam).numpy()
