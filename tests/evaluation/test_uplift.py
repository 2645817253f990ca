"""Hands take their depth from depth maps over what is seen of them, or from a body's wrist, and keep their rays."""

import io
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from haptic.data.readers import whole_picture
from haptic.data.shards import ShardStore
from haptic.evaluation.baselines import MethodRunner, parse_method
from haptic.evaluation.clips import ClipPictures, list_clips
from haptic.evaluation.uplift import (
    WHAM_FILE,
    BodyWrists,
    at_depth,
    load_smpl_wrists,
    read_wham,
    robust_offset,
    uplift_by_depth_maps,
    uplift_by_wham,
)
from haptic.files import UnsafePickleError, load_joblib
from haptic.geometry.cameras import project
from haptic.geometry.raster import join_meshes, raycast
from haptic.hand.model import trajectory_faces, trajectory_joints, trajectory_mesh

WALL_M = 2.0


class RenderedDepth:
    """A depth network that is right: hands before a wall, and whatever a test puts before them."""

    def __init__(self, model, hands, *, shift_m=0.0, cover=None):
        self._model, self._hands, self._shift_m, self._cover = model, hands, shift_m, cover
        self.frames = []

    def picture(self, frame):
        self.frames.append(frame)
        return whole_picture(np.full((120, 160, 3), 90, np.uint8), 320, 240)  # stored at half its size

    def metres(self, image):
        frame = self.frames[-1]
        meshes, K = [], None
        for hand in self._hands.values():
            ((place,),) = [torch.nonzero(hand.frame_index == frame)[:, 0].tolist()]
            mesh = trajectory_mesh(self._model, hand[place : place + 1]).verts[0].numpy()
            meshes.append((mesh, trajectory_faces(self._model, hand).numpy()))
            K = hand.camera.K[place].double().numpy()
        joined = join_meshes(meshes)
        to_small = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])
        depth = raycast(joined.verts, joined.faces, to_small @ K, width=160, height=120).depth
        depth = np.where(np.isfinite(depth), depth + self._shift_m, WALL_M).astype(np.float32)
        assert image.shape == (*depth.shape, 3)
        return depth if self._cover is None else self._cover(depth)


@pytest.fixture
def true_hands(make_result):
    return make_result(((0, 6), (0, 6)), num_frames=6).hands


def misplaced(model, hands):
    """The same hands on the same rays, at depths that are wrong by another share in every frame."""
    moved = {}
    for name, hand in hands.items():
        wrist = trajectory_joints(model, hand)[:, 0]
        moved[name] = at_depth(model, hand, wrist[:, 2] * torch.linspace(0.93, 1.08, len(wrist)))
    return moved


def depths(model, hands, name):
    return trajectory_joints(model, hands[name])[:, 0, 2]


def lift(model, hands, network):
    return uplift_by_depth_maps(model, hands, network.picture, network, width_px=320, height_px=240)


@pytest.mark.parametrize("outliers", [0, 30, 45])
def test_the_offset_is_what_most_pixels_agree_on(outliers):
    rng = np.random.default_rng(0)
    values = 0.12 + 0.003 * rng.normal(size=100)
    values[:outliers] = 1.4 + 0.3 * rng.normal(size=outliers)  # the wall
    assert robust_offset(values) == pytest.approx(0.12, abs=0.005)


def test_hands_come_to_the_depth_of_the_map_on_their_own_rays(open_hand, true_hands):
    start = misplaced(open_hand, true_hands)
    network = RenderedDepth(open_hand, true_hands)
    lifted, notes = lift(open_hand, start, network)
    assert not notes
    assert network.frames == list(range(6))  # one map per frame, whatever the number of hands
    for name in true_hands:
        truth = depths(open_hand, true_hands, name)
        before = (depths(open_hand, start, name) - truth).abs()
        after = (depths(open_hand, lifted, name) - truth).abs()
        assert before.max() > 0.03
        assert after.max() < 0.008
        rays = [project(trajectory_joints(open_hand, one[name])[:, :1], one[name].camera.K) for one in (start, lifted)]
        torch.testing.assert_close(rays[0], rays[1], atol=0.02, rtol=0)
        assert lifted[name].params.hand_pose is start[name].params.hand_pose


