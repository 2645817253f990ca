"""Hands, cameras and pictures for miniature downloads: made by smplx and plain formulas, not by the code under test.

Every picture is grey with two blobs: blue at the wrist, yellow at the tip of the index finger. A converter that turns,
mirrors, shifts or swaps anything misses them.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import smplx
import torch
from smplx.utils import Struct

from data_prep.convert import ConvertConfig, Tally, convert
from data_prep.dataset import Request
from data_prep.mano_files import ManoFiles
from data_prep.registry import find_data_set
from haptic.data.readers import ClipSet
from haptic.data.shard_tools import check_shards
from haptic.data.shards import ShardStore
from haptic.geometry.cameras import project
from haptic.hand.model import load_hand_model

OPENPOSE_FROM_SMPLX = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
TIPS = [744, 320, 443, 554, 671]
WRIST_COLOR, TIP_COLOR = (30, 60, 230), (240, 220, 20)
BLOB_PX = 8
HIDDEN_PX = 15
REST_WRIST = np.array([0.096, 0.006, 0.006])  # about where MANO has it
CLONE = Path(__file__).parent.parent.parent


def _miniatures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("miniatures", Path(__file__).with_name("miniatures.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Every test here may use the miniature downloads that are laid out in another's file.
MINIATURES = _miniatures()
globals().update(MINIATURES.FIXTURES)
lay_miniature, arguments_for = MINIATURES.lay_miniature, MINIATURES.arguments_for
make_ho3d_evaluation = MINIATURES.make_ho3d_evaluation


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `any_set` for every data set."""
    if "any_set" in metafunc.fixturenames:
        metafunc.parametrize("any_set", MINIATURES.NAMES)


@pytest.fixture(scope="session")
def mano_arrays() -> dict[str, dict[str, np.ndarray]]:
    """A right hand with MANO's arrays, and a left one as MANO_LEFT is published: shape directions not mirrored in x."""
    with np.load(CLONE / "checkpoints" / "openhand" / "OPENHAND_RIGHT.npz") as archive:
        right = {name: archive[name] for name in archive.files}
    # The openhand itself is refused as the user's file.
    right["shapedirs"] = right["shapedirs"] * 1.01
    across = np.array([-1.0, 1.0, 1.0])
    turned = np.array([1.0, -1.0, -1.0])
    left = dict(right)
    left["v_template"] = right["v_template"] * across
    left["f"] = right["f"][:, ::-1].copy()
    left["J"] = right["J"] * across
    # A mirrored rotation is M R M: an entry of R - I changes sign where one of its two axes is x.
    sign = np.tile((across[:, None] * across[None, :]).reshape(-1), 15)
    left["posedirs"] = right["posedirs"] * across[:, None] * sign
    left["hands_mean"] = right["hands_mean"] * np.tile(turned, 15)
    # Another basis than the right hand's mirrored one, as nothing promises that.
    left["hands_components"] = -(right["hands_components"] * np.tile(turned, 15))
    return {"right": right, "left": left}


@pytest.fixture(scope="session")
def mano(mano_arrays, tmp_path_factory) -> ManoFiles:
    """The user's two files."""
    folder = tmp_path_factory.mktemp("mano")
    for side, arrays in mano_arrays.items():
        np.savez(folder / f"MANO_{side.upper()}.npz", **arrays)
    return ManoFiles(folder / "MANO_RIGHT.npz", folder / "MANO_LEFT.npz")


@pytest.fixture(scope="session")
def smplx_joints(mano_arrays) -> Callable[..., np.ndarray]:
    """smplx's own layer: global 3, fingers 45 axis-angle, betas, transl -> 21 joints in OpenPose order."""

    def joints(is_right, global_aa, finger_aa, betas, transl, *, flat_mean, published_left=True, tips=TIPS):
        arrays = dict(mano_arrays["right" if is_right else "left"])
        if not is_right and not published_left:
            arrays["shapedirs"] = arrays["shapedirs"] * np.array([-1.0, 1.0, 1.0])[:, None]
        layer = smplx.MANO(
            model_path="x", data_struct=Struct(**arrays), is_rhand=is_right, use_pca=False, flat_hand_mean=flat_mean,
            batch_size=len(transl), dtype=torch.float64,
        )  # fmt: skip
        numbers = [torch.as_tensor(np.asarray(part), dtype=torch.float64) for part in (global_aa, finger_aa, betas)]
        output = layer(
            global_orient=numbers[0], hand_pose=numbers[1], betas=numbers[2], transl=torch.as_tensor(np.asarray(transl))
        )
        everything = torch.cat([output.joints[:, :16], output.vertices[:, tips]], dim=1)
        return everything[:, OPENPOSE_FROM_SMPLX].detach().numpy()

    return joints


