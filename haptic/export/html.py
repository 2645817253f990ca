"""`scene.html`: the hands, their trails and the camera in one page that plays offline (viser's static export)."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from haptic.export.rig import Rig, make_rig
from haptic.files import atomic_write
from haptic.geometry.rotations import quat_from_rotation
from haptic.hand.model import HandModel
from haptic.hand.palette import skin_color
from haptic.records import Reconstruction, Trajectory

if TYPE_CHECKING:
    import viser

TRAIL_S = 1.0
FILLED_PALENESS = 0.6  # share of white in the colour of a hand, or a stretch of its path, that was filled in
FRUSTUM_M = 0.08
VIEW_DIRECTION = np.array([0.62, -0.48, -0.62])  # from the right, above and behind: hands side by side stay apart
VIEW_FOV_RAD = 0.87
VIEW_TOWARDS_CAMERA = 0.35  # share of the way from the hands to the camera at which the page looks
FLOOR_BELOW_M = 0.12  # under the lowest bone: fingers reach below it
IDENTITY_QUAT = np.array([1.0, 0.0, 0.0, 0.0])


@dataclass(frozen=True)
class HtmlConfig:
    """How much a page may hold: it grows by some 0.6 kB per hand and frame, and a browser keeps all of it."""

    max_frames: int = 1800
    max_hand_frames: int = 6000

    def __post_init__(self) -> None:
        if self.max_frames < 1 or self.max_hand_frames < 1:
            raise ValueError(
                f"max_frames is {self.max_frames} and max_hand_frames {self.max_hand_frames}; both must be at least 1"
            )


def write_html(
    path: Path,
    result: Reconstruction,
    model: HandModel,
    config: HtmlConfig = HtmlConfig(),
) -> int:
    """Write the page; return its stride: 1 where it shows every frame, k where only every k-th, to stay small.

    Time stays true either way. Filled-in frames are paler, and a hand is hidden where it is not tracked.
    """
    stride = frame_stride(result, config)
    with _quiet_server() as server:
        page = _record(server, result, model, stride)
    with atomic_write(path) as file:
        file.write(page.encode())
    return stride


def frame_stride(result: Reconstruction, config: HtmlConfig) -> int:
    """Return how many frames of the video one frame of the page stands for."""
    num_frames = len(result.frame_time_s)
    hand_frames = sum(len(trajectory.frame_index) for trajectory in result.hands.values())
    return max(1, -(-num_frames // config.max_frames), -(-hand_frames // config.max_hand_frames))


@contextlib.contextmanager
def _quiet_server() -> "Iterator[viser.ViserServer]":
    """Give a server on a free port of this machine, for its scene's sake; nobody connects, and it ends with the block.

    viser greets and parts on the standard output.
    """
    try:
        import viser
    except ImportError as error:
        raise ValueError(
            f"scene.html needs the package viser, which does not load ({error}); install it or leave the page out"
        ) from error
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host="127.0.0.1", port=0, verbose=False)
    try:
        yield server
    finally:
        with contextlib.redirect_stdout(io.StringIO()):
            server.stop()


def _record(server: "viser.ViserServer", result: Reconstruction, model: HandModel, stride: int) -> str:
    rigs = {name: make_rig(model, hand) for name, hand in result.hands.items() if len(hand.frame_index)}
    places = result.camera.T_world_cam.numpy()
    # Whoever gives cameras may have a world that lies on its side: up is where the first camera has it.
    T_world_first = places[0] if len(places) else np.eye(4)
    server.scene.set_up_direction(-T_world_first[:3, 1])
    _frame_view(server, rigs, T_world_first)
    _add_floor(server, rigs, places, T_world_first)
    if not rigs:
        in_front = T_world_first[:3, 3] + 0.5 * T_world_first[:3, 2]
        server.scene.add_label("/note", "no hand found", position=in_front)
    films: list[_HandFilm | _CameraFilm] = [_CameraFilm(server, result)]
    films += [_HandFilm(server, name, result.hands[name], rig) for name, rig in rigs.items()]
    times_s = result.frame_time_s.numpy()
    shown = list(range(0, len(times_s), stride))
    for film in films:
        film.show(0)
    serializer = server.get_scene_serializer()
    for frame, following in zip(shown, [*shown[1:], None], strict=True):
        with server.atomic():
            for film in films:
                film.show(frame)
        rest_s = stride / result.fps if following is None else float(times_s[following] - times_s[frame])
        serializer.insert_sleep(max(rest_s, 0.0))
    return serializer.as_html()


class _HandFilm:
    """One hand of the page: its skin, its whole path, thin, and the last second of it, thick."""

    def __init__(self, server: "viser.ViserServer", name: str, trajectory: Trajectory, rig: Rig) -> None:
        num_bones = rig.bone_quats.shape[1]
        weights = np.zeros((len(rig.rest_verts), num_bones), np.float32)
        np.add.at(weights, (np.arange(len(rig.rest_verts))[:, None], rig.skin_bones), rig.skin_weights)
        self.color = np.array(skin_color(name))
        self.observed = trajectory.observed.numpy()
        self.time_s = trajectory.time_s.numpy()
        self.row_of_frame = {int(frame): row for row, frame in enumerate(trajectory.frame_index)}
        self.quats, self.positions = rig.bone_quats, rig.bone_positions
        self.skin = server.scene.add_mesh_skinned(
            f"/{name}",
            vertices=rig.rest_verts,
            faces=rig.faces,
            bone_wxyzs=np.tile(IDENTITY_QUAT, (num_bones, 1)),
            bone_positions=rig.rest_bones[:num_bones],
            skin_weights=weights,
            color=_as_bytes(self.color),
            side="double",
            visible=False,
        )
        wrists = self.positions[:, 0]
        self.segments = np.stack([wrists[:-1], wrists[1:]], axis=1)
        self.is_joined = np.diff(trajectory.frame_index.numpy()) == 1
        pale = _paler(self.color)
        is_seen = self.observed[:-1] & self.observed[1:]
        colors = np.where(is_seen[:, None, None], self.color, pale).repeat(2, axis=1)
        self.trail = None
        if self.is_joined.any():
            server.scene.add_line_segments(
                f"/{name}_path", self.segments[self.is_joined], np.round(255 * colors[self.is_joined]).astype(np.uint8),
                thickness=1.0, thickness_units="screen",
            )  # fmt: skip
            self.trail = server.scene.add_line_segments(
                f"/{name}_trail", self.segments[:1], _as_bytes(self.color),
                thickness=4.0, thickness_units="screen", visible=False,
            )  # fmt: skip

    def show(self, frame: int) -> None:
        """Pose the hand as it was in a frame of the video."""
        row = self.row_of_frame.get(frame)
        _assign(self.skin, "visible", row is not None)
        recent = np.zeros(0, int)
        if row is not None:
            for bone, quat, position in zip(self.skin.bones, self.quats[row], self.positions[row], strict=True):
                bone.wxyz = quat
                bone.position = position
            _assign(self.skin, "color", _as_bytes(self.color if self.observed[row] else _paler(self.color)))
            first = np.searchsorted(self.time_s, self.time_s[row] - TRAIL_S)
            recent = np.arange(first, row)
            recent = recent[self.is_joined[recent]]
        if self.trail is not None:
            _assign(self.trail, "visible", len(recent) > 0)
            if len(recent):
                self.trail.points = self.segments[recent].astype(np.float32)


class _CameraFilm:
    """The camera of the page: its frustum and, if it moves, its path."""

    def __init__(self, server: "viser.ViserServer", result: Reconstruction) -> None:
        self.places = result.camera.T_world_cam.numpy()
        self.quats = _quats(self.places[:, :3, :3])
        focal_px = float(result.camera.K[:, 1, 1].median()) if len(self.places) else float(result.image_width_px)
        self.frustum = server.scene.add_camera_frustum(
            "/camera",
            fov=float(2 * np.arctan(result.image_height_px / 2 / focal_px)),
            aspect=result.image_width_px / result.image_height_px,
            scale=FRUSTUM_M,
            thickness=0.0025,
            color=(70, 70, 70),
        )
        path = self.places[:, :3, 3]
        if len(path) > 1 and np.ptp(path, axis=0).max() > 0:
            server.scene.add_line_segments(
                "/camera_path", np.stack([path[:-1], path[1:]], axis=1), (120, 120, 120),
                thickness=1.5, thickness_units="screen",
            )  # fmt: skip

    def show(self, frame: int) -> None:
        """Put the camera where it was."""
        if frame < len(self.places):
            self.frustum.position = self.places[frame, :3, 3]
            self.frustum.wxyz = self.quats[frame]


def _frame_view(server: "viser.ViserServer", rigs: dict[str, Rig], T_world_first: np.ndarray) -> None:
    """Look past the camera's right side at the hands, from a distance that shows camera and hands."""
    wrists = [rig.bone_positions[:, 0] for rig in rigs.values()]
    place = T_world_first[:3, 3]
    aim = np.median(np.concatenate(wrists), axis=0) if wrists else place + T_world_first[:3, 2] * 0.5
    distance_m = float(np.linalg.norm(aim - place))
    aim = aim + VIEW_TOWARDS_CAMERA * (place - aim)
    reach_m = (0.42 * distance_m + 0.15) / np.tan(VIEW_FOV_RAD / 2)
    server.initial_camera.fov = VIEW_FOV_RAD
    server.initial_camera.look_at = aim
    server.initial_camera.position = aim + reach_m * (T_world_first[:3, :3] @ VIEW_DIRECTION)
    server.initial_camera.up = -T_world_first[:3, 1]


