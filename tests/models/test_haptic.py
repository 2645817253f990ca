"""The network: the official numbers, the ablations, what it refuses."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from einops import rearrange

from haptic.geometry.lift import weak_depth
from haptic.models.backbone import Backbone, BackboneConfig
from haptic.models.checkpoint import load_official
from haptic.models.decoder import DecoderConfig, sine_positions
from haptic.models.haptic import Haptic, HapticConfig, is_optional
from haptic.records import HandPrediction

# Rotations, camera and depth. The nearest mistake, a wrong epsilon, moves rotations by 5e-5.
TOLERANCE = 2e-5


def normalise(pixels):
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None] * 255
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None] * 255
    return (torch.from_numpy(pixels).float() - mean) / std


def numbers(prediction):
    return {f.name: getattr(prediction, f.name) for f in fields(HandPrediction)}


def assert_same(one, other, atol=2e-6):
    for name, value in numbers(one).items():
        torch.testing.assert_close(value, numbers(other)[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def as_recorded(recorded, prefix, batch):
    """The recorded answers as our record; frames run fastest."""

    def get(name):
        return torch.from_numpy(recorded[f"{prefix}/{name}"])

    cam = rearrange(get("cam"), "(B T) c -> B T c", B=batch)
    depth = rearrange(get("depth"), "(B T) 1 -> B T", B=batch) if f"{prefix}/depth" in recorded else None
    return {
        "global_orient": rearrange(get("global_orient"), "(B T) 1 i j -> B T i j", B=batch),
        "hand_pose": rearrange(get("hand_pose"), "(B T) k i j -> B T k i j", B=batch),
        "betas": rearrange(get("betas"), "(B T) k -> B T k", B=batch),
        "scale": cam[..., 0],
        "shift_crop": cam[..., 1:],
        **({} if depth is None else {"depth": depth}),
    }


@pytest.fixture(scope="module")
def recorded(shared_dir):
    return dict(np.load(shared_dir / "golden/haptic_tiny.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def official_weights(shared_dir):
    return torch.load(shared_dir / "golden/haptic_tiny_state.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def network(official_weights):
    return load_official(official_weights, backbone_heads=4, decoder_heads=2)


@pytest.fixture(scope="module")
def clips(recorded):
    return normalise(recorded["img_u8"]), normalise(recorded["orig_img_u8"])


@pytest.fixture(scope="module")
def single_images(clips):
    """The first four frames, each a clip of its own."""
    return tuple(pictures.flatten(0, 1)[:4, None] for pictures in clips)


def test_a_video_is_answered_as_the_official_network_answers(network, recorded, clips):
    with torch.no_grad():
        prediction = network.predict(*clips)
    for name, value in as_recorded(recorded, "video", batch=2).items():
        torch.testing.assert_close(getattr(prediction, name), value, atol=TOLERANCE, rtol=0)


def test_features_of_crop_and_frame_are_the_official_ones(network, recorded, clips):
    for pictures, name in zip(clips, ("feat_crop", "feat_full"), strict=True):
        with torch.no_grad():
            features = network.encode(pictures.flatten(0, 1))
        grid = rearrange(features, "N (rows cols) C -> N C rows cols", rows=16)
        torch.testing.assert_close(grid, torch.from_numpy(recorded[f"video/{name}"]), atol=TOLERANCE, rtol=0)


def test_a_single_image_is_answered_as_the_official_network_answers(network, recorded, single_images):
    with torch.no_grad():
        prediction = network.predict(*single_images)
    for name, value in as_recorded(recorded, "image", batch=4).items():
        torch.testing.assert_close(getattr(prediction, name), value, atol=TOLERANCE, rtol=0)


def test_the_networks_place_in_the_official_training_module_changes_nothing(shared_dir):
    folder = shared_dir / "golden"
    recorded = np.load(folder / "haptic_tiny_module.npz", allow_pickle=False)
    weights = torch.load(folder / "haptic_tiny_module_state.ckpt", weights_only=True)["state_dict"]
    network = load_official(weights, backbone_heads=4, decoder_heads=2)
    with torch.no_grad():
        answer = network.predict(normalise(recorded["img_u8"]), normalise(recorded["orig_img_u8"]))
    depth = torch.from_numpy(recorded["video/pred_depth"])
    torch.testing.assert_close(answer.depth.reshape(-1, 1), depth, atol=TOLERANCE, rtol=0)
    camera = torch.cat([answer.scale[..., None], answer.shift_crop], dim=-1).flatten(0, 1)
    torch.testing.assert_close(camera, torch.from_numpy(recorded["video/pred_cam"]), atol=TOLERANCE, rtol=0)
    for name in ("global_orient", "hand_pose", "betas"):
        theirs = torch.from_numpy(recorded[f"video/mano/{name}"])
        ours = getattr(answer, name).reshape(theirs.shape)
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("leaves_tables", [False, True])
def test_hamers_weights_answer_as_hamer_does(official_weights, recorded, single_images, leaves_tables):
    beyond_hamer = ["cross_view_layers", "global_layers", "decaux", "init_aux"]
    beyond_hamer += [] if leaves_tables else ["pos_enc_f"]
    hamer = {k: v for k, v in official_weights.items() if not any(part in k for part in beyond_hamer)}
    network = load_official(hamer, backbone_heads=4, decoder_heads=2)
    with torch.no_grad():
        prediction = network.predict(*single_images)
    for name, value in as_recorded(recorded, "hamer", batch=4).items():
        torch.testing.assert_close(getattr(prediction, name), value, atol=TOLERANCE, rtol=0)
    assert not prediction.depth.any()
    assert not network.has_depth


def test_haptic_has_a_depth(network):
    assert network.has_depth


def test_decoding_kept_features_equals_predicting(tiny, shake):
    model = shake(Haptic(tiny()))
    crops, frames = torch.randn(2, 5, 3, 256, 256), torch.randn(2, 5, 3, 256, 256)
    with torch.no_grad():
        whole = model.predict(crops, frames)
        one_by_one = [torch.stack([model.encode(f[None])[0] for f in clip.flatten(0, 1)]) for clip in (crops, frames)]
        halves = model.decode(*(rearrange(part, "(B T) P C -> B T P C", B=2) for part in one_by_one))
    assert_same(whole, halves, atol=1e-5)
    assert_same(whole, model(crops, frames), atol=0)


def test_before_training_what_haptic_adds_is_silent(tiny):
    torch.manual_seed(0)
    full = Haptic(tiny()).eval()
    bare = Haptic(tiny(decoder={"added_attention": ()})).eval()
    missing, unexpected = bare.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    assert unexpected
    assert all(".added." in name for name in unexpected)
    crops, frames = torch.randn(1, 4, 3, 256, 256), torch.randn(1, 4, 3, 256, 256)
    with torch.no_grad():
        assert_same(full.predict(crops, frames), bare.predict(crops, frames), atol=0)


def features_of(seed=0, frames=6):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(1, frames, 192, 32, generator=rng), torch.randn(1, frames, 192, 32, generator=rng)


def difference(one, other):
    return max((numbers(one)[name] - numbers(other)[name]).abs().max().item() for name in numbers(one))


@pytest.mark.parametrize("added", [(), ("global",), ("cross_view",)])
def test_each_added_attention_can_be_taken_away(tiny, shake, added):
    """What is taken away no longer matters to the answer; what is left does."""
    model = shake(Haptic(tiny(decoder={"added_attention": added})))
    crops, frames = features_of()
    other_frames = frames.flip(-1)
    other_past = torch.cat([crops[:, :1].flip(-1), crops[:, 1:]], dim=1)
    with torch.no_grad():
        answer = model.decode(crops, frames)
        by_context = difference(answer, model.decode(crops, other_frames))
        neighbours = model.decode(other_past, frames)
    by_neighbours = (answer.depth[:, 1:] - neighbours.depth[:, 1:]).abs().max().item()
    assert (by_context > 1e-3) == ("global" in added)
    assert (by_neighbours > 1e-4) == ("cross_view" in added)


def test_the_order_of_the_added_attentions_matters_and_is_a_setting(tiny, shake):
    usual = shake(Haptic(tiny()))
    flipped = Haptic(tiny(decoder={"added_attention": ("global", "cross_view")})).eval()
    flipped.load_state_dict(usual.state_dict())
    with torch.no_grad():
        assert difference(usual.decode(*features_of()), flipped.decode(*features_of())) > 1e-3


def test_frames_of_other_clips_never_mix(tiny, shake):
    model = shake(Haptic(tiny()))
    one, other = features_of(1), features_of(2)
    with torch.no_grad():
        together = model.decode(*(torch.cat(pair) for pair in zip(one, other, strict=True)))
        assert_same(together[:1], model.decode(*one), atol=1e-5)
        assert_same(together[1:], model.decode(*other), atol=1e-5)


def test_more_frames_than_positions_are_refused_in_words(tiny, shake):
    model = shake(Haptic(tiny()))
    with torch.no_grad():
        assert model.decode(*features_of(frames=30)).depth.shape == (1, 30)
        with pytest.raises(ValueError, match="clip of 31 frames is longer than the network's table of 30"):
            model.decode(*features_of(frames=31))


def test_pictures_of_another_side_are_refused_in_words(tiny):
    model = Haptic(tiny())
    good, small = torch.zeros(1, 1, 3, 256, 256), torch.zeros(1, 1, 3, 224, 224)
    with pytest.raises(ValueError, match=r"crops are \(224, 224\) pixels; this network takes \(256, 256\)"):
        model.predict(small, good)
    with pytest.raises(ValueError, match="frames are"):
        model.predict(good, small)


def test_crop_and_frame_may_differ_in_side(tiny, shake):
    model = shake(Haptic(tiny(crop_side_px=128, frame_side_px=256)))
    with torch.no_grad():
        prediction = model.predict(torch.randn(1, 2, 3, 128, 128), torch.randn(1, 2, 3, 256, 256))
        assert model.encode(torch.randn(1, 3, 128, 128)).shape == (1, 8 * 6, 32)
        assert model.encode(torch.randn(1, 3, 256, 256)).shape == (1, 16 * 12, 32)
    identity = torch.eye(3).expand(1, 2, 3, 3)
    turned = prediction.global_orient @ prediction.global_orient.mT
    torch.testing.assert_close(turned, identity, atol=1e-5, rtol=0)


def test_a_network_ready_for_two_sides_sees_a_crop_as_one_made_for_it_alone(tiny, shake):
    both, alone = Haptic(tiny(frame_side_px=128)), shake(Haptic(tiny()))
    both.eval().load_state_dict(alone.state_dict())
    crop = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(both.encode(crop), alone.encode(crop), atol=1e-5, rtol=0)


def test_the_outer_eighths_and_the_last_rows_are_never_seen(tiny, shake):
    """ViTPose's window and its padded patches: kept for the sake of official weights."""
    model = shake(Haptic(tiny()))
    picture = torch.randn(1, 3, 256, 256)
    changed = picture.clone()
    changed[..., :32] = 9
    changed[..., 222:] = 9
    changed[..., 254:, :] = 9
    with torch.no_grad():
        torch.testing.assert_close(model.encode(picture), model.encode(changed), atol=0, rtol=0)
        changed[..., 253, 100] = 9
        assert (model.encode(picture) - model.encode(changed)).abs().max() > 1e-4


