"""Batches: the same whoever makes them, from any place in the run; damage is counted; validation shows every frame."""

import multiprocessing
import os
import pickle
import signal
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from haptic.data.augment import AugmentConfig
from haptic.data.batches import ClipBatch, RealHands, TrainingBatch
from haptic.data.crops import CutConfig
from haptic.data.datamodule import DataConfig, SetConfig, TrainingData
from haptic.data.loader import BatchLoader, RealHandSource, WorkerDiedError
from haptic.data.samples import write_tar
from haptic.geometry.cameras import project
from haptic.hand.anatomy import limit_violation


def config_of(folder, **changed):
    values = {
        "sets": {"painted": SetConfig(shards=str(folder / "*.tar"), max_stride=3)},
        "video": {"painted": 1.0}, "image": {"painted": 1.0}, "windows_per_batch": 2, "images_per_batch": 3,
        "clip_frames": 4, "cut": CutConfig(crop_side_px=32, frame_side_px=32), "batches_per_epoch": 4, "num_workers": 0,
        "real_hands_per_batch": 5, "seed": 3,
    }  # fmt: skip
    return DataConfig(**{**values, **changed})


def tensors_of(record):
    for f in fields(record):
        value = getattr(record, f.name)
        if isinstance(value, torch.Tensor):
            yield f.name, value
        elif hasattr(value, "__dataclass_fields__"):
            yield from tensors_of(value)


def assert_same(first, second):
    assert first.keys == second.keys
    assert first.index == second.index
    for (name, one), (_, other) in zip(tensors_of(first), tensors_of(second), strict=True):
        assert torch.equal(one, other), name


def batches_of(config, count, place=None):
    data = TrainingData(config)
    if place is not None:
        data.load_state_dict(place)
    batches = []
    while len(batches) < count:
        batches += list(data.train_dataloader())
    data.teardown()
    return batches[:count]


def test_a_batch_holds_windows_images_and_real_hands(shard_dir):
    (batch,) = batches_of(config_of(shard_dir), 1)
    assert batch.video.crops.shape == (2, 4, 32, 32, 3)
    assert batch.image.frames.shape == (3, 1, 32, 32, 3)
    assert batch.video.crops.dtype == torch.uint8
    assert batch.real.hand_pose.shape == (5, 15, 3, 3)
    assert batch.num_hands == 2 * 4 + 3
    assert len(batch.keys) == 5
    clip = batch.to("cpu").video.as_clip()
    assert clip.crops.shape == (2, 4, 3, 32, 32)
    assert clip.crops.dtype == torch.float32
    labels = batch.video
    torch.testing.assert_close(
        project(labels.targets.joints_cam, labels.camera.K), labels.targets.joints_img, atol=5e-3, rtol=0
    )
    torch.testing.assert_close(labels.wrist_depth, labels.targets.joints_cam[:, :, 0, 2])
    assert (labels.depth_weight == 1).all()
    assert labels.joints_crop.abs().max() < 0.5


def test_batches_are_the_same_for_any_number_of_workers(shard_dir):
    config = config_of(shard_dir)
    alone = batches_of(config, 6)
    for num_workers in (1, 2):
        for one, other in zip(alone, batches_of(replace(config, num_workers=num_workers), 6), strict=True):
            assert_same(one, other)


def test_a_run_that_is_resumed_mid_epoch_sees_exactly_the_next_sample(shard_dir):
    config = config_of(shard_dir)
    whole = batches_of(config, 11)
    data = TrainingData(replace(config, num_workers=1))
    seen = []
    for batch in data.train_dataloader():
        seen.append(batch)
        if batch.index == 2:  # the workers are ahead by now
            break
    place = data.state_dict()
    data.teardown()
    assert place["next_batch"] == 3
    resumed = TrainingData(replace(config, num_workers=2))
    resumed.load_state_dict(place)
    rest = list(resumed.train_dataloader())  # the rest of the epoch of four
    assert [batch.index for batch in rest] == [3]
    rest += [batch for _epoch in range(2) for batch in resumed.train_dataloader()]
    resumed.teardown()
    for one, other in zip(whole, seen + rest[:8], strict=True):
        assert_same(one, other)


def test_making_batches_leaves_the_global_generators_alone(shard_dir):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches_of(config_of(shard_dir, num_workers=1), 2)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_two_processes_share_what_one_would_have_seen(shard_dir, monkeypatch):
    whole = batches_of(config_of(shard_dir, windows_per_batch=4, images_per_batch=6, real_hands_per_batch=10), 3)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr("haptic.data.datamodule._process", lambda rank=rank: (rank, 2))
        parts.append(batches_of(config_of(shard_dir), 3))
    for one, first, second in zip(whole, *parts, strict=True):
        for part in ("video", "image"):
            joined = torch.cat([getattr(half, part).crops for half in (first, second)])
            assert torch.equal(joined, getattr(one, part).crops)
        assert torch.equal(torch.cat([first.real.hand_pose, second.real.hand_pose]), one.real.hand_pose)
        shown = [
            {(key, *frames) for key, frames in zip(half.image.keys, half.image.frame_index.tolist(), strict=True)}
            for half in (first, second)
        ]
        assert not shown[0] & shown[1]


