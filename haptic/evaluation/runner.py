"""Score methods and other systems on a benchmark: predictions, tables, pictures (docs/evaluation.md).

python -m haptic.evaluation.runner --benchmark openhand --quick --out results/quick
python -m haptic.evaluation.runner --benchmark openhand --methods keypoints keypoints+refine --out results/openhand
python -m haptic.evaluation.runner --benchmark openhand --export-inputs inputs --out results/openhand
python -m haptic.evaluation.runner --benchmark openhand --predictions mine=my_outputs --methods keypoints --out results
python -m haptic.evaluation.runner --benchmark haptic-table1 --shards-dir SHARDS --out results

The same command again goes on where it was broken off.
"""

import multiprocessing
import os
import shlex
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from jsonargparse import ActionYesNo, ArgumentParser

from haptic.data.shards import ShardStore, expand_shards
from haptic.evaluation.baselines import DEFAULT_METHODS, NETWORK_METHODS, parse_method
from haptic.evaluation.benchmarks import (
    NAMES,
    Benchmark,
    beginnings,
    clips_of_set,
    find_benchmark,
    find_shards,
    missing_sets,
)
from haptic.evaluation.checks import PairedHand, pair_hands
from haptic.evaluation.clips import EvalClip, first_frames, list_clips, local_urls
from haptic.evaluation.depth_maps import DEPTH_ANYTHING, ZOEDEPTH
from haptic.evaluation.exchange import export_inputs, read_system
from haptic.evaluation.jobs import MethodFiles, MethodJob, calm_process, folder_name, is_done, run_methods
from haptic.evaluation.meshes import HandModels, pair_meshes
from haptic.evaluation.official import write_official
from haptic.evaluation.openhand_sets import ClipJob, clip_jobs, data_folder, make_clip, openhand_size
from haptic.evaluation.predictions import Prediction, read_prediction
from haptic.evaluation.protocols import Protocol
from haptic.evaluation.report import Scored, write_report
from haptic.evaluation.scoring import NEED_MESHES, frame_scores, score_hand, score_two_hands
from haptic.evaluation.tables import FramesFormat
from haptic.hand.model import load_hand_model
from haptic.inference.network import Device
from haptic.models.checkpoint import shipped_checkpoint
from haptic.options import TeachingParser, check_config_files, config_files_of, option_faults_named

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
MAX_SHOWN_ERRORS = 20
DEFAULT_DATA = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "haptic" / "benchmarks"


