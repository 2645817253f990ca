"""HOT3D-Clips (Banerjee et al. 2024): two hands and objects before the head-worn cameras of Aria and Quest 3.

A tar for each clip of 150 frames. Hands are MANO in the world: 15 PCA coefficients, mean pose left out, left shapes
mirrored, one shape for both hands. Fisheye pictures are straightened to pinhole ones. Aria's sensor lies sideways: its
pictures and cameras are turned by a quarter. The full release's pictures are in VRS files, which are not
read here.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_prep.arrays import vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.fisheye import Fisheye624
from data_prep.frames import inverse, points_in_camera, rigid
from data_prep.mano_files import ManoNumbers
from haptic.data.samples import decode_image

FPS = 30.0
FRAMES_PER_CLIP = 150
COLOR = "214-1"  # only Aria has it
STREAMS = (COLOR, "1201-1", "1201-2")
PCA = 15
MIN_VISIBLE = 0.1  # as the challenge's crops
HAND_SHAPES = "__hand_shapes.json__"
QUARTER_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x' = -y, y' = x


def open_hot3d(request: Request) -> Source:
    """List the clips of a folder."""
    clips = sorted((request.root / request.split).glob("clip-*.tar"))
    streams = 1 if request.split.endswith("aria") else 2
    units = [Unit(path.name, 2 * FRAMES_PER_CLIP * streams, 1) for path in clips]
    return Source(units, lambda unit: _clips(request, request.root / request.split / unit.name))


def _clips(request: Request, path: Path) -> Iterator[SourceClip]:
    assert request.mano is not None, "asked for by DataSet.mano"
    with _Tar(path) as tar:
        frames = sorted({name.split(".")[0] for name in tar.names if name.endswith(".cameras.json")})
        if not frames or f"{frames[0]}.hands.json" not in tar.names or HAND_SHAPES not in tar.names:
            raise DamagedError(f"{path}: no cameras, hands or {HAND_SHAPES}; the truth of test clips is not public")
        betas = vector(tar.json(HAND_SHAPES), "mano", (10,), where=f"{path}, {HAND_SHAPES}")
        cameras = [tar.json(f"{frame}.cameras.json") for frame in frames]
        hands = [tar.json(f"{frame}.hands.json") for frame in frames]
        is_aria = COLOR in cameras[0]
        wanted: tuple[str, ...] = (COLOR,) if is_aria else STREAMS[1:]
        if "streams" in request.options:
            wanted = tuple(stream for stream in request.options["streams"].split(",") if stream in cameras[0])
        for stream in wanted:
            yield _clip(request, tar, frames, stream, [one[stream] for one in cameras], hands, betas, is_aria)


def _clip(
    request: Request,
    tar: "_Tar",
    frames: list[str],
    stream: str,
    cameras: list[Any],
    hands: list[Any],
    betas: np.ndarray,
    is_aria: bool,
) -> SourceClip:
    calibration = cameras[0]["calibration"]
    lens = Fisheye624(
        np.asarray(calibration["projection_params"], np.float64),
        int(calibration["image_width"]),
        int(calibration["image_height"]),
    )
    T_world_cam = np.stack([_pose(camera["T_world_from_camera"]) for camera in cameras])
    K, width_px, height_px = lens.K, lens.width_px, lens.height_px
    if is_aria:
        T_world_cam[:, :3, :3] = T_world_cam[:, :3, :3] @ QUARTER_TURN.T
        turned = K.copy()
        turned[0, 0], turned[1, 1] = K[1, 1], K[0, 0]
        turned[0, 2], turned[1, 2] = height_px - 1 - K[1, 2], K[0, 2]
        K, width_px, height_px = turned, height_px, width_px
    return SourceClip(
        key=f"{tar.path.stem}_{stream}",
        pictures=_TarPictures(tar, [f"{frame}.image_{stream}.jpg" for frame in frames], lens, is_aria),
        hands=[
            _hand(request, side, stream, hands, betas, np.tile(K, (len(frames), 1, 1)), T_world_cam)
            for side in ("right", "left")
        ],
        width_px=width_px,
        height_px=height_px,
        fps=FPS,
        source=f"{tar.path.name}, {stream}",
    )


def _hand(
    request: Request,
    side: str,
    stream: str,
    hands: list[Any],
    betas: np.ndarray,
    K: np.ndarray,
    T_world_cam: np.ndarray,
) -> HandTruth:
    assert request.mano is not None
    rows = np.full((len(hands), PCA + 6), np.nan)
    for frame, both in enumerate(hands):
        hand = (both or {}).get(side)
        if not hand or not hand.get("mano_pose"):
            continue
        if float((hand.get("visibilities_modeled") or {}).get(stream, 1.0)) < MIN_VISIBLE:
            continue
        where = f"frame {frame}, {side}"
        rows[frame, :PCA] = vector(hand["mano_pose"], "thetas", (PCA,), where=where)
        rows[frame, PCA:] = vector(hand["mano_pose"], "wrist_xform", (6,), where=where)
    numbers = ManoNumbers(
        is_right=side == "right", finger=rows[:, :PCA], global_aa=rows[:, PCA : PCA + 3], transl=rows[:, PCA + 3 :],
        betas=np.tile(betas, (len(rows), 1)), is_pca=True, is_mean_left_out=True, left_shape="mirrored",
    )  # fmt: skip
    T_cam_world = inverse(T_world_cam)
    truth = request.mano.params(numbers, rotation=T_cam_world[:, :3, :3], translation=T_cam_world[:, :3, 3])
    return HandTruth(
        is_right=side == "right",
        K=K,
        joints_cam=points_in_camera(request.mano.joints(numbers), T_cam_world),
        T_world_cam=T_world_cam,
        **vars(truth),
    )


def _pose(stored: Any) -> np.ndarray:
    """Return a rigid transform from a quaternion (w, x, y, z) and a translation."""
    w, x, y, z = np.asarray(stored["quaternion_wxyz"], np.float64)
    half = np.arctan2(np.linalg.norm([x, y, z]), w)
    axis = np.array([x, y, z]) / max(float(np.linalg.norm([x, y, z])), 1e-12)
    rotation = cv2.Rodrigues(2 * half * axis)[0]
    return rigid(rotation[None], np.asarray(stored["translation_xyz"], np.float64)[None])[0]


class _Tar:
    """A clip's tar, open while its frames are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 (closed by __exit__)
            self.names = set(self._tar.getnames())
        except (OSError, tarfile.TarError, EOFError) as error:
            raise DamagedError(f"{path}: not a readable tar ({error})") from None

    def __enter__(self) -> "_Tar":
        return self

    def __exit__(self, *_error: object) -> None:
        self._tar.close()

    def read(self, name: str) -> bytes:
        """Return a member's bytes."""
        try:
            file = self._tar.extractfile(name)
            assert file is not None, "members of a clip are files"
            return file.read()
        except (KeyError, OSError, tarfile.TarError) as error:
            raise DamagedError(f"{self.path}: {name} cannot be read ({error})") from None

    def json(self, name: str) -> Any:
        """Return a member's content."""
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise DamagedError(f"{self.path}: {name} is no JSON ({error})") from None