def damage(folder, count):
    """Spoil one picture in each of some clips."""
    import tarfile

    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = [(member.name, tar.extractfile(member).read()) for member in tar]
        spoiled = 0
        for number, (name, _data) in enumerate(members):
            if "right_0.0" in name and spoiled < count:
                members[number] = (name, b"spoiled")
                spoiled += 1
        write_tar(path, members)


def test_damaged_samples_are_replaced_named_and_counted(own_shards, caplog):
    damage(own_shards, 6)
    config = config_of(own_shards)
    batches = batches_of(config, 4)
    skipped = [text for batch in batches for text in batch.skipped]
    assert skipped
    assert all("set painted, clips-00000" in text and ".jpg: not a readable picture" in text for text in skipped)
    assert f"skipped ({len(skipped)} of at most 100)" in caplog.text
    for one, other in zip(batches, batches_of(replace(config, num_workers=2), 4), strict=True):
        assert_same(one, other)
        assert one.skipped == other.skipped
    with pytest.raises(ValueError, match=r"2 samples or shards are damaged, more than data.max_damaged = 1; the last"):
        batches_of(replace(config, max_damaged=1), 40)


def test_a_set_that_is_damaged_throughout_stops_the_run(own_shards):
    damage(own_shards, 100)
    only_right = config_of(own_shards, max_damaged=10_000)
    data = TrainingData(only_right)
    for track in range(len(data.sets[0].num_frames)):  # as if there were no left hands
        data.sets[0]._table.hands[track] = "right_0"
    with pytest.raises(ValueError, match="set painted: none of 50 hands drawn for one place can be shown; the last"):
        next(iter(data.train_dataloader()))


def test_a_truncated_shard_counts_as_damage_before_the_first_batch(own_shards):
    path = own_shards / "clips-000001.tar"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"data.max_damaged = 0; the last: set painted, clips-00000"):
        batches_of(config_of(own_shards, max_damaged=0), 1)
    batches_of(config_of(own_shards), 1)


def test_hands_outside_the_picture_are_passed_over_in_silence(painted_clip, make_writer):
    images, hands = painted_clip(6)
    away = replace(hands["left_0"], box_center_img=hands["left_0"].box_center_img + 1000)
    with make_writer() as writer:
        writer.add_clip("clip", images, {"right_0": hands["right_0"], "left_0": away}, fps=30.0)
    for batch in batches_of(config_of(writer.paths[0].parent), 3):
        assert all(key.endswith("right_0") for key in batch.keys)
        assert not batch.skipped


def test_resuming_with_another_config_names_what_changed(shard_dir):
    data = TrainingData(config_of(shard_dir))
    place = data.state_dict()
    changed = TrainingData(config_of(shard_dir, seed=4, augment=AugmentConfig(zoom=0.1)))
    changed.load_state_dict(place)
    with pytest.raises(ValueError, match=r"augment.zoom \(was 0.3, is 0.1\); seed \(was 3, is 4\)"):
        changed.train_dataloader()
    TrainingData(config_of(shard_dir, num_workers=2, max_damaged=7)).load_state_dict(place)


def test_a_killed_worker_stops_the_run_and_says_so(shard_dir):
    data = TrainingData(config_of(shard_dir, num_workers=1, batches_per_epoch=100))
    batches = iter(data.train_dataloader())
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match=r"a data worker died while making batch .*resume"):
        list(batches)


def test_an_epoch_has_its_length_and_the_next_goes_on(shard_dir):
    data = TrainingData(config_of(shard_dir))
    loader = data.train_dataloader()
    assert isinstance(loader, BatchLoader)
    assert len(loader) == 4
    assert [batch.index for batch in loader] == [0, 1, 2, 3]
    assert [batch.index for batch in loader] == [4, 5, 6, 7]
    assert loader.wait_s > 0


def test_validation_shows_every_frame_of_every_long_track_in_order(shard_dir):
    data = TrainingData(config_of(shard_dir, validation=["painted"], clip_frames=8, validation_batch_windows=3))
    shown = {}
    for batch in data.val_dataloader():
        assert isinstance(batch, ClipBatch)
        assert (batch.crop_gain == 1).all()
        for key, frames in zip(batch.keys, batch.frame_index.tolist(), strict=True):
            assert not shown.get(key) or frames[0] <= shown[key][-1]  # neighbours touch
            shown.setdefault(key, []).extend(frames)
    assert len(shown) == 12
    assert {tuple(sorted(set(frames))) for frames in shown.values()} == {tuple(range(n)) for n in range(12, 23, 2)}
    few = TrainingData(config_of(shard_dir, validation=["painted"], validation_max_tracks=2))
    assert len({key for batch in few.val_dataloader() for key in batch.keys}) == 2