def test_any_vit_of_timm_can_be_the_backbone(tiny, shake):
    config = tiny(
        backbone={"timm_name": "vit_tiny_patch16_224", "drop_path": 0.0},
        crop_side_px=64,
        frame_side_px=96,
        keep_width=1.0,
    )
    model = shake(Haptic(config))
    with torch.no_grad():
        prediction = model.predict(torch.randn(1, 2, 3, 64, 64), torch.randn(1, 2, 3, 96, 96))
        assert model.encode(torch.randn(1, 3, 64, 64)).shape == (1, 16, 192)  # the class token is left out
    assert prediction.depth.isfinite().all()


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "resnet18", "efficientvit_m2"])
def test_a_model_with_feature_maps_can_be_the_backbone(tiny, name):
    config = tiny(
        backbone={"timm_name": name, "drop_path": 0.0, "maps": (-2, -1), "map_dim": 24},
        crop_side_px=64,
        frame_side_px=96,
        keep_width=1.0,
    )
    model = Haptic(config).eval()
    crops, frames = torch.randn(1, 2, 3, 64, 64), torch.randn(1, 2, 3, 96, 96)
    with torch.no_grad():
        tokens = model.encode(crops[0])
        assert tokens.shape[0] == 2
        assert tokens.shape[2] == 24
        moved = model.encode(crops[0].roll(32, dims=-1))
        assert model.predict(crops, frames).depth.isfinite().all()
    assert (tokens - moved).abs().max() > 1e-3


