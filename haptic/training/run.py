"""A training run from its config: everything is built here, once, and handed to Lightning."""

import logging
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException
from torch import nn

from haptic.data.crops import CutConfig
from haptic.data.datamodule import DataConfig, TrainingData
from haptic.files import atomic_write
from haptic.hand.model import HandModel, load_hand_model
from haptic.models.checkpoint import load_checkpoint, match_hand_model
from haptic.models.haptic import Haptic, HapticConfig, is_optional, optional_part
from haptic.training.callbacks import Cadence, RunKeeper
from haptic.training.checkpointing import CheckpointFolder, RunState, changed_fields, read_run
from haptic.training.logbook import Logbook, WandbMode
from haptic.training.module import TrainingModule
from haptic.training.objective import Objective, ObjectiveConfig
from haptic.training.optimisation import OptimConfig

logger = logging.getLogger(__name__)

Trainer = pl.Trainer  # for the command line, whose section `trainer` comes from this signature
# Of Lightning's own arguments those that say where and how precisely a run computes; the rest is the run's business.
TRAINER_ARGUMENTS = (
    "accelerator", "strategy", "devices", "num_nodes", "precision", "deterministic", "benchmark", "sync_batchnorm",
    "detect_anomaly", "max_time",
)  # fmt: skip
SAMPLE_NAMES = 3
# What may differ when a run is resumed: where and how often things are kept, and how the same is computed.
MAY_CHANGE = re.compile(
    r"run\.(?!seed$|hand_model$).*|trainer\.(?!precision$).*|optim\.(checkpointing|compile)|"
    r"data\.(num_workers|prefetch_batches|cache_dir|cache_gb|max_damaged|validation.*|"
    r"windows_per_batch|images_per_batch|real_hands_per_batch|"  # the data checks these over all processes
    r"crop_side_px|frame_side_px|box_share|anti_alias)"  # and these; older runs kept them
)


class TerminatedError(RuntimeError):
    """A cluster asked the run to end (SIGTERM); what was learned is kept."""


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it keeps. The same command again goes on where the run was cut off."""

    out: str = "outputs/train"
    init: str | None = None  # weights to start from: our own, or an official .ckpt as downloaded
    hand_model: str | None = None  # licensed MANO_RIGHT.pkl or npz; None is the openhand
    seed: int = 0
    resume: bool = True  # False refuses a folder in which a run was begun
    allow_changes: bool = False  # resume though the config has changed
    log_every_steps: int = 50
    validate_every_steps: int | None = 2000
    save_every_steps: int = 1000
    save_every_minutes: float | None = None
    keep_checkpoints: int = 3
    wandb: WandbMode = "off"

    def __post_init__(self) -> None:
        for name in ("log_every_steps", "save_every_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"run.{name} is {getattr(self, name)}; it must be 1 or more")
        if self.validate_every_steps is not None and self.validate_every_steps < 1:
            raise ValueError(f"run.validate_every_steps is {self.validate_every_steps}; it must be 1 or more, or null")
        if self.save_every_minutes is not None and not self.save_every_minutes > 0:
            raise ValueError(f"run.save_every_minutes is {self.save_every_minutes}; it must be above 0, or null")
        if self.seed < 0:
            raise ValueError(f"run.seed is {self.seed}; it must be 0 or more")


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on. Without `network` it has the shape of the weights it starts from."""

    run: RunConfig
    data: DataConfig
    network: HapticConfig | None = None
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    trainer: Mapping[str, Any] = field(default_factory=dict)  # of `TRAINER_ARGUMENTS`


def train(config: TrainConfig, *, config_text: str = "") -> TrainingModule:
    """Train until `optim.total_steps`, from the start, from given weights, or from where the run was cut off.

    Args:
        config_text: the config as YAML, to be kept in the run's folder.

    Raises:
        ValueError: anything the run needs cannot be used; one line says what.
        TerminatedError: the run was asked to end.
    """
    _hush_lightning()
    out = Path(config.run.out)
    checkpoints = CheckpointFolder(out, keep=config.run.keep_checkpoints)
    resumed = _find_run(config, checkpoints)
    hand_model = load_hand_model(None if config.run.hand_model is None else Path(config.run.hand_model))
    torch.manual_seed(config.run.seed)
    network = build_network(config, hand_model)
    data = TrainingData(
        replace(
            config.data,
            cut=CutConfig.of(network.config),
            seed=config.run.seed,
        )
    )
    data.sets  # noqa: B018  missing shards are said before anything is built
    module = TrainingModule(
        network,
        Objective(config.objective, hand_model),
        config.optim,
        has_adversary=config.objective.weights.adversarial > 0 and config.data.real_hands_per_batch > 0,
        starts_from_nothing=config.run.init is None,
        seed=config.run.seed,
    )
    if resumed is not None:
        module.load_weights(resumed.weights, resumed.module)
        data.load_state_dict(resumed.data)
    trainer = _make_trainer(config.trainer)
    logbook = _open_books(config, out, resumed, config_text) if trainer.is_global_zero else None
    keeper = RunKeeper(
        data,
        hand_model,
        cadence=Cadence(
            log=config.run.log_every_steps,
            validate=config.run.validate_every_steps if config.data.validation else None,
            save=config.run.save_every_steps,
            save_minutes=config.run.save_every_minutes,
        ),
        total_steps=config.optim.total_steps,
        checkpoints=checkpoints,
        logbook=logbook,
        config=recorded_config(config),
        resumed=resumed,
        compares=config.run.init is not None,
    )
    trainer.callbacks.append(keeper)  # type: ignore[attr-defined]
    try:
        trainer.fit(module, datamodule=data)
    except SIGTERMException:
        raise TerminatedError(f"asked to end after step {module.step}; say the same command again to go on") from None
    except SystemExit:  # Lightning's way out after Ctrl-C; a step may be half made, so nothing is saved
        raise KeyboardInterrupt from None
    return module