def test_validation_is_split_over_processes(shard_dir, monkeypatch):
    config = config_of(shard_dir, validation=["painted"], validation_max_tracks=3, validation_batch_windows=2)
    whole = [batch.keys for batch in TrainingData(config).val_dataloader()]
    halves = []
    for rank in (0, 1):
        monkeypatch.setattr("haptic.data.datamodule._process", lambda rank=rank: (rank, 2))
        halves.append([batch.keys for batch in TrainingData(config).val_dataloader()])
    assert halves == [whole[0::2], whole[1::2]]


def test_a_part_that_the_mixture_leaves_out_is_none(shard_dir):
    (batch,) = batches_of(config_of(shard_dir, image={}, real_hands_per_batch=0), 1)
    assert batch.image is None
    assert batch.real is None
    assert isinstance(batch, TrainingBatch)
    assert batch.num_hands == 8


def test_real_hands_come_from_motion_capture_or_lie_within_ranges_of_motion():
    drawn = RealHandSource(None, seed=0).hands(0, 64)
    assert limit_violation(drawn.hand_pose).abs().max() < 0.1
    assert drawn.betas.std() > 0.7
    captured = RealHands(torch.eye(3).expand(4, 15, 3, 3) * torch.arange(4.0)[:, None, None, None], torch.zeros(4, 10))
    source = RealHandSource(captured, seed=0)
    picked = source.hands(10, 30)
    assert set(picked.hand_pose[:, 0, 0, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert torch.equal(picked.hand_pose[5], source.hands(15, 1).hand_pose[0])


def test_batches_can_be_cut_into_parts(shard_dir):
    (batch,) = batches_of(config_of(shard_dir), 1)
    part = batch.image[torch.tensor([2, 0])]
    assert part.keys == (batch.image.keys[2], batch.image.keys[0])
    assert torch.equal(part.targets.params.betas[1], batch.image.targets.params.betas[0])
    assert batch.image[-1].num_clips == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"video": {"other": 1.0}}, "data.video: unknown set 'other'; the config's sets are painted"),
        ({"video": {"painted": 0.7}}, "data.video: the shares sum to 0.7"),
        ({"validation": ["other"]}, "data.validation: unknown set 'other'"),
        ({"video": {}, "image": {}}, "data.video and data.image are both empty"),
        ({"clip_frames": 1}, "data.clip_frames is 1; expected 2 or more"),
        ({"num_workers": -1}, "data.num_workers is -1"),
        ({"stride_rate": 2.0}, "data.stride_rate is 2.0"),
        ({"validation_overlap_frames": 4}, "validation_overlap_frames is 4; expected less than"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused_in_words(shard_dir, changed, says):
    with pytest.raises(ValueError, match=says):
        config_of(shard_dir, **changed)


def test_shards_that_are_not_there_are_named_with_their_set(tmp_path):
    data = TrainingData(config_of(tmp_path))
    with pytest.raises(ValueError, match="set painted: no shards match"):
        data.train_dataloader()


@pytest.mark.slow
def test_lightning_goes_on_in_the_middle_of_an_epoch_with_the_next_batch(shard_dir, tmp_path):
    import pytorch_lightning as pl

    class Watcher(pl.LightningModule):
        """Learns nothing and writes down what it was shown."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.seen = []

        def training_step(self, batch, _number):
            self.seen.append(batch.index)
            return self.weight * batch.video.as_clip().crops.mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def trainer(steps, **options):
        return pl.Trainer(
            max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, **options,
        )  # fmt: skip

    config = config_of(shard_dir, num_workers=1)
    first, data = Watcher(), TrainingData(config)
    one = trainer(6)
    one.fit(first, datamodule=data)
    one.save_checkpoint(tmp_path / "run.ckpt")
    second, data = Watcher(), TrainingData(config)
    trainer(11).fit(second, datamodule=data, ckpt_path=tmp_path / "run.ckpt", weights_only=False)
    assert first.seen == [0, 1, 2, 3, 4, 5]
    assert second.seen == [6, 7, 8, 9, 10]


def test_a_worker_that_is_started_from_nothing_makes_the_same_batch(shard_dir):
    """As on systems where processes are spawned: everything travels by pickle."""
    data = TrainingData(config_of(shard_dir))
    maker = data.train_dataloader()._maker
    first = maker[7]
    assert_same(pickle.loads(pickle.dumps(maker))[7], first)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_cannot_be_shown_is_refused_in_the_same_words_by_workers(shard_dir, num_workers, monkeypatch):
    def refuse(*_args, **_more):
        raise ValueError("set painted: no hand can be shown")

    monkeypatch.setattr("haptic.data.loader.make_clip", refuse)
    with pytest.raises(ValueError, match=r"^set painted: no hand can be shown$"):
        batches_of(config_of(shard_dir, num_workers=num_workers), 1)