def test_cells_of_a_feature_map_know_their_place(tiny):
    config = tiny(
        backbone={"timm_name": "mobilenetv4_conv_small", "drop_path": 0.0, "map_dim": 24},
        crop_side_px=64,
        frame_side_px=64,
        keep_width=1.0,
    )
    positions = Haptic(config).backbone.vit.positions
    assert [tuple(one.shape) for one in positions] == [(1, 24, 2, 2)]
    assert positions[0].std() > 0.01


def test_building_a_convolutional_backbone_leaves_its_running_statistics_alone(tiny):
    config = tiny(
        backbone={"timm_name": "mobilenetv4_conv_small", "drop_path": 0.0},
        crop_side_px=64,
        frame_side_px=64,
        keep_width=1.0,
    )
    means = [value for name, value in Haptic(config).state_dict().items() if name.endswith("running_mean")]
    assert means
    assert not any(value.any() for value in means)


def test_windows_and_images_together_are_answered_as_they_are_alone(tiny, shake):
    model = shake(Haptic(tiny()))
    groups = [(torch.randn(b, t, 3, 256, 256), torch.randn(b, t, 3, 256, 256), None) for b, t in ((2, 3), (2, 1))]
    with torch.no_grad():
        together = model.predict_groups(groups)
        for (crops, frames, _boxes), answer in zip(groups, together, strict=True):
            alone = model.predict(crops, frames)
            torch.testing.assert_close(answer.global_orient, alone.global_orient, rtol=0, atol=2e-5)
            torch.testing.assert_close(answer.depth, alone.depth, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "vit_tiny_patch16_224"])