class _TarPictures:
    """The pictures of one camera, straightened and upright."""

    def __init__(self, tar: _Tar, names: list[str], lens: Fisheye624, is_sideways: bool) -> None:
        self._tar, self._names, self._lens, self._is_sideways = tar, names, lens, is_sideways
        self._straighten: Any = None

    def __len__(self) -> int:
        return len(self._names)

    def read(self, frame: int) -> np.ndarray:
        """Return a frame."""
        self._straighten = self._straighten or self._lens.straightened()
        where = f"{self._tar.path}: {self._names[frame]}"
        try:
            image = decode_image(self._tar.read(self._names[frame]), where=where)
        except ValueError as error:
            raise DamagedError(str(error)) from None
        straight = self._straighten(image)
        return cv2.rotate(straight, cv2.ROTATE_90_CLOCKWISE) if self._is_sideways else straight


DATA_SETS = (
    DataSet(
        name="hot3d-clips",
        title="HOT3D-Clips",
        licence="HOT3D licence (its MANO numbers: MANO licence)",
        link="https://github.com/facebookresearch/hot3d",
        splits={"train_aria": Split(), "train_quest3": Split()},
        layout=("train_*/clip-*.tar",),
        open=open_hot3d,
        mano="needed",
        needs_left_mano=True,
        options={"streams": "comma-separated; default 214-1 of Aria, 1201-1 and 1201-2 of Quest 3"},
    ),
)