def build_network(config: TrainConfig, hand_model: HandModel) -> Haptic:
    """Return the network the run starts with.

    Raises:
        ValueError: the weights to start from are another network's, or those of another size.
    """
    if config.run.init is None:
        return Haptic(config.network)
    path = Path(config.run.init)
    loaded, info = load_checkpoint(path)
    shape_space = match_hand_model(info.hand_model_name, hand_model.name)
    network = loaded if config.network is None else _transplant(loaded, config.network, path)
    if shape_space == "zero betas":
        # The numbers of another shape space: better the mean shape than a wrong one.
        nn.init.zeros_(network.readout.betas.weight)
        nn.init.zeros_(network.readout.betas.bias)
        network.readout.mean_betas.zero_()
    return network.train()


def flat_config(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a config as dotted names and plain values, as it is kept in checkpoints."""
    if is_dataclass(config):
        config = {one.name: getattr(config, one.name) for one in fields(config)}
    if isinstance(config, Mapping) and (config or not prefix):
        flat: dict[str, Any] = {}
        for name, value in config.items():
            flat |= flat_config(value, f"{prefix}.{name}" if prefix else str(name))
        return flat
    if isinstance(config, list | tuple):
        return {prefix: [_plain(value) for value in config]}
    return {prefix: _plain(config)}


def recorded_config(config: TrainConfig) -> dict[str, Any]:
    """Return what a run's checkpoints keep of its config; how pictures are cut is the network's to say."""
    return {name: value for name, value in flat_config(config).items() if not name.startswith("data.cut.")}


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _find_run(config: TrainConfig, checkpoints: CheckpointFolder) -> RunState | None:
    """Return what to go on from, if a run was begun in the folder."""
    if not checkpoints.last.is_file():
        return None
    if not config.run.resume:
        raise ValueError(
            f"{checkpoints.folder}: a run was begun here; choose another run.out, or leave run.resume true to go on"
        )
    state = read_run(checkpoints.last)
    now = recorded_config(config)
    changed = [one for one in changed_fields(state.config, now) if not MAY_CHANGE.fullmatch(one.split(" ")[0])]
    if changed and not config.run.allow_changes:
        raise ValueError(
            f"{checkpoints.last}: the config has changed since: {'; '.join(changed)}. Say the old values, choose "
            "another run.out (run.init takes weights along), or go on with run.allow_changes true"
        )
    return state


def _transplant(loaded: Haptic, config: HapticConfig, path: Path) -> Haptic:
    """Return a network of this config with the loaded weights; attentions that only one has are new, or dropped.

    Where the config's crops are narrower or wider, the scale readout says the same metres of them.
    """
    network = Haptic(config)
    own, given = network.state_dict(), loaded.state_dict()
    wrong = [
        f"{name} is {tuple(given[name].shape)}, the config makes it {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    missing = [name for name in own if name not in given and not is_optional(name)]
    unexpected = [name for name in given if name not in own and not is_optional(name)]
    if wrong or missing or unexpected:
        words = wrong[:SAMPLE_NAMES] + [f"{name} is missing" for name in missing[:SAMPLE_NAMES]]
        words += [f"{name} is not wanted" for name in unexpected[:SAMPLE_NAMES]]
        raise ValueError(
            f"{path}: the checkpoint is of another size than the config's network ({'; '.join(words[:SAMPLE_NAMES])}); "
            "leave the section network out to take the checkpoint's"
        )
    for said, parts in (
        ("are left out", _parts_beyond(given, own)),
        ("are new, and begin silent", _parts_beyond(own, given)),
    ):
        if parts:
            logger.info("%s: %s %s", path, ", ".join(parts), said)
    network.load_state_dict({**own, **{name: value for name, value in given.items() if name in own}})
    narrower = loaded.config.box_share / config.box_share
    with torch.no_grad():
        for scale in (network.readout.camera.weight[0], network.readout.camera.bias[0], network.readout.mean_camera[0]):
            scale.mul_(narrower)
    return network


def _parts_beyond(one: Iterable[str], other: Iterable[str]) -> list[str]:
    """Return the optional parts that one network's weights have and another's lack."""
    return sorted({part for name in set(one) - set(other) if (part := optional_part(name)) is not None})


def _make_trainer(arguments: Mapping[str, Any]) -> pl.Trainer:
    unknown = set(arguments) - set(TRAINER_ARGUMENTS)
    assert not unknown, f"the run itself takes care of {unknown}"
    try:
        return pl.Trainer(
            **arguments,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # each process makes its own share of the batches
        )
    except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:
        raise ValueError(f"trainer: {' '.join(str(error).split())}") from None


def _open_books(config: TrainConfig, out: Path, resumed: RunState | None, config_text: str) -> Logbook:
    out.mkdir(parents=True, exist_ok=True)
    if config_text:
        with atomic_write(out / "config.yaml") as file:
            file.write(config_text.encode())
    logbook = Logbook(out, wandb=config.run.wandb, config=recorded_config(config))
    # Step 0 is what the run starts with; a run that starts anew looks again.
    logbook.go_back_to(-1 if resumed is None else int(resumed.module["step"]))
    if resumed is not None:
        logger.info("going on after step %d", resumed.module["step"])
    return logbook


def _hush_lightning() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    # Its advice concerns things that are done here by other means.
    for words in (".*does not have many workers.*", ".*log_every_n_steps.*", ".*val_dataloader.*", ".*tensorboardX.*"):
        warnings.filterwarnings("ignore", message=words)