@dataclass(frozen=True)
class EvalConfig:
    """What is scored on what. `methods` None: all that need no extra files; the network's weights ship."""

    out: Path
    benchmark: str = "openhand"
    methods: tuple[str, ...] | None = None
    predictions: dict[str, str] = field(default_factory=dict)  # name: folder, or FORMAT:folder
    shards: dict[str, str] = field(default_factory=dict)  # set: pattern
    shards_dir: Path | None = None  # with what data_prep wrote, DATA_SET/SPLIT-*.tar
    checkpoint: Path | None = None
    hand_model: Path | None = None
    zoedepth: str = ZOEDEPTH
    depth_anything: str = DEPTH_ANYTHING
    wham: Path | None = None
    smpl: Path | None = None
    device: Device = "auto"
    is_quick: bool = False
    seed: int = 0
    workers: int = 1
    data_dir: Path = DEFAULT_DATA
    allow_missing: bool = False
    frames: FramesFormat = "auto"
    export_inputs: Path | None = None
    has_pictures: bool = True
    first_frames: int | None = None  # of each sequence
    is_official: bool = False  # write the file for the set's own scorer
    official_list: Path | None = None  # HO3D's evaluation.txt

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; at least one process is needed")
        if self.first_frames is not None and self.first_frames < 1:
            raise ValueError(f"--first-frames is {self.first_frames}; at least one frame is needed")
        if self.seed < 0:
            raise ValueError(f"--seed is {self.seed}; it must be zero or more")
        if self.is_quick and self.benchmark != "openhand":
            raise ValueError(
                f"--quick: only the openhand benchmark has a quick size; leave it out for {self.benchmark}"
            )
        for name in self.chosen_methods:
            if parse_method(name).needs_network and self.weights is None:
                raise ValueError(
                    f"--methods {name}: needs a network of this hand model; give --checkpoint, or leave the method out"
                )
            if parse_method(name).depth == "wham" and (self.wham is None or self.smpl is None):
                raise ValueError(
                    f"--methods {name}: needs WHAM's results; give --wham DIR with SEQUENCE/wham_output.pkl, and "
                    "SMPL's own file with --smpl, or leave the method out"
                )
        if self.is_official and find_benchmark(self.benchmark, seed=self.seed, is_quick=False).official is None:
            raise ValueError(f"--official: {self.benchmark} has no scorer of its own; freihand, ho3d and ho3d-v2 have")
        both = set(self.chosen_methods) & set(self.predictions)
        if both:
            raise ValueError(f"--predictions {min(both)}: a method has this name; call the system something else")

    @property
    def chosen_methods(self) -> tuple[str, ...]:
        """The methods to run."""
        if self.methods is not None:
            return tuple(dict.fromkeys(parse_method(name).name for name in self.methods))
        return DEFAULT_METHODS + (NETWORK_METHODS if self.weights is not None else ())

    @property
    def weights(self) -> Path | None:
        """The network's: those given, or those that ship, which are the openhand's."""
        return shipped_checkpoint() if self.checkpoint is None and self.hand_model is None else self.checkpoint


def evaluate(config: EvalConfig, *, command: str = "", say: Callable[[str], None] = lambda _text: None) -> Scored:
    """Run what is missing, score everything and write the report; return what it was made from.

    Raises:
        ValueError: data or predictions are missing or cannot be what they are taken for.
    """
    calm_process()
    benchmark = find_benchmark(config.benchmark, seed=config.seed, is_quick=config.is_quick)
    shards = find_shards(benchmark, config.shards, config.shards_dir)
    notes = missing_sets(benchmark, shards)
    for line in notes:
        say(line)
    clips = find_clips(benchmark, shards, config, say)
    if config.first_frames is not None:
        benchmark = beginnings(benchmark, config.first_frames)
        cut = (first_frames(clip, config.first_frames) for clip in clips)
        clips = [clip for clip in cut if clip.hands]
    if config.export_inputs is not None:
        export_inputs(config.export_inputs, clips, ShardStore())
        say(f"the sequences' frames, cameras and boxes are in {config.export_inputs}")
    if not config.chosen_methods and not config.predictions:
        return Scored(benchmark, clips, notes=notes, command=command)
    config.out.mkdir(parents=True, exist_ok=True)
    files = MethodFiles(
        config.out, config.hand_model, config.weights, config.device,
        config.zoedepth, config.depth_anything, config.wham, config.smpl,
    )  # fmt: skip
    _run_missing(config, clips, files, say)
    scored = Scored(benchmark, clips, notes=notes, command=command)
    hand_model = None if config.hand_model is None else load_hand_model(config.hand_model)
    models = HandModels(hand_model)
    for method in config.chosen_methods:
        predictions = {clip.key: read_prediction(files.prediction(method, clip.key)) for clip in clips}
        _score(scored, method, predictions, models)
        _write_official(scored, method, predictions, models, config)
    for name, place in config.predictions.items():
        predictions, lines = read_system(place, name, clips, allow_missing=config.allow_missing, hand_model=hand_model)
        scored.notes.extend(lines)
        _score(scored, name, predictions, models)
        _write_official(scored, name, predictions, models, config)
    write_report(scored, config.out, files, seed=config.seed, frames=config.frames, has_pictures=config.has_pictures)
    return scored