def test_an_object_before_a_part_of_the_hand_does_not_draw_it_near(open_hand, true_hands):
    def cover(depth):
        covered = depth.copy()
        covered[:, : depth.shape[1] // 4] = 0.2
        on_hand = depth < WALL_M
        rows = np.flatnonzero(on_hand.any(1))
        covered[rows[0] : rows[0] + (rows[-1] - rows[0]) // 3] = 0.2
        return covered

    start = misplaced(open_hand, true_hands)
    lifted, _notes = lift(open_hand, start, RenderedDepth(open_hand, true_hands, cover=cover))
    for name in true_hands:
        assert (depths(open_hand, lifted, name) - depths(open_hand, true_hands, name)).abs().max() < 0.02


def test_a_frame_in_which_nothing_is_known_takes_what_lies_between_and_a_hand_never_seen_is_left_out(
    open_hand, true_hands
):
    class Blind(RenderedDepth):
        def metres(self, image):
            depth = super().metres(image)
            return np.full_like(depth, np.nan) if self.frames[-1] in (0, 3) else depth

    shifted = RenderedDepth(open_hand, true_hands, shift_m=0.1)
    blind = Blind(open_hand, true_hands, shift_m=0.1)
    (full, _), (gaps, _) = lift(open_hand, true_hands, shifted), lift(open_hand, true_hands, blind)
    for name in true_hands:
        torch.testing.assert_close(depths(open_hand, gaps, name), depths(open_hand, full, name), atol=0.005, rtol=0)

    class Nothing(RenderedDepth):
        def metres(self, image):
            return np.zeros(image.shape[:2], np.float32)

    lifted, notes = lift(open_hand, true_hands, Nothing(open_hand, true_hands))
    assert not lifted
    assert sorted(note.split(":")[0] for note in notes) == ["left_0", "right_0"]


@pytest.fixture
def short_clip(short_shard):
    """Both hands in six frames."""
    return list_clips("dexycb-s0-val", [str(short_shard)], ShardStore())[0]


def test_a_method_with_a_depth_network_looks_once_at_each_frame(short_clip, open_hand):
    clip, looked = short_clip, []

    class Flat:
        def metres(self, image):
            looked.append(image.shape)
            return np.full(image.shape[:2], 0.7, np.float32)

    runner = MethodRunner(clip, ClipPictures(clip, ShardStore()), open_hand, depth_networks={"zoedepth": Flat()})
    found = dict(runner.run(parse_method("keypoints-gt/zoedepth")))
    assert set(found) == set(clip.hands)
    assert len(looked) == clip.info.num_frames
    for hand in found.values():
        verts = trajectory_mesh(open_hand, hand).verts
        assert (verts[..., 2].mean(1) - 0.7).abs().max() < 0.15  # a hand about the flat map
    with pytest.raises(ValueError, match="no depth network"):
        runner.run(parse_method("keypoints-gt/depth-anything"))


# --- the networks at random weights ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def depth_folders(tmp_path_factory):
    """Small networks of both kinds, every parameter random, as transformers writes them."""
    transformers = pytest.importorskip(
        "transformers", reason="the package transformers (extra [depth]) is not installed"
    )
    layers = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "out_indices": [1, 2, 3, 4]}
    zoe = transformers.ZoeDepthConfig(
        backbone_config=transformers.BeitConfig(
            **layers, intermediate_size=32, image_size=64, patch_size=16, reshape_hidden_states=False,
            use_relative_position_bias=True,
        ),
        neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, bottleneck_features=8, num_relative_features=4,
        bin_embedding_dim=8, num_attractors=[4, 2, 2, 1], num_patch_transformer_layers=1,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.1, "max_depth": 10.0, "name": "nyu"}],
    )  # fmt: skip

    def anything(kind):
        return transformers.DepthAnythingConfig(
            backbone_config=transformers.Dinov2Config(
                **layers, mlp_ratio=2, image_size=56, patch_size=14, reshape_hidden_states=False, apply_layernorm=True
            ),
            patch_size=14, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
        )  # fmt: skip

    small = transformers.DPTImageProcessor(size={"height": 56, "width": 56}, keep_aspect_ratio=True,
                                           ensure_multiple_of=14)  # fmt: skip
    padded = transformers.ZoeDepthImageProcessor(size={"height": 64, "width": 64})
    folder = tmp_path_factory.mktemp("depth")
    for name, model, processor in (
        ("zoedepth", transformers.ZoeDepthForDepthEstimation(zoe), padded),
        ("metric", transformers.DepthAnythingForDepthEstimation(anything("metric")), small),
        ("relative", transformers.DepthAnythingForDepthEstimation(anything("relative")), small),
    ):
        rng = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(("name", "most_m"), [("zoedepth", 10.0), ("metric", 20.0)])
