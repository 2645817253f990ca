"""The mixture, as Lightning takes it: which sets, in which shares, how many of what in a batch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from haptic.data.augment import AugmentConfig
from haptic.data.batches import ClipBatch
from haptic.data.crops import CutConfig
from haptic.data.hamer_tars import HamerSet
from haptic.data.loader import BatchLoader, BatchMaker, Part, RealHandSource, ValidationWindows, validation_loader
from haptic.data.mixture import IMAGE, VIDEO, Stream, check_shares
from haptic.data.readers import ClipSet, ShardSet, load_mocap
from haptic.data.shards import ShardStore


@dataclass(frozen=True)
class SetConfig:
    """One data set: where its shards are.

    `shards` are paths with braces or wildcards (`clips/{000000..000130}.tar`), URLs, or `pipe:` commands that write a
    tar. `format`: `haptic` is ours (docs/shards.md), `hamer` HaMeR's tars as they are. Windows are taken every 1 ...
    `max_stride` frames: 5 suits 30 frames per second.
    """

    shards: str | list[str]
    format: Literal["haptic", "hamer"] = "haptic"
    max_stride: int = 5

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError("shards is empty; name at least one path, pattern or pipe: command")
        if self.max_stride < 1:
            raise ValueError(f"max_stride is {self.max_stride}; expected 1 (every frame) or more")


@dataclass(frozen=True)
class DataConfig:
    """What training sees. Batch sizes are those of one process; `video` and `image` give shares by set, each sums to 1.

    The official mixture is 8 windows of 8 frames and 8 images in each of 8 processes; its shares were never published.
    `real_hands_per_batch` feed the discriminator, from `mocap` (freihand_mocap.npz) or else drawn within ranges of
    motion.
    """

    sets: dict[str, SetConfig] = field(default_factory=dict)
    video: dict[str, float] = field(default_factory=dict)
    image: dict[str, float] = field(default_factory=dict)
    validation: list[str] = field(default_factory=list)
    clip_frames: int = 8
    windows_per_batch: int = 8
    images_per_batch: int = 8
    stride_rate: float = 0.5  # of windows, that are not taken every frame
    cut: CutConfig = field(default_factory=CutConfig)  # of the network that is trained
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mocap: str | None = None
    real_hands_per_batch: int = 128
    seed: int = 0
    batches_per_epoch: int = 1000
    num_workers: int = 2
    prefetch_batches: int = 2  # by each worker
    shards_at_once: int = 100  # hands are shuffled among the hands of so many shards
    max_damaged: int = 100  # samples skipped before the run stops
    validation_overlap_frames: int = 1
    validation_max_tracks: int | None = None  # of each set
    validation_batch_windows: int = 8
    cache_dir: str | None = None  # for shards that are fetched, and for lists of shards in read-only folders
    cache_gb: float = 50.0

    def __post_init__(self) -> None:
        known = list(self.sets)
        if not self.video and not self.image:
            raise ValueError("data.video and data.image are both empty; give shares, e.g. video: {synthetic: 1.0}")
        for name in ("video", "image"):
            if getattr(self, name):
                check_shares(getattr(self, name), known, name=f"data.{name}")
        for chosen in self.validation:
            if chosen not in known:
                raise ValueError(f"data.validation: unknown set {chosen!r}; the config's sets are {', '.join(known)}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        least = {
            "clip_frames": 2, "windows_per_batch": 1, "images_per_batch": 1,
            "batches_per_epoch": 1, "prefetch_batches": 1, "shards_at_once": 1, "validation_batch_windows": 1,
            "num_workers": 0, "real_hands_per_batch": 0, "max_damaged": 0, "seed": 0, "validation_overlap_frames": 0,
        }  # fmt: skip
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"data.{name} is {getattr(self, name)}; expected {smallest} or more")
        if not 0 <= self.stride_rate <= 1:
            raise ValueError(f"data.stride_rate is {self.stride_rate}; it is a share, from 0 to 1")
        if self.validation_overlap_frames >= self.clip_frames:
            raise ValueError(
                f"data.validation_overlap_frames is {self.validation_overlap_frames}; expected less than clip_frames = "
                f"{self.clip_frames}"
            )


class TrainingData(pl.LightningDataModule):
    """The batches of a run: `TrainingBatch` to train on, `ClipBatch` to validate on.

    Its place in the data is part of every checkpoint, exact to the batch. Trainers must be told not to split the data a
    second time (`use_distributed_sampler=False`).
    """

    def __init__(self, config: DataConfig) -> None:
        super().__init__()
        self.config = config
        self._sets: list[ShardSet] | None = None
        self._loader: BatchLoader | None = None
        self._place: Mapping[str, Any] | None = None

    @property
    def set_names(self) -> tuple[str, ...]:
        """The sets that `ClipBatch.set_index` counts."""
        return tuple(self.config.sets)

    @property
    def sets(self) -> list[ShardSet]:
        """The sets, listed: this opens every shard once, if its list is not there yet.

        Raises:
            ValueError: no shards match, or a set holds nothing usable.
        """
        if self._sets is None:
            config = self.config
            cache_dir = None if config.cache_dir is None else Path(config.cache_dir)
            store = ShardStore(cache_dir=cache_dir, cache_gb=config.cache_gb)
            kinds = {"haptic": ClipSet, "hamer": HamerSet}
            self._sets = [
                kinds[one.format](name, one.shards if isinstance(one.shards, str) else tuple(one.shards), store=store)
                for name, one in config.sets.items()
            ]
        return self._sets

    @property
    def loader(self) -> BatchLoader:
        """The training batches; `wait_s` tells how long the run has waited for them."""
        if self._loader is None:
            self._loader = self._make_loader()
            if self._place is not None:
                self._loader.load_state_dict(self._place)
        return self._loader

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches from the current place on."""
        return self.loader

    def val_dataloader(self) -> DataLoader[ClipBatch] | list[Any]:
        """Return the validation sets' windows in order, or nothing where no set is named."""
        config = self.config
        if not config.validation:
            return []
        rank, world_size = _process()
        windows = ValidationWindows(
            self.sets,
            config.validation,
            clip_frames=config.clip_frames,
            overlap_frames=config.validation_overlap_frames,
            batch_clips=config.validation_batch_windows,
            cut=config.cut,
            max_tracks=config.validation_max_tracks,
            rank=rank,
            world_size=world_size,
        )
        return validation_loader(windows, num_workers=config.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the data."""
        return self.loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a place; it is checked against the config when the batches are asked for."""
        self._place = state_dict
        if self._loader is not None:
            self._loader.load_state_dict(state_dict)

    def teardown(self, stage: str | None = None) -> None:
        """Let the workers go."""
        if self._loader is not None:
            self._loader.close()

    def _make_loader(self) -> BatchLoader:
        config = self.config
        rank, world_size = _process()
        mocap = None if config.mocap is None else load_mocap(Path(config.mocap))
        maker = BatchMaker(
            self.sets,
            video=self._part(config.video, VIDEO, config.windows_per_batch),
            image=self._part(config.image, IMAGE, config.images_per_batch),
            real=RealHandSource(mocap, seed=config.seed),
            real_per_process=config.real_hands_per_batch,
            augment=config.augment,
            cut=config.cut,
            rank=rank,
            world_size=world_size,
        )
        return BatchLoader(
            maker,
            batches_per_epoch=config.batches_per_epoch,
            num_workers=config.num_workers,
            prefetch_batches=config.prefetch_batches,
            max_damaged=config.max_damaged,
            plan=self._plan(world_size),
            pin_memory=torch.cuda.is_available(),
            faults=[fault for one in self.sets for fault in one.faults],
        )

    def _part(self, shares: Mapping[str, float], kind: int, per_process: int) -> Part | None:
        if not shares:
            return None
        config = self.config
        stream = Stream(
            self.sets,
            shares,
            name="data.video" if kind == VIDEO else "data.image",
            kind=kind,
            seed=config.seed,
            clip_frames=config.clip_frames if kind == VIDEO else 1,
            max_strides={name: one.max_stride for name, one in config.sets.items()},
            stride_rate=config.stride_rate,
            shards_at_once=config.shards_at_once,
        )
        return Part(stream, per_process)

    def _plan(self, world_size: int) -> dict[str, Any]:
        """Return all that the order and look of the batches depend on; batch sizes over all processes."""
        config = self.config
        plan: dict[str, Any] = {
            name: getattr(config, name)
            for name in (
                "video", "image", "clip_frames", "stride_rate", "mocap", "seed", "batches_per_epoch", "shards_at_once",
            )
        }  # fmt: skip
        plan |= asdict(config.cut)
        for name in ("windows_per_batch", "images_per_batch", "real_hands_per_batch"):
            plan[f"{name} of all processes"] = getattr(config, name) * world_size
        plan |= {f"augment.{name}": value for name, value in asdict(config.augment).items()}
        for one in self.sets:
            plan[f"tracks of set {one.name}"] = len(one.num_frames)
            plan[f"frames of set {one.name}"] = int(one.num_frames.sum())
            plan[f"max_stride of set {one.name}"] = config.sets[one.name].max_stride
        return plan


def _process() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