def find_clips(
    benchmark: Benchmark, shards: dict[str, str], config: EvalConfig, say: Callable[[str], None]
) -> list[EvalClip]:
    """Return all sequences of the benchmark; those of openhand are made if they are not there."""
    store = ShardStore()
    if not benchmark.makes_own_data:
        return [
            clip
            for name in benchmark.sets
            if name in shards
            for clip in clips_of_set(name, list_clips(name, expand_shards(shards[name]), store))
        ]
    size = openhand_size(is_quick=config.is_quick)
    folder = data_folder(config.data_dir, size, seed=config.seed)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = clip_jobs(folder, size, seed=config.seed)
    missing = [job for job in jobs if not job.path.is_file()]
    if missing:
        say(f"{len(missing)} synthetic clips are made once, in {folder}")
    for _done in _work(_make, missing, config.workers, "clips", say):
        pass
    return [
        clip
        for name in benchmark.sets
        for clip in list_clips(
            name, local_urls([job.path for job in jobs if f"openhand-{job.recipe.name}" == name]), store
        )
    ]


def _make(job: ClipJob) -> str:
    calm_process()
    make_clip(job)
    return job.path.name


def _run_missing(config: EvalConfig, clips: list[EvalClip], files: MethodFiles, say: Callable[[str], None]) -> None:
    jobs = []
    for clip in clips:
        methods = tuple(method for method in config.chosen_methods if not is_done(method, clip, files))
        if methods:
            jobs.append(MethodJob(clip, methods, files))
    done = len(clips) * len(config.chosen_methods) - sum(len(job.methods) for job in jobs)
    if done:
        say(f"{done} predictions are there already")
    for _key in _work(run_methods, jobs, config.workers, "sequences", say):
        pass


def _write_official(
    scored: Scored, method: str, predictions: dict[str, Prediction], models: HandModels, config: EvalConfig
) -> None:
    """Write `official/METHOD/pred.json` if it is asked for."""
    kind = scored.benchmark.official
    if kind is None or not config.is_official:
        return
    path = config.out / "official" / folder_name(method) / "pred.json"
    scored.notes.extend(write_official(path, kind, scored.clips, predictions, models, config.official_list))


def _score(scored: Scored, method: str, predictions: dict[str, Prediction], models: HandModels) -> None:
    """Score one method on all sequences; what cannot be right is refused, all of it at once."""
    errors = []
    for clip in scored.clips:
        try:
            pairs, notes = pair_hands(clip, predictions[clip.key])
        except ValueError as error:
            errors.append(str(error))
            continue
        scored.notes.extend(notes)
        scored.notes.extend(f"{method}, {clip.key}: {note}" for note in predictions[clip.key].notes)
        protocols = [protocol for protocol in scored.benchmark.protocols if protocol.data_set == clip.set_name]
        _score_clip(scored, method, pairs, protocols, models)
    scored.notes.extend(coverage_notes(scored, method))
    if errors:
        more = f"\n... and {len(errors) - MAX_SHOWN_ERRORS} more" if len(errors) > MAX_SHOWN_ERRORS else ""
        raise ValueError("\n".join(errors[:MAX_SHOWN_ERRORS]) + more)


def coverage_notes(scored: Scored, method: str) -> list[str]:
    """Say of which sets a method left hands out: means are over what it told, which may be the easy part."""
    notes = []
    pairs = [pair for (of, _clip, _hand), pair in scored.pairs.items() if of == method]
    for name in dict.fromkeys(clip.set_name for clip in scored.clips):
        told = [pair.predicted for pair in pairs if pair.clip.set_name == name]
        count, known = sum(int(one.sum()) for one in told), sum(len(one) for one in told)
        if count < known:
            notes.append(
                f"{method}, {name}: {count} of {known} hand-frames ({100 * count / known:.1f} %) were predicted; only "
                "COVERAGE columns count the others"
            )
    return notes