def test_checkpointing_changes_memory_and_not_gradients(tiny, name):
    config = tiny(backbone={"timm_name": name, "drop_path": 0.0}, crop_side_px=32, frame_side_px=32, keep_width=1.0)
    torch.manual_seed(0)
    model = Haptic(config).eval()
    pictures = torch.randn(2, 1, 1, 3, 32, 32)
    gradients = []
    for is_on in (False, True):
        model.backbone.set_checkpointing(is_on)
        model.zero_grad()
        model.predict(*pictures).global_orient.sum().backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in model.backbone.parameters()])
    assert any(one is not None and one.any() for one in gradients[0])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


@pytest.mark.parametrize(("name", "maps"), [("no_such_model", (-1,)), ("resnet18", (-9,))])
def test_a_backbone_that_timm_cannot_build_is_refused_in_words(name, maps):
    with pytest.raises(ValueError, match=f"timm_name.*{name}"):
        Backbone(BackboneConfig(timm_name=name, maps=maps), height_px=64, width_px=64)


@pytest.mark.parametrize(("make", "words"), [
    (lambda: BackboneConfig(dim=100, heads=16), "does not divide into"),
    (lambda: BackboneConfig(drop_path=1.0), "drop_path is 1.0"),
    (lambda: BackboneConfig(depth=0), "depth is 0"),
    (lambda: BackboneConfig(pretrained=True), "names no model"),
    (lambda: DecoderConfig(heads=0), "heads is 0"),
    (lambda: DecoderConfig(added_attention=("global", "global")), "at most once"),
    (lambda: DecoderConfig(dim=7), "must be even"),
    (lambda: HapticConfig(keep_width=0.0), "keep_width is 0.0"),
    (lambda: HapticConfig(crop_side_px=255), "crop_side_px is 255"),
    (lambda: HapticConfig(box_share=1.5), "box_share is 1.5"),
])  # fmt: skip
def test_a_bad_measure_is_refused_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_the_first_frames_position_is_zeros_then_ones():
    table = sine_positions(30, 64)
    assert table[0].tolist() == [0.0] * 32 + [1.0] * 32
    torch.testing.assert_close(table[3, 0], torch.tensor(3.0).sin())
    torch.testing.assert_close(table[3, 33], (torch.tensor(3.0) / 10000 ** (1 / 32)).cos())


