"""One step, many steps: rates, frozen rooms, averages, chance, and what stops a run."""

import math
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from haptic.models.haptic import Haptic
from haptic.training.module import NotFiniteError, TrainingModule, mean_scale
from haptic.training.objective import Objective, ObjectiveConfig
from haptic.training.optimisation import MovingAverage, OptimConfig, lr_share, parameter_groups, room_of

FAST = OptimConfig(lr=1e-3, total_steps=100)


class Batches(torch.utils.data.Dataset):
    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.fixture
def fit(open_hand, tiny_network):
    """Trains a tiny network on given batches."""

    def do(batches, config=FAST, *, precision="32-true", **more):
        torch.manual_seed(0)
        module = TrainingModule(Haptic(tiny_network), Objective(ObjectiveConfig(), open_hand), config, **more)
        before = {name: value.clone() for name, value in module.state_dict().items()}
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, precision=precision,
        )  # fmt: skip
        trainer.fit(module, DataLoader(Batches(batches), batch_size=None))
        moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
        return module, moved

    return do


def test_the_rate_warms_up_in_a_line_and_ends_where_the_cosine_ends():
    config = OptimConfig(total_steps=100, warmup_steps=10, schedule="cosine", final_lr_share=0.1)
    assert [round(lr_share(step, config), 6) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert lr_share(55, config) == pytest.approx(0.55)
    assert lr_share(100, config) == pytest.approx(0.1)
    assert lr_share(500, replace(config, schedule="constant")) == 1.0


def test_every_parameter_lives_in_one_room_and_haptics_own_are_new(tiny_network):
    rooms = {name: room_of(name) for name, _ in Haptic(tiny_network).named_parameters()}
    assert set(rooms.values()) == {"backbone", "decoder", "readout", "new"}
    assert all(("added" in name or "depth" in name) == (room == "new") for name, room in rooms.items())
    assert all(name.startswith("backbone.") == (room == "backbone") for name, room in rooms.items())


def test_groups_have_their_rates_and_norms_may_be_spared_from_decay(tiny_network):
    network = Haptic(tiny_network)
    config = OptimConfig(lr=1e-3, lr_factors={"backbone": 0.1}, weight_decay=0.2, decay_everything=False)
    groups = parameter_groups(network, config)
    assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    for group in groups:
        assert group["lr_factor"] == (0.1 if group["name"].startswith("backbone") else 1.0)
        thin = all(one.ndim < 2 or one is network.backbone.vit.pos_embed for one in group["params"])
        assert group["weight_decay"] == (0.0 if thin else 0.2)
    assert {group["weight_decay"] for group in parameter_groups(network, replace(config, decay_everything=True))} == {
        0.2
    }


@pytest.mark.parametrize(("freeze", "moves"), [
    ((), {"backbone", "decoder", "readout", "new"}),
    (("backbone",), {"decoder", "readout", "new"}),
    (("backbone", "decoder"), {"readout", "new"}),
    (("backbone", "decoder", "readout"), {"new"}),
])  # fmt: skip
def test_frozen_rooms_stay_as_they_are(fit, make_batch, freeze, moves):
    _module, moved = fit([make_batch(0), make_batch(1)], replace(FAST, freeze=freeze))
    names = {name.removeprefix("network.") for name in moved if name.startswith("network.")}
    assert {room_of(name) for name in names} == moves
    assert any(name.startswith("discriminator.") for name in moved)


def test_without_an_adversary_the_discriminator_stays_as_it_is(fit, make_batch):
    module, moved = fit([make_batch(0)], has_adversary=False)
    assert not any(name.startswith("discriminator.") for name in moved)
    assert "adversarial" not in module.report.terms


def test_no_single_step_is_longer_than_clipping_allows(fit, make_batch):
    module, _moved = fit([make_batch(0)], replace(FAST, clip_norm=1e-3))
    assert float(module.report.grad_norm) > 1.0  # what is reported is the length before
    # AdamW hides the length of a gradient; its memory does not: (1 - beta1) times the first gradient.
    optimiser = module.optimizers()[0]
    memory = [state["exp_avg"] for state in optimiser.state.values()]
    assert math.sqrt(sum(float(one.square().sum()) for one in memory)) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_bf16_trains_and_keeps_weights_and_losses_in_single_precision(fit, make_batch):
    module, moved = fit([make_batch(0), make_batch(1)], precision="bf16-mixed")
    assert moved
    assert all(one.dtype == torch.float32 for one in module.parameters())
    assert module.report.loss.dtype == torch.float32


def test_half_of_a_step_each_is_the_step_of_both(fit, make_batch):
    """Equal parts with every label known: the mean of their means is the mean of all."""
    first, second = make_batch(0), make_batch(1)
    module, _moved = fit([first, second], replace(FAST, accumulate=2))
    assert module.step == 1
    assert module.next_batch == 2
    assert module.report.num_hands == first.num_hands + second.num_hands


def test_a_label_that_is_not_finite_stops_the_run_and_is_named(fit, make_batch):
    batch = make_batch(0)
    joints = batch.video.targets.joints_img.clone()
    joints[1, 2, 5] = float("nan")
    broken = replace(batch, video=replace(batch.video, targets=replace(batch.video.targets, joints_img=joints)))
    with pytest.raises(NotFiniteError, match=r"joints_2d.*at made/shard-0/clip1/right_0;") as caught:
        fit([broken])
    assert "clip0" not in str(caught.value)


def test_a_network_that_starts_from_nothing_begins_with_a_mean_hand_of_the_boxes_size(fit, make_batch):
    batch = make_batch(0)
    module, _moved = fit([batch], replace(FAST, lr=1e-12), starts_from_nothing=True, has_adversary=False)
    clip = batch.video.as_clip()
    with torch.no_grad():
        answer = module.network.predict(clip.crops, clip.frames)
    identity = torch.eye(3).expand(answer.hand_pose.shape)
    assert (answer.hand_pose - identity).abs().max() < 0.3
    assert answer.betas.abs().max() < 0.3
    true_scale = 2 * 300 / (batch.video.box_side_px * batch.video.wrist_depth)
    assert float(answer.scale.mean()) == pytest.approx(float(true_scale.mean()), rel=0.25)
    assert float(mean_scale(batch)) == pytest.approx(float(module.network.readout.mean_camera[0]))


def test_the_average_follows_the_weights_and_can_stand_in_for_them():
    layer = torch.nn.Linear(2, 2)
    average = MovingAverage(layer, decay=0.9)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update(layer)
    decay = 2 / 11  # the first update counts much
    with average.in_place_of(layer):
        torch.testing.assert_close(layer.weight, before + (1 - decay))
    torch.testing.assert_close(layer.weight, before + 1)


def test_chance_depends_on_the_batch_and_not_on_what_was_before(open_hand, make_batch, tiny_network, fit):
    """Drop path at work: the second batch alone, from the same weights, has the loss it has after the first."""
    shaky = replace(tiny_network, backbone=replace(tiny_network.backbone, depth=2, drop_path=0.5))

    def losses(batches):
        torch.manual_seed(0)
        frozen = OptimConfig(lr=1e-30, discriminator_lr=1e-30, weight_decay=0.0)
        module = TrainingModule(Haptic(shaky), Objective(ObjectiveConfig(), open_hand), frozen)
        trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                             enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(module, DataLoader(Batches(batches), batch_size=None))
        return float(module.report.loss)

    first, second = make_batch(0), make_batch(1)
    assert losses([first, second]) == losses([second])
    assert losses([replace(second, index=7)]) != losses([second])


def test_fp16_scales_the_loss_and_leaves_out_steps_that_overflow(open_hand, tiny_network, make_batch):
    torch.manual_seed(0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=1000)
    module = TrainingModule(Haptic(tiny_network), Objective(ObjectiveConfig(), open_hand), replace(FAST, clip_norm=1.0))
    before = {name: value.clone() for name, value in module.network.named_parameters()}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
    )  # fmt: skip
    trainer.fit(module, DataLoader(Batches([make_batch(index) for index in range(24)]), batch_size=None))
    assert module.step == 24
    assert scaler.get_scale() < 2.0**24  # it overflowed at first, and no step was made of it
    assert all(torch.isfinite(value).all() for value in module.network.state_dict().values())
    assert any(not torch.equal(value, before[name]) for name, value in module.network.named_parameters())
    assert module.training_state()["loss_scaler"]["scale"] == scaler.get_scale()


@pytest.mark.slow
def test_compiled_rooms_train_as_they_do_uncompiled(fit, make_batch):
    losses = [
        float(fit([make_batch(0), make_batch(1)], replace(FAST, compile=is_on))[0].report.loss)
        for is_on in (False, True)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