def _add_floor(
    server: "viser.ViserServer", rigs: dict[str, Rig], places: np.ndarray, T_world_first: np.ndarray
) -> None:
    """Lay a grid of decimetres under everything, level with the first camera."""
    points = [rig.bone_positions.reshape(-1, 3) for rig in rigs.values()] + [places[:, :3, 3]]
    rotation, origin = T_world_first[:3, :3], T_world_first[:3, 3]
    seen_from_first = (np.concatenate(points) - origin) @ rotation
    if not len(seen_from_first):
        return
    low, high = np.quantile(seen_from_first, [0.005, 0.995], axis=0)
    sides = np.ceil((high - low)[[0, 2]] / 0.2) * 0.2 + 0.6
    middle = np.array([(low[0] + high[0]) / 2, high[1] + FLOOR_BELOW_M, (low[2] + high[2]) / 2])
    server.scene.add_grid(
        "/floor", width=float(sides[0]), height=float(sides[1]), plane="xz", cell_size=0.1, section_size=0.5,
        wxyz=_quats(rotation), position=rotation @ middle + origin,
    )  # fmt: skip


def _assign(handle: object, attribute: str, value: object) -> None:
    """Set what differs only: every assignment is a message in the page."""
    if getattr(handle, attribute) != value:
        setattr(handle, attribute, value)


def _quats(rotation: np.ndarray) -> np.ndarray:
    return quat_from_rotation(torch.from_numpy(np.ascontiguousarray(rotation))).numpy()


def _paler(color: np.ndarray) -> np.ndarray:
    return color + FILLED_PALENESS * (1 - color)


def _as_bytes(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(value)) for value in color)
    return red, green, blue