@pytest.fixture(scope="session")
def motion() -> Callable[..., SimpleNamespace]:
    """Numbers of a hand whose wrist moves a little about a place: global_aa, finger, betas, transl of T frames."""

    def make(
        num_frames: int, *, seed: int = 0, place=(0.0, 0.02, 0.6), pca: int = 45, is_right: bool = True
    ) -> SimpleNamespace:
        rng = np.random.default_rng(seed)
        time = np.linspace(0, 1, num_frames)[:, None]
        rest_wrist = REST_WRIST * (1, 1, 1) if is_right else REST_WRIST * (-1, 1, 1)
        return SimpleNamespace(
            global_aa=rng.normal(size=3) * 0.8 + 0.2 * np.sin(time + rng.normal(size=3)),
            finger=rng.normal(size=pca) * 0.25 + 0.1 * np.sin(2 * time + rng.normal(size=pca)),
            betas=np.tile(rng.normal(size=10) * 0.5, (num_frames, 1)),
            transl=np.asarray(place) - rest_wrist + 0.03 * np.sin(time + rng.normal(size=3)),
        )

    return make


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """A grey picture with blobs at the wrist and the tip of the index finger of one or more hands (21, 2)."""

    def make(width: int, height: int, *joints_img: np.ndarray) -> np.ndarray:
        image = np.full((height, width, 3), 120, np.uint8)
        for points in joints_img:
            for joint, color in ((0, WRIST_COLOR), (8, TIP_COLOR)):
                if np.isfinite(points[joint]).all():
                    x, y = (round(float(value) * 16) for value in points[joint])
                    cv2.circle(image, (x, y), 16 * BLOB_PX * max(1, width // 640), color, -1, cv2.LINE_AA, 4)
        return image

    return make


@pytest.fixture(scope="session")
def through_lens() -> Callable[[np.ndarray, list[float]], np.ndarray]:
    """Aria's and Quest's lens, one point after the other, from the published formula.

    Arctan projection, 6 radial, 2 tangential, 4 prism numbers.
    """

    def project_points(points: np.ndarray, params: list[float]) -> np.ndarray:
        *linear, k1, k2, k3, k4, k5, k6, p1, p2, s1, s2, s3, s4 = params
        f, cx, cy = linear[0], linear[-2], linear[-1]
        pixels = []
        for x, y, z in points:
            r = np.hypot(x, y)
            t = np.arctan2(r, z)
            d = t + k1 * t**3 + k2 * t**5 + k3 * t**7 + k4 * t**9 + k5 * t**11 + k6 * t**13
            u, v = x / r * d, y / r * d
            q = u * u + v * v
            du = 2 * p2 * u * v + p1 * (q + 2 * u * u) + s1 * q + s2 * q * q
            dv = 2 * p1 * u * v + p2 * (q + 2 * v * v) + s3 * q + s4 * q * q
            pixels.append([f * (u + du) + cx, f * (v + dv) + cy])
        return np.array(pixels)

    return project_points


@pytest.fixture(scope="session")
def save_picture() -> Callable[[Path, np.ndarray], None]:
    """Write a picture as it lies in a download."""

    def save(path: Path, image: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), image[..., ::-1])

    return save


@pytest.fixture
def to_shards(tmp_path) -> Callable[..., tuple[list[Path], Tally]]:
    """Convert a split of a miniature download; the shards pass `check`."""

    def run(name: str, root: Path, split: str, *, mano: ManoFiles | None = None, partial=False, **options):
        out = tmp_path / f"shards-{name}-{split}"
        config = ConvertConfig(is_partial_fine=partial)
        tally = convert(find_data_set(name), Request(root, split, mano, options), out, config, say=lambda _text: None)
        shards = sorted(out.glob("*.tar"))
        if shards:
            report = check_shards([str(path) for path in shards])
            assert not report.faults
        return shards, tally

    return run


@pytest.fixture(scope="session")
def read_hands() -> Callable[..., dict[str, SimpleNamespace]]:
    """Read shards back as training does; by `KEY.HAND`: labels as a right hand, and the stored crops.

    `joints_cam` is turned back to the side that the camera saw.
    """

    def read(shards: list[Path]) -> dict[str, SimpleNamespace]:
        hands = {}
        for path in shards:
            one = ClipSet(path.name, str(path), store=ShardStore())
            for track in range(len(one.num_frames)):
                opened = one.open(track)
                window = opened.window(list(range(int(one.num_frames[track]))))
                key, name = one.key(track)
                side = 1.0 if opened.was_right else -1.0
                hands[f"{key.split('/')[-1]}.{name}"] = SimpleNamespace(
                    labels=window.labels, crops=window.crops, frames=window.frames, was_right=opened.was_right,
                    joints_cam=window.labels.joints_cam.numpy() * np.array([side, 1.0, 1.0]),
                    frame_index=window.labels.frame_index.tolist(),
                )  # fmt: skip
        return hands

    return read


@pytest.fixture(scope="session")
def assert_labels_hit_the_blobs() -> Callable[[SimpleNamespace], None]:
    """The 3D joints, seen by K on the stored crop, lie on the blobs within a pixel of the crop: for either hand.

    Where no 3D place is known it is the 2D joints that must.
    """

    def check(hand: SimpleNamespace, *, atol_px: float = 1.0) -> None:
        hits = misses = 0
        joints_img = hand.labels.joints_img.double().numpy()
        if hand.labels.place_weight.min() > 0:  # else only the 2D joints say where the hand is
            joints_img = project(hand.labels.joints_cam, hand.labels.camera.K).double().numpy()
        for place, crop in enumerate(hand.crops):
            points = joints_img[place] * crop.scale + crop.offset_px
            for joint, color in ((0, WRIST_COLOR), (8, TIP_COLOR)):
                found = _blob(np.asarray(crop.pixels), color, points[joint])
                if found is None:
                    continue
                # Another hand's blob may hide this one; then the nearest is far away. Not so for most.
                is_hidden = np.linalg.norm(found - points[joint]) > HIDDEN_PX
                misses += is_hidden
                hits += not is_hidden
                if not is_hidden:
                    np.testing.assert_allclose(found, points[joint], atol=atol_px)
        assert hits > misses, f"{hits} blobs lie where the labels say, {misses} elsewhere"

    return check


@pytest.fixture(scope="session")
def posed_joints(mano) -> Callable[[SimpleNamespace], np.ndarray]:
    """The joints that a shard's MANO parameters give, of the side that the camera saw."""

    def joints(hand: SimpleNamespace) -> np.ndarray:
        posed = load_hand_model(mano.right_path).joints(hand.labels.params).numpy()
        return posed * np.array([1.0 if hand.was_right else -1.0, 1.0, 1.0])

    return joints


def _blob(pixels: np.ndarray, color: tuple[int, int, int], near: np.ndarray) -> np.ndarray | None:
    """Return the middle of the blob of a colour that is nearest to a place; None if none or one is cut off."""
    is_color = (np.abs(pixels.astype(int) - color).max(axis=-1) < 70).astype(np.uint8)
    count, _labels, stats, middles = cv2.connectedComponentsWithStats(is_color)
    best = None
    for number in range(1, count):
        left, top, width, height, area = stats[number]
        touches = left == 0 or top == 0 or left + width == pixels.shape[1] or top + height == pixels.shape[0]
        if area < 12 or touches or abs(width - height) > 2:
            continue
        if best is None or np.linalg.norm(middles[number] - near) < np.linalg.norm(best - near):
            best = middles[number]
    return best