def test_our_table_of_positions_is_the_official_one(official_weights):
    stored = official_weights["mano_head.transformer.transformer.pos_enc_f.pos_table"][0]
    torch.testing.assert_close(sine_positions(30, 64), stored, atol=1e-6, rtol=0)


def test_gradients_reach_every_parameter(tiny, shake):
    model = shake(Haptic(tiny(backbone={"drop_path": 0.0}))).train()
    prediction = model(torch.randn(2, 3, 3, 256, 256), torch.randn(2, 3, 3, 256, 256))
    sum(value.square().sum() for value in numbers(prediction).values()).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_rotations_rotations(tiny, shake, dtype):
    model = shake(Haptic(tiny()))
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        prediction = model.predict(torch.randn(1, 2, 3, 256, 256), torch.randn(1, 2, 3, 256, 256))
    pose = prediction.hand_pose.float()
    torch.testing.assert_close(pose @ pose.mT, torch.eye(3).expand_as(pose), atol=1e-3, rtol=0)


def test_a_network_that_begins_to_see_boxes_answers_at_first_as_before(tiny, shake):
    blind = shake(Haptic(tiny()))
    seeing = Haptic(tiny(decoder={"sees_box": True}))
    missing, unexpected = seeing.load_state_dict(blind.state_dict(), strict=False)
    assert {name.rpartition(".")[0] for name in missing} == {"decoder.box", "readout.trust"}
    assert not unexpected
    crops, frames, boxes = torch.randn(2, 3, 3, 256, 256), torch.randn(2, 3, 3, 256, 256), torch.rand(2, 3, 3) + 0.1
    with torch.no_grad():
        assert_same(blind.predict(crops, frames), seeing.eval().predict(crops, frames, boxes), atol=0)
        seeing.decoder.box.weight.normal_()
        assert difference(blind.predict(crops, frames), seeing.predict(crops, frames, boxes)) > 1e-3


def test_a_network_that_begins_to_see_joints_answers_at_first_as_before(tiny, shake):
    blind = shake(Haptic(tiny()))
    seeing = Haptic(tiny(decoder={"sees_joints": True}))
    missing, unexpected = seeing.load_state_dict(blind.state_dict(), strict=False)
    assert {name.partition(".")[0] for name in missing} == {"guide", "joint_reader"}
    assert all(is_optional(name) for name in missing)
    assert not unexpected
    crops, frames = torch.randn(2, 3, 3, 256, 256), torch.randn(2, 3, 3, 256, 256)
    with torch.no_grad():
        assert_same(blind.predict(crops, frames), seeing.eval().predict(crops, frames), atol=0)
        seeing.joint_reader.contract.weight.normal_()
        assert difference(blind.predict(crops, frames), seeing.predict(crops, frames)) > 1e-3


def test_full_trust_makes_the_depths_change_the_weak_cameras(tiny, shake):
    model = shake(Haptic(tiny(decoder={"sees_box": True})))
    boxes = torch.rand(2, 4, 3) + 0.1
    with torch.no_grad():
        model.readout.trust.weight.zero_()
        model.readout.depth.weight.zero_()
        model.readout.trust.bias.fill_(1.0)
        model.readout.camera.weight.mul_(1e-2)
        answer = model.predict(torch.randn(2, 4, 3, 256, 256), torch.randn(2, 4, 3, 256, 256), boxes)
    K = torch.eye(3).expand(2, 4, 3, 3)  # before a lens of one pixel a box is as wide as it is seen
    assert float(answer.scale.min()) > 1
    weak = weak_depth(answer.scale, boxes[..., 2], K)
    torch.testing.assert_close(answer.depth - answer.depth[:, :1], weak - weak[:, :1], atol=1e-5, rtol=0)


def test_a_network_that_sees_boxes_asks_for_them(tiny):
    model = Haptic(tiny(decoder={"sees_box": True}))
    with pytest.raises(ValueError, match="give it their boxes"):
        model.predict(torch.randn(1, 1, 3, 256, 256), torch.randn(1, 1, 3, 256, 256))
