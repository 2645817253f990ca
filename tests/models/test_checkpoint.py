"""Checkpoints: ours, official ones, hostile ones, and the hand they belong to."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from haptic.models.checkpoint import (
    load_checkpoint,
    load_official,
    match_hand_model,
    read_official,
    save_checkpoint,
)
from haptic.models.haptic import Haptic
from haptic.models.torch_file import open_torch_file

HAND = "openhand-0123abcd"


class Trap:
    """Creates a file when a careless reader opens the pickle."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Settings(dict):
    """Stands for the configuration objects in official checkpoints."""

    def __init__(self, **values):
        super().__init__(**values)
        self.frozen = True


class Callback:
    __slots__ = ("best",)

    def __init__(self):
        self.best = {"path": "x"}


@pytest.fixture
def official_weights(shared_dir):
    return torch.load(shared_dir / "golden/haptic_tiny_state.ckpt", weights_only=True)["state_dict"]


@pytest.fixture
def network(tiny, shake):
    return shake(Haptic(tiny(decoder={"added_attention": ("global", "cross_view")})))


def write(path, content, *, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def lightning(state_dict, **more):
    """The layout of an official file."""
    rng = torch.Generator().manual_seed(0)
    return {
        "epoch": 3,
        "state_dict": state_dict,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.randn(5, generator=rng)}}}],
        "hyper_parameters": {"cfg": Settings(a=1, nested=Settings(b=[1, 2]))},
        "callbacks": {"checkpoint": Callback()},
        **more,
    }


# --- our own


def test_a_network_comes_back_as_it_was_saved(tmp_path, network):
    path = tmp_path / "mine.ckpt"
    save_checkpoint(path, network, hand_model_name=HAND)
    loaded, info = load_checkpoint(path)
    assert loaded.config == network.config
    assert info.hand_model_name == HAND
    assert info.origin == "haptic"
    assert not loaded.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=0, rtol=0)
    features = torch.randn(1, 4, 192, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            network.decode(features, features).depth, loaded.decode(features, features).depth, atol=0, rtol=0
        )


def test_half_precision_halves_the_file_and_hardly_moves_the_answer(tmp_path, network):
    whole, half = tmp_path / "whole.ckpt", tmp_path / "half.ckpt"
    save_checkpoint(whole, network, hand_model_name=HAND)
    save_checkpoint(half, network, hand_model_name=HAND, is_half=True)
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    loaded, _info = load_checkpoint(half)
    assert {value.dtype for value in loaded.state_dict().values() if value.is_floating_point()} == {torch.float32}
    features = torch.randn(1, 4, 192, 32)
    with torch.no_grad():
        before, after = network.decode(features, features), loaded.decode(features, features)
    torch.testing.assert_close(before.hand_pose, after.hand_pose, atol=5e-3, rtol=0)
    assert not torch.equal(before.hand_pose, after.hand_pose)


def test_our_files_hold_tensors_and_plain_values_only(tmp_path, network):
    path = tmp_path / "mine.ckpt"
    save_checkpoint(path, network, hand_model_name=HAND)
    content = torch.load(path, weights_only=True)
    assert content["config"]["decoder"]["added_attention"] == ["global", "cross_view"]
    assert open_torch_file(path).placeholders == []
    assert [p.name for p in tmp_path.iterdir()] == ["mine.ckpt"]


def test_loading_leaves_chance_alone(tmp_path, network):
    path = tmp_path / "mine.ckpt"
    save_checkpoint(path, network, hand_model_name=HAND)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_checkpoint(path)
    torch.testing.assert_close(torch.rand(3), expected, atol=0, rtol=0)


# --- official


@pytest.mark.parametrize("legacy", [False, True])
def test_an_official_file_gives_its_weights_and_nothing_else(tmp_path, network, legacy):
    weights = OrderedDict((name, value) for name, value in network.state_dict().items())
    weights["whole"] = torch.arange(6).reshape(2, 3)
    weights["turned"] = weights["whole"].T
    weights["same"] = weights["whole"]
    weights["flag"] = torch.tensor(True)
    weights["half"] = torch.randn(3).half()
    weights["short"] = torch.randn(4).bfloat16()
    weights["none"] = torch.zeros(0, 4)
    weights["learned"] = torch.nn.Parameter(torch.randn(2))
    path = write(tmp_path / "official.ckpt", lightning(weights), legacy=legacy)
    read = read_official(path)
    assert list(read) == list(weights)
    for name, value in weights.items():
        assert read[name].dtype == value.dtype
        torch.testing.assert_close(read[name], value.detach(), atol=0, rtol=0)
    assert read["same"].data_ptr() == read["whole"].data_ptr()  # as `backbone` and `backbone_bg` do


def test_official_weights_are_read_as_torch_reads_them(shared_dir):
    path = shared_dir / "golden/haptic_tiny_module_state.ckpt"
    theirs = torch.load(path, weights_only=True)["state_dict"]
    ours = read_official(path)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=0, rtol=0)