def test_a_depth_network_gives_metres_for_every_pixel_of_the_picture(depth_folders, name, most_m):
    from haptic.evaluation.depth_maps import TransformersDepth

    network = TransformersDepth(str(depth_folders / name), device=torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    depth = network.metres(image)
    assert depth.shape == (48, 80)
    assert np.isfinite(depth).all()
    assert 0 < np.median(depth) <= most_m  # reducing and enlarging a noisy picture may overshoot at its edges
    assert depth.std() > 0
    assert not np.array_equal(depth, network.metres(image[:, ::-1].copy()))
    np.testing.assert_array_equal(depth, network.metres(image))


def test_a_relative_depth_network_and_an_empty_folder_are_refused_in_one_line(depth_folders, tmp_path):
    from haptic.evaluation.depth_maps import TransformersDepth

    with pytest.raises(ValueError, match="whose depth is relative"):
        TransformersDepth(str(depth_folders / "relative"), device=torch.device("cpu"))
    with pytest.raises(ValueError, match="gives no depth network") as caught:
        TransformersDepth(str(tmp_path), device=torch.device("cpu"))
    assert "\n" not in str(caught.value)


# --- WHAM -------------------------------------------------------------------------------------------------------------


def wham_body(hand, model, *, aside_m=0.0, seed=0):
    """A body whose wrists lie on one ray, the left one three times as far, so that sides cannot be confused."""
    rng = np.random.default_rng(seed)
    verts = rng.normal(size=(len(hand.frame_index), 6890, 3)).astype(np.float32)
    wrist = trajectory_joints(model, hand)[:, 0].numpy()
    right = wrist + np.array([aside_m, 0, 0])
    verts[:, 100], verts[:, 200] = 3 * right, right
    return verts


def smpl_file(path):
    regressor = np.zeros((24, 6890))
    regressor[20, 100] = regressor[21, 200] = 1
    np.savez(path, J_regressor=regressor)
    return path


def dump_as_joblib(value, path):
    """Write what joblib.dump writes: arrays' bytes stand in the file behind a record that announces them."""
    module = ModuleType("joblib.numpy_pickle")

    class NumpyArrayWrapper:
        pass

    NumpyArrayWrapper.__module__ = "joblib.numpy_pickle"
    NumpyArrayWrapper.__qualname__ = "NumpyArrayWrapper"
    module.NumpyArrayWrapper = NumpyArrayWrapper
    file = io.BytesIO()

    class Pickler(pickle._Pickler):
        def save(self, obj, save_persistent_id=True):
            if type(obj) is not np.ndarray:
                return super().save(obj, save_persistent_id)
            is_fortran = obj.flags.f_contiguous and not obj.flags.c_contiguous
            wrapper = NumpyArrayWrapper()
            wrapper.__dict__ = {
                "subclass": np.ndarray, "shape": obj.shape, "order": "F" if is_fortran else "C", "dtype": obj.dtype,
                "allow_mmap": True, "numpy_array_alignment_bytes": 16,
            }  # fmt: skip
            super().save(wrapper)
            self.framer.commit_frame(force=True)
            padding = 16 - (file.tell() + 1) % 16
            file.write(padding.to_bytes(1, "little") + b"\xff" * padding)
            file.write((obj.T if is_fortran else obj).tobytes())
            return None

    saved = {name: sys.modules.get(name) for name in ("joblib", "joblib.numpy_pickle")}
    sys.modules |= {"joblib": ModuleType("joblib"), "joblib.numpy_pickle": module}
    try:
        Pickler(file, protocol=4).dump(value)
    finally:
        for name, one in saved.items():
            if one is None:
                del sys.modules[name]
            else:
                sys.modules[name] = one
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


def test_joblibs_files_of_arrays_are_read_as_they_were(tmp_path):
    from collections import defaultdict

    value = defaultdict(dict)
    value[3]["verts"] = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    value[3]["turned"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    value[np.int64(5)]["frame_ids"] = np.arange(4)
    value[np.int64(5)]["empty"] = np.zeros((0, 3))
    dump_as_joblib(value, tmp_path / "one.pkl")
    back = load_joblib(tmp_path / "one.pkl")
    assert type(back) is dict
    assert sorted(back) == [3, 5]
    for person, arrays in value.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[person][name], array)


def test_a_joblib_file_that_would_run_something_or_is_damaged_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "harm", "done"))

    dump_as_joblib({"a": np.zeros(3), "b": Harm()}, tmp_path / "harm.pkl")
    with pytest.raises(UnsafePickleError):
        load_joblib(tmp_path / "harm.pkl")
    assert not (tmp_path / "harm").exists()
    dump_as_joblib({"a": np.zeros(1000)}, tmp_path / "whole.pkl")
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "whole.pkl").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.pkl: not a readable pickle"):
        load_joblib(tmp_path / "cut.pkl")
    (tmp_path / "zipped.pkl").write_bytes(b"x\x9c" + b"0" * 20)
    with pytest.raises(ValueError, match="compress=0"):
        load_joblib(tmp_path / "zipped.pkl")