def _score_clip(
    scored: Scored, method: str, pairs: list[PairedHand], protocols: Sequence[Protocol], models: HandModels
) -> None:
    """Score the hands of one sequence, one by one and together."""
    functions = {metric.function for protocol in protocols for metric in protocol.metrics}
    for pair in pairs:
        scored.pairs[method, pair.clip.key, pair.name] = pair
    if functions & NEED_MESHES:
        pairs = [_with_mesh(scored, method, pair, models) for pair in pairs]
    for protocol in protocols:
        for pair in pairs:
            if protocol.hands == "right" and not bool(pair.clip.labels(pair.name).is_right):
                continue
            found, notes = score_hand(pair, protocol, method)
            scored.sequences.extend(found)
            scored.notes.extend(note for note in notes if note not in scored.notes)
            if protocol is protocols[-1]:
                scored.frames.append(frame_scores(pair, method, protocol.data_set))
        faces = load_hand_model().faces if "penetration_volume" in functions else None  # MANO's are the same
        both, notes = score_two_hands(pairs, protocol, method, faces)
        scored.sequences.extend(both)
        scored.notes.extend(notes)


def _with_mesh(scored: Scored, method: str, pair: PairedHand, models: HandModels) -> PairedHand:
    mesh, why = pair_meshes(pair, models)
    if why and bool(pair.predicted.any()):
        note = f"{method}: columns of vertices are left out where {why}"
        if note not in scored.notes:
            scored.notes.append(note)
    return pair if mesh is None else replace(pair, mesh=mesh)