@pytest.mark.parametrize("legacy", [False, True])
def test_an_official_file_is_taken_as_it_was_downloaded(tmp_path, official_weights, legacy):
    path = write(tmp_path / "last.ckpt", lightning(official_weights), legacy=legacy)
    model, info = load_checkpoint(path, backbone_heads=4, decoder_heads=2)
    assert info.hand_model_name == "mano"
    assert info.origin == "official HaPTIC"
    assert model.has_depth
    again = tmp_path / "ours.ckpt"
    save_checkpoint(again, model, hand_model_name=info.hand_model_name)
    same, _ = load_checkpoint(again)  # the head counts are in our format
    features = torch.randn(1, 3, 192, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.decode(features, features).depth, same.decode(features, features).depth, atol=0, rtol=0
        )


def test_hamers_file_is_known_as_hamers(tmp_path, official_weights):
    parts = ("cross_view", "global_layers", "aux", "pos_enc_f")
    hamer = {k: v for k, v in official_weights.items() if not any(part in k for part in parts)}
    model, info = load_checkpoint(write(tmp_path / "hamer.ckpt", lightning(hamer)), backbone_heads=4, decoder_heads=2)
    assert info.origin == "official HaMeR"
    assert not model.has_depth
    again = load_official(hamer, backbone_heads=4, decoder_heads=2)
    for name, value in model.state_dict().items():  # what HaMeR lacks starts the same every time
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)


def test_what_is_beside_the_network_is_passed_over(official_weights):
    extra = {
        "initialized": torch.tensor(True),
        "backbone_bg.pos_embed": torch.zeros(3),
        "discriminator.D_conv1.weight": torch.zeros(3),
        "mano.shapedirs": torch.zeros(3),
    }
    load_official({**official_weights, **extra}, backbone_heads=4, decoder_heads=2)
    unused = "mano_head.transformer.pos_enc_f.pos_table"
    load_official({k: v for k, v in official_weights.items() if k != unused}, backbone_heads=4, decoder_heads=2)


def test_every_missing_and_unexpected_name_is_said_at_once(official_weights):
    lost = [
        "backbone.blocks.1.mlp.fc2.bias",
        "backbone.pos_embed",
        "mano_head.decaux.weight",
        "mano_head.transformer.to_token_embedding.weight",
        "mano_head.transformer.transformer.pos_enc_f.pos_table",
        "mano_head.transformer.transformer.cross_view_layers.1.0.fn.to_qkv.weight",
    ]
    weights = {k: v for k, v in official_weights.items() if k not in lost}
    strange = ["mano_head.decface.weight", "backbone.cls_token", "ema.decay"]
    weights |= dict.fromkeys(strange, torch.zeros(1))
    with pytest.raises(ValueError, match=r"6 missing.*3 unexpected") as error:
        load_official(weights, backbone_heads=4, decoder_heads=2)
    for name in lost + strange:
        assert name in str(error.value)


def test_each_single_missing_name_is_said(official_weights):
    ignored = "mano_head.transformer.pos_enc_f.pos_table"
    for lost in official_weights:
        if lost != ignored:
            weights = {k: v for k, v in official_weights.items() if k != lost}
            with pytest.raises(ValueError, match="1 missing") as error:
                load_official(weights, backbone_heads=4, decoder_heads=2)
            assert lost in str(error.value)


def test_shapes_that_do_not_fit_are_said_by_name(official_weights):
    name = "mano_head.transformer.transformer.layers.1.2.fn.net.3.weight"
    with pytest.raises(ValueError, match=r"net\.3\.weight gives \(64, 63\), expected \(64, 64\)"):
        load_official({**official_weights, name: torch.zeros(64, 63)}, backbone_heads=4, decoder_heads=2)
    with pytest.raises(ValueError, match="decoder_heads is 5"):
        load_official(official_weights, backbone_heads=4, decoder_heads=5)


def test_another_networks_weights_are_refused(tmp_path):
    other = torch.nn.Sequential(torch.nn.Linear(3, 3)).state_dict()
    for content in (other, {"state_dict": other}):
        with pytest.raises(ValueError, match=r"another network's weights: got 0.weight.*backbone\.pos_embed"):
            load_checkpoint(write(tmp_path / "resnet.pth", content))


# --- hostile and damaged


@pytest.mark.parametrize("legacy", [False, True])
def test_a_trap_beside_official_weights_is_dropped_and_not_sprung(tmp_path, official_weights, legacy):
    mark = tmp_path / "sprung"
    content = lightning(official_weights, loops=Trap(mark))
    path = write(tmp_path / "hostile.ckpt", content, legacy=legacy)
    model, _ = load_checkpoint(path, backbone_heads=4, decoder_heads=2)
    assert model.has_depth
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_is_a_trap_is_refused_and_not_sprung(tmp_path, legacy):
    mark = tmp_path / "sprung"
    path = write(tmp_path / "hostile.ckpt", Trap(mark), legacy=legacy)
    with pytest.raises(ValueError, match=r"holds no weights; it names (posix|nt)\.system, which was not run"):
        load_checkpoint(path)
    assert not mark.exists()


