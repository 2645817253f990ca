"""Arguments, help and exit codes of `train.py`.

Exit codes: 0 the run reached its last step, 2 something could not be used (in one line), 130 interrupted by Ctrl-C,
143 asked to end (SIGTERM), as clusters do before they kill.
"""

import inspect
import logging
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

from haptic.cli.main import hush_libraries
from haptic.cli.messages import describe_error
from haptic.options import TeachingParser, check_config_files, config_files_of, option_faults_named

DESCRIPTION = """\
Train HaPTIC: a config and the folder of a run; the same command again goes on where it was cut off.

  python train.py --config configs/train/smoke.yaml                              two minutes, on made-up hands
  python train.py --config configs/train/openhand_tiny.yaml --run.out runs/tiny  the network that ships
  python train.py --config configs/train/haptic.yaml --config my_data.yaml       later files win, field by field
  python train.py --config configs/train/finetune.yaml --run.init hamer.ckpt     from given weights
  torchrun --nproc-per-node 8 train.py --config configs/train/haptic.yaml --trainer.devices 8

The run's folder gets metrics.csv, pictures/, config.yaml, last.ckpt and best.ckpt (infer.py --checkpoint takes them).
docs/training.md tells the rest, clusters included."""

SET_BY_OTHERS = ("cut", "seed")  # by the network, and run.seed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    hush_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("haptic").setLevel(logging.INFO)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        _say("interrupted; say the same command again to go on from the last checkpoint")
        return 130
    except ModuleNotFoundError as error:
        if error.name not in ("pytorch_lightning", "wandb", "webdataset"):
            raise
        _say(f"training needs the package {error.name}: pip install 'haptic[train]'")
        return 2
    except (ValueError, OSError) as error:
        _say(describe_error(error))
        return 2


def _run(arguments: Sequence[str] | None) -> int:
    from haptic.data.loader import WorkerDiedError
    from haptic.training.run import TerminatedError, TrainConfig, train

    parser = build_parser()
    words = [str(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    if not words:
        raise ValueError("no config given; say: train.py --config configs/train/smoke.yaml, or train.py --help")
    files = config_files_of(words)
    check_config_files(parser, files)
    with option_faults_named(parser, files, words):
        options = parser.parse_args(words)
        text = parser.dump(options, skip_none=False)
        parts: Any = parser.instantiate(options)
    config = TrainConfig(
        run=parts.run,
        data=parts.data,
        network=parts.network,
        objective=parts.objective,
        optim=parts.optim,
        trainer={name: value for name, value in vars(parts.trainer).items() if value is not None},
    )
    try:
        train(config, config_text=text)
    except WorkerDiedError as error:
        raise ValueError(str(error)) from None
    except TerminatedError as error:
        _say(str(error))
        return 143
    _say(f"done; infer.py --checkpoint {config.run.out}/last.ckpt takes what was learned")
    return 0


def build_parser() -> TeachingParser:
    """Return the parser; its sections are the configs of the rooms, and Lightning's own arguments of its trainer."""
    from haptic.data.datamodule import DataConfig
    from haptic.models.haptic import HapticConfig
    from haptic.training.objective import ObjectiveConfig
    from haptic.training.optimisation import OptimConfig
    from haptic.training.run import TRAINER_ARGUMENTS, RunConfig, Trainer

    parser = TeachingParser(
        prog="train.py",
        usage="train.py --config FILE [--config FILE ...] [--section.field VALUE ...]",
        description=DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options; may be given again")
    parser.add_class_arguments(RunConfig, "run")
    parser.add_class_arguments(DataConfig, "data", skip={*SET_BY_OTHERS})
    parser.add_argument(
        "--network", type=HapticConfig | None, default=None, help="null: that of run.init, or the official size"
    )
    parser.add_class_arguments(ObjectiveConfig, "objective")
    parser.add_class_arguments(OptimConfig, "optim")
    others = set(inspect.signature(Trainer.__init__).parameters) - set(TRAINER_ARGUMENTS)
    parser.add_class_arguments(Trainer, "trainer", skip=others, instantiate=False)
    return parser


def _say(text: str) -> None:
    print(f"train.py: {text}", file=sys.stderr)  # noqa: T201