@pytest.mark.parametrize("name", ["right_0", "left_0"])
def test_the_wrist_takes_the_depth_of_the_nearest_persons_wrist_of_its_side(open_hand, make_result, tmp_path, name):
    hand = make_result(((0, 12), (0, 12)), num_frames=12).hands[name]
    value = {
        1: {"verts": wham_body(hand, open_hand, aside_m=0.4, seed=1), "frame_ids": np.arange(12)},
        2: {"verts": wham_body(hand, open_hand)[2:9], "frame_ids": np.arange(2, 9)},
    }
    dump_as_joblib(value, tmp_path / WHAM_FILE)
    bodies = read_wham(tmp_path / WHAM_FILE, load_smpl_wrists(smpl_file(tmp_path / "SMPL_NEUTRAL.npz")))
    start = misplaced(open_hand, {name: hand})[name]
    lifted = uplift_by_wham(open_hand, start, bodies)
    truth = trajectory_joints(open_hand, hand)[:, 0, 2]
    factor = 1.0 if name == "right_0" else 3.0
    after = trajectory_joints(open_hand, lifted)[:, 0, 2]
    torch.testing.assert_close(after[2:9], factor * truth[2:9], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[9:], after[8].expand(3), atol=1e-4, rtol=0)  # held where WHAM has no frame
    assert uplift_by_wham(open_hand, start, [BodyWrists(np.array([40]), np.ones((1, 2, 3)))]) is None


def test_what_is_not_whams_or_not_smpl_is_refused(tmp_path):
    regressor = load_smpl_wrists(smpl_file(tmp_path / "SMPL.npz"))
    dump_as_joblib({0: {"verts": np.zeros((3, 778, 3)), "frame_ids": np.arange(3)}}, tmp_path / "a.pkl")
    with pytest.raises(ValueError, match="person 0 has verts"):
        read_wham(tmp_path / "a.pkl", regressor)
    np.savez(tmp_path / "hand.npz", J_regressor=np.zeros((16, 778)))
    with pytest.raises(ValueError, match=r"SMPL's is \(24, 6890\)"):
        load_smpl_wrists(tmp_path / "hand.npz")
    with pytest.raises(ValueError, match="no such file"):
        load_smpl_wrists(tmp_path / "nowhere.pkl")


def test_a_method_with_wham_leaves_out_hands_that_no_body_is_seen_with(short_clip, open_hand):
    clip = short_clip
    runner = MethodRunner(clip, ClipPictures(clip, ShardStore()), open_hand, bodies=[])
    prediction = runner.predict(parse_method("keypoints-gt/wham"))
    assert not prediction.hands
    assert len(prediction.notes) == 2
    with pytest.raises(ValueError, match="--wham"):
        replace(runner, bodies=None, _placed={}).run(parse_method("keypoints-gt/wham"))