def test_a_trap_among_the_weights_is_refused_and_not_sprung(tmp_path):
    mark = tmp_path / "sprung"
    path = write(tmp_path / "hostile.ckpt", {"state_dict": {"a": torch.zeros(1), "b": Trap(mark)}})
    with pytest.raises(ValueError, match="among the weights, b is no tensor"):
        load_checkpoint(path)
    assert not mark.exists()


def test_a_trap_in_a_file_that_claims_to_be_ours_is_refused_and_not_sprung(tmp_path):
    mark = tmp_path / "sprung"
    path = write(tmp_path / "hostile.ckpt", {"format": "haptic checkpoint", "config": Trap(mark)})
    with pytest.raises(ValueError, match=r"names (posix|nt)\.system; nothing in it was run"):
        load_checkpoint(path)
    assert not mark.exists()


def test_a_bare_pickle_is_refused_and_not_sprung(tmp_path):
    mark = tmp_path / "sprung"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_checkpoint(path)
    assert not mark.exists()


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_short_anywhere_is_refused_in_one_line(tmp_path, network, legacy):
    whole = write(tmp_path / "whole.ckpt", {"state_dict": network.state_dict()}, legacy=legacy).read_bytes()
    path = tmp_path / "cut.ckpt"
    for share in (0.0, 0.00002, 0.01, 0.3, 0.9, 0.9999):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"cut\.ckpt") as error:
            load_checkpoint(path)
        assert one_line(error)


def test_changed_numbers_are_noticed(tmp_path, network):
    path = write(tmp_path / "bad.ckpt", {"state_dict": network.state_dict()})
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = b"scribble"
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"not a checkpoint at all", b"\x00" * 64, b"PK\x03\x04 nothing", b"{}"])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.ckpt") as error:
        load_checkpoint(path)
    assert one_line(error)


def test_an_ordinary_zip_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(ValueError, match="not one that torch wrote"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="no such file"):
        load_checkpoint(tmp_path / "absent.ckpt")


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path):
    path = write(tmp_path / "good.ckpt", {"state_dict": {"backbone.a": torch.arange(4.0)}})
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"K\x04\x85") == 1  # the shape, (4,)
                data = data.replace(b"K\x04\x85", b"K\x40\x85")
            target.writestr(name, data)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"shape \(64,\) reaches beyond"):
        read_official(path)


def test_a_format_of_the_future_is_refused(tmp_path, network):
    path = tmp_path / "mine.ckpt"
    save_checkpoint(path, network, hand_model_name=HAND)
    content = torch.load(path, weights_only=True)
    with pytest.raises(ValueError, match="format 99, this haptic reads 1"):
        load_checkpoint(write(path, {**content, "format_version": 99}))
    config = {**content["config"], "crop_side_px": 128}
    with pytest.raises(ValueError, match="does not hold what its header promises") as error:
        load_checkpoint(write(path, {**content, "config": config}))
    assert one_line(error)


# --- which hand


def test_official_weights_serve_any_mano_and_the_openhand_without_its_shape():
    assert match_hand_model("mano", "mano-89abcdef") == "as is"
    assert match_hand_model("mano", "openhand-0123abcd") == "zero betas"
    assert match_hand_model(HAND, HAND) == "as is"


@pytest.mark.parametrize(("checkpoint_hand", "hand_model_name"), [
    ("openhand-0123abcd", "mano-89abcdef"),
    ("openhand-0123abcd", "openhand-ffffffff"),
    ("mano-89abcdef", "openhand-0123abcd"),
    ("mano-89abcdef", "mano-01234567"),
    ("nimble-1", "openhand-0123abcd"),
])  # fmt: skip
def test_any_other_mixture_is_refused_with_the_reason(checkpoint_hand, hand_model_name):
    with pytest.raises(ValueError, match=f"{checkpoint_hand}.*{hand_model_name}.*mean something else"):
        match_hand_model(checkpoint_hand, hand_model_name)


def test_weights_that_are_no_numbers_are_refused_by_name(tiny, tmp_path):
    model = Haptic(tiny())
    with torch.no_grad():
        model.readout.pose.weight[0, 0] = float("nan")
    save_checkpoint(tmp_path / "broken.ckpt", model, hand_model_name="openhand-0")
    with pytest.raises(ValueError, match=r"1 of the weights hold NaN or infinity \(readout.pose.weight\)"):
        load_checkpoint(tmp_path / "broken.ckpt")


def test_whatever_damage_does_to_its_readers_is_one_line_that_names_the_file(tiny, tmp_path):
    path = tmp_path / "odd.ckpt"
    for content in ({"format": "haptic checkpoint"}, {"format": "haptic checkpoint", "format_version": 1, "config": 3}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"odd\.ckpt"):
            load_checkpoint(path)
    save_checkpoint(path, Haptic(tiny()), hand_model_name="openhand-0")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "state_dict": {**content["state_dict"], 3: torch.zeros(1)}}, path)
    with pytest.raises(ValueError, match=r"odd\.ckpt"):
        load_checkpoint(path)