def _work(
    task: Callable[[JobT], ResultT], jobs: Sequence[JobT], workers: int, what: str, say: Callable[[str], None]
) -> Iterator[ResultT]:
    """Go through the results as they come, and say how far it is; a worker that dies takes the run with it."""
    started = time.monotonic()

    def told(results: Iterator[ResultT]) -> Iterator[ResultT]:
        for done, result in enumerate(results, start=1):
            each = (time.monotonic() - started) / done
            say(f"{what}: {done} of {len(jobs)}, {each:.1f} s each, {each * (len(jobs) - done):.0f} s left")
            yield result

    if workers == 1 or len(jobs) < 2:
        yield from told(map(task, jobs))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(task, job) for job in jobs]
        try:
            yield from told(future.result() for future in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in multiprocessing.active_children():  # files appear whole or not at all
                worker.terminate()
            raise


# --- the command line ------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 all scored, 2 something cannot be used, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        config = read_config(given)
        scored = evaluate(config, command="python -m haptic.evaluation.runner " + shlex.join(given), say=_say)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        return 130
    except (ValueError, OSError) as error:
        _say(str(error))
        return 2
    if scored.console:
        print(scored.console)  # noqa: T201
    for note in dict.fromkeys(scored.notes):
        _say(f"note: {note}")
    if scored.sequences:
        what = "tables, pictures and the methods' predictions" if config.methods != () else "tables and pictures"
        _say(f"{what} are in {config.out}")
    return 0


def read_config(arguments: Sequence[str]) -> EvalConfig:
    """Return what the command line and its YAML files ask for.

    Raises:
        ValueError: an argument is unknown, of a wrong type, or asks for what is not there.
    """
    parser, files = build_parser(), config_files_of(arguments)
    check_config_files(parser, files)
    with option_faults_named(parser, files, arguments):
        options = parser.parse_args(list(arguments))
    values = {name: value for name, value in options.as_dict().items() if name != "config"}
    return EvalConfig(
        out=Path(values["out"] or f"results/{values['benchmark']}{'-quick' if values['quick'] else ''}"),
        benchmark=values["benchmark"],
        methods=None if values["methods"] is None else tuple(values["methods"]),
        predictions=_pairs("--predictions", values["predictions"], "NAME=DIR"),
        shards=_pairs("--shards", values["shards"], "SET=PATTERN"),
        shards_dir=_path(values["shards_dir"]),
        checkpoint=_path(values["checkpoint"]),
        hand_model=_path(values["hand_model"]),
        zoedepth=values["zoedepth"],
        depth_anything=values["depth_anything"],
        wham=_path(values["wham"]),
        smpl=_path(values["smpl"]),
        device=values["device"],
        is_quick=values["quick"],
        seed=values["seed"],
        workers=values["workers"],
        data_dir=Path(values["data_dir"]).expanduser(),
        allow_missing=values["allow_missing"],
        frames=values["frames"],
        export_inputs=_path(values["export_inputs"]),
        has_pictures=values["pictures"],
        first_frames=values["first_frames"],
        is_official=values["official"],
        official_list=_path(values["official_list"]),
    )


def build_parser() -> ArgumentParser:
    """Return the parser; `--config` takes YAML files with any of the options (configs/eval/)."""
    parser = TeachingParser(
        prog="python -m haptic.evaluation.runner",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
        default_env=False,
    )
    add = parser.add_argument
    add("--config", action="config", help="YAML file with any of these options; may be given again")
    add("--benchmark", type=str, default="openhand", help=f"one of {', '.join(NAMES)}")
    add("--out", type=str | None, default=None,
        help="folder for tables, pictures and predictions (default: results/BENCHMARK)")  # fmt: skip
    add("--methods", type=str, nargs="*", default=None, help="haptic/evaluation/baselines.py names them")
    add("--predictions", type=str, nargs="*", default=[], help="NAME=DIR: another system's results")
    add("--shards", type=str, nargs="*", default=[], help="SET=PATTERN: where a set's shards are")
    add("--shards-dir", type=str | None, default=None, help="what data_prep wrote: DATA_SET/SPLIT-*.tar")
    add("--checkpoint", type=str | None, default=None, help="the network's weights (default: those that ship)")
    add("--hand-model", type=str | None, default=None, help="MANO_RIGHT.pkl, for weights trained on it")
    add("--zoedepth", type=str, default=ZOEDEPTH, help="folder or hub name of its weights, for BASE/zoedepth")
    add("--depth-anything", type=str, default=DEPTH_ANYTHING, help="the same, for BASE/depth-anything")
    add("--wham", type=str | None, default=None, help="folder with SEQUENCE/wham_output.pkl, for BASE/wham")
    add("--smpl", type=str | None, default=None, help="SMPL_NEUTRAL.pkl, whose wrists WHAM's bodies have")
    add("--device", type=Device, default="auto", help="for the network")
    add("--quick", action=ActionYesNo(no_prefix="no-"), default=False, help="openhand: 12 clips of 32 frames")
    add("--seed", type=int, default=0, help="of the synthetic sets and of the bootstrap")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    add("--data-dir", type=str, default=str(DEFAULT_DATA), help="where synthetic sets are kept")
    add("--allow-missing", action=ActionYesNo(no_prefix="no-"), default=False,
        help="score systems that lack sequences; their coverage says so")  # fmt: skip
    add("--frames", type=FramesFormat, default="auto", help="format of the numbers per frame")
    add("--export-inputs", type=str | None, default=None, help="write frames, cameras and boxes for other systems")
    add("--pictures", action=ActionYesNo(no_prefix="no-"), default=True, help="plots and strips")
    add("--first-frames", type=int | None, default=None, help="only so many frames of each sequence")
    add("--official", action=ActionYesNo(no_prefix="no-"), default=False,
        help="freihand, ho3d: write official/METHOD/pred.json for the set's own scorer")  # fmt: skip
    add("--official-list", type=str | None, default=None, help="HO3D's evaluation.txt: the order of its scorer")
    return parser


def _pairs(flag: str, texts: Sequence[str], form: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (sign and name and value):
            raise ValueError(f"{flag} {text}: expected {form}")
        if name in pairs:
            raise ValueError(f"{flag} {name}: given twice")
        pairs[name] = value
    return pairs


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
