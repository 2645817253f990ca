"""HOT3D-Clips (Banerjee et al. 2024): two hands and objects before the head-worn cameras of Aria and Quest 3.

A tar for each clip of 150 frames. Hands are MANO in the world: 15 PCA coefficients, mean pose left out, left shapes
mirrored, one shape for both hands. Fisheye pictures are straightened to pinhole ones. Aria's sensor lies sideways: its
pictures and cameras are turned by a quarter. The full release is another set, `hot3d`.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.arrays import vector
from data_prep.dataset import DamagedError, DataSet, HandTruth, Request, Source, SourceClip, Split, Unit
from data_prep.fisheye import Fisheye624
from data_prep.headsets import COLOR, FPS, MIN_VISIBLE, PCA, STREAMS, HeadsetPictures, HeadsetView, quaternion_pose
from haptic.data.samples import decode_image

FRAMES_PER_CLIP = 150
HAND_SHAPES = "__hand_shapes.json__"


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
    view = HeadsetView(lens, T_world_cam, is_sideways=is_aria)
    names = [f"{frame}.image_{stream}.jpg" for frame in frames]
    return SourceClip(
        key=f"{tar.path.stem}_{stream}",
        pictures=HeadsetPictures(lambda frame: tar.picture(names[frame]), view),
        hands=[_hand(request, side, stream, hands, betas, view) for side in ("right", "left")],
        width_px=view.width_px,
        height_px=view.height_px,
        fps=FPS,
        source=f"{tar.path.name}, {stream}",
    )


def _hand(
    request: Request, side: str, stream: str, hands: list[Any], betas: np.ndarray, view: HeadsetView
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
    return view.hand(request.mano, side, rows, np.tile(betas, (len(rows), 1)))


def _pose(stored: Any) -> np.ndarray:
    return quaternion_pose(stored["quaternion_wxyz"], stored["translation_xyz"])


class _Tar:
    """A clip's tar, open while its frames are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tar = tarfile.open(path)  # noqa: SIM115 (closed by __exit__)
            self.names = set(self._tar.getnames())
        except (OSError, tarfile.TarError, EOFError) as error:
            raise DamagedError(f"{path}: not a readable tar ({str(error).splitlines()[0]})") from None

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

    def picture(self, name: str) -> np.ndarray:
        """Return a member's picture."""
        try:
            return decode_image(self.read(name), where=f"{self.path}: {name}")
        except ValueError as error:
            raise DamagedError(str(error)) from None


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
