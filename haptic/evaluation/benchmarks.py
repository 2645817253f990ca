"""The benchmarks: which protocols make up which table of which paper, and what each needs.

Sets are named here and found in `--shards-dir`, where `SHARDS` says which split of `data_prep` they are, or by the
user's `--shards NAME=PATTERN`; only `openhand` makes its own. A set for which no shards are given is missing, and said
to be.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from haptic.evaluation.clips import EvalClip
from haptic.evaluation.openhand_sets import SETS, OpenhandSize, openhand_size, recipe_digest
from haptic.evaluation.protocols import (
    ACC_CAM_M_S2,
    ACC_M_S2,
    ACC_MM,
    ACC_NORM,
    C_CM,
    C_MM,
    COVERAGE,
    F_5,
    F_15,
    FA,
    G_128,
    GA,
    GA_128,
    JERK,
    MRRPE,
    PA_AUC,
    PA_CM,
    PA_MM,
    PA_V,
    PEN,
    RA_CM,
    RA_MM,
    RA_V,
    RTE,
    Metric,
    Protocol,
    Split,
    w_metrics,
)
from haptic.metrics import MissingRule

HAPTIC = "HaPTIC, arXiv 2501.08329; its evaluation code is not public, alignment and averaging are our reading."
DYNHAMR = "Dyn-HaMR, arXiv 2412.12861, section 4 and appendix; no evaluation script is public."
HAND3R = "Hand3R, arXiv 2602.03200; test list, boxes and missing rule as other groups report them."
HAMER = "HaMeR, arXiv 2312.05251."
DEXYCB = "The toolkit's hand pose task on s0 test, root-relative and aligned; MPVPE and F-scores as FreiHAND has them."
ARCTIC = "ARCTIC's leaderboard; its test truth (s03) is not public, so on s05 (val): not the leaderboard's numbers."
INTERHAND = "InterHand2.6M: root-aligned MPJPE of each hand, MRRPE of clips with both."
HELD_OUT = "Made by data_prep.synthetic, see checkpoints/openhand_tiny.md."
OfficialFormat = Literal["freihand", "ho3d"]

MADE = "synthetic"  # what data_prep.synthetic calls its shards; no split of a data set


@dataclass(frozen=True)
class Benchmark:
    """A table: its protocols, one per set; `published` names its numbers in published.json."""

    name: str
    title: str
    protocols: tuple[Protocol, ...]
    published: str = ""
    makes_own_data: bool = False
    lacking: str = ""  # what the harness cannot score yet, in words
    official: OfficialFormat | None = None  # whose scorer takes a file of predictions

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets it reads."""
        return tuple(dict.fromkeys(protocol.data_set for protocol in self.protocols))


@dataclass(frozen=True)
class ShardSource:
    """Which clips of which split that `data_prep` writes a set is made of."""

    data_set: str
    split: str
    keys: str = ""  # a pattern that the whole of a clip's key must match
    has_both_hands: bool = False

    def pattern(self, folder: Path) -> str:
        """Return where `python -m data_prep ... --out FOLDER/DATA_SET` puts its shards."""
        return str(folder / self.data_set / f"{self.split}-*.tar")

    def takes(self, clip: EvalClip) -> bool:
        """Say whether a clip belongs to the set."""
        sides = {bool(hand.labels.is_right) for hand in clip.hands.values()}
        return re.fullmatch(self.keys or ".*", clip.key) is not None and (len(sides) == 2 or not self.has_both_hands)


# A set that is not here is no split of data_prep: its shards are the user's to choose.
SHARDS: dict[str, ShardSource] = {
    "arctic-exo-s05": ShardSource("arctic-exo", "p1_val"),
    "arctic-exo-view0-s05": ShardSource("arctic-exo", "p1_val", keys=r".*_1"),  # view 0 is the head camera's
    "arctic-ego-s05": ShardSource("arctic-ego", "p2_val"),
    "dexycb-s0-val": ShardSource("dexycb", "s0_val"),
    "dexycb-s0-test": ShardSource("dexycb", "s0_test"),
    "hint-newdays": ShardSource("hint", "TEST_newdays_img"),
    "hint-visor": ShardSource("hint", "TEST_epick_img"),
    "hint-ego4d": ShardSource("hint", "TEST_ego4d_img"),
    "h2o": ShardSource("h2o", "test"),
    "hoi4d": ShardSource("hoi4d", "release"),
    "fpha": ShardSource("fpha", "action_test"),
    "interhand26m": ShardSource("interhand26m-30fps", "test", has_both_hands=True),
    "interhand26m-5fps": ShardSource("interhand26m-5fps", "test"),
    "hot3d-hawor27": ShardSource("hot3d", "hawor_aria"),
    "egoexo4d": ShardSource("egoexo4d", "val"),
    "freihand-eval": ShardSource("freihand", "evaluation"),
    "ho3d-v2-eval": ShardSource("ho3d-v2", "evaluation"),
    "ho3d-v3-eval": ShardSource("ho3d-v3", "evaluation"),
    "heldout-allocentric": ShardSource("heldout-allocentric", MADE),
    "heldout-egocentric": ShardSource("heldout-egocentric", MADE),
}


def openhand_benchmark(size: OpenhandSize, *, seed: int, is_quick: bool) -> Benchmark:
    """Return the benchmark that needs nothing: five synthetic sets. The recipe's digest is part of its protocols."""
    split = f"{'quick' if is_quick else 'full'}, recipe {recipe_digest(size, seed=seed)}"
    metrics = (GA, FA, ACC_NORM, PA_CM, RA_CM, C_CM, *w_metrics(100), COVERAGE)
    protocols = tuple(
        Protocol(
            name=f"openhand {recipe.name}",
            data_set=f"openhand-{recipe.name}",
            split=split,
            metrics=(*metrics[:-1], MRRPE, COVERAGE) if recipe.name == "interaction" else metrics,
            sources=f"Synthetic: {recipe.what}.",
        )
        for recipe in SETS
        if size.clips.get(recipe.name, 0)
    )
    return Benchmark("openhand", "The openhand benchmark", protocols, makes_own_data=True)


def _haptic(name: str, data_set: str, split: str, metrics: tuple[Metric, ...], *, more: str = "") -> Protocol:
    return Protocol(name=name, data_set=data_set, split=split, metrics=metrics, sources=HAPTIC + more)


HAPTIC_SETS = (
    ("arctic-exo-s05", "s05 (val), views 1 to 8", " The test truth of ARCTIC is not public: this is validation."),
    ("dexycb-s0-val", "s0 val", ""),
    ("dexycb-s0-test", "s0 test", ""),
    ("arctic-ego-s05", "s05 (val), view 0", " The test truth of ARCTIC is not public: this is validation."),
)
HINT_SETS = ("hint-newdays", "hint-visor", "hint-ego4d")
HINT_SPLITS = (
    Split("small crops", "crop_px", 0, 300),
    Split("middle crops", "crop_px", 300, 700),
    Split("large crops", "crop_px", 700, 1e9),
    Split("square", "crop_aspect", 0, 1.25),
    Split("long", "crop_aspect", 1.25, 1e9),
    Split("middle of the picture", "centre_offset", 0, 0.5),
    Split("edge of the picture", "centre_offset", 0.5, 1e9),
)
OCCLUSION = (
    Split("all", "occlusion", -1, 2),
    Split("hidden 25-50 %", "occlusion", 0.25, 0.5),
    Split("hidden 50-75 %", "occlusion", 0.5, 0.75),
    Split("hidden 75-100 %", "occlusion", 0.75, 2),
)


def _dynhamr(data_set: str, split: str, metrics: tuple[Metric, ...]) -> Protocol:
    return Protocol(
        name=f"Dyn-HaMR {data_set}", data_set=data_set, split=split, metrics=metrics, chunk_frames=128,
        cameras="the system's own, in the world", box_source="the system's own", sources=DYNHAMR,
    )  # fmt: skip


PCK = tuple(
    Metric("hint_pck", f"PCK@{alpha:g}", "%", options=(("alpha", alpha), ("min_confidence", 0.5)))
    for alpha in (0.05, 0.1, 0.15)
)


def _hint(data_set: str, splits: tuple[Split, ...] = ()) -> Protocol:
    return Protocol(
        name=f"HInt {data_set}", data_set=data_set, split="test", metrics=PCK, cameras="2D, none",
        box_source="the annotation's box: three times its longer side for the network, one for the threshold",
        sources=HAMER,
    )  # fmt: skip


def _pictures(name: str, data_set: str) -> Protocol:
    return Protocol(
        name=name, data_set=data_set, split="evaluation", metrics=(PA_MM, PA_V, PA_AUC, F_5, F_15, COVERAGE),
        average="frames", sources=HAMER + " Alignments without reflection; the official scorers allow one.",
    )  # fmt: skip


_TABLE_1 = tuple(
    _haptic(f"HaPTIC Table 1, {name}", name, split, (GA, FA, ACC_NORM), more=more) for name, split, more in HAPTIC_SETS
)

FIXED: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark("haptic-table1", "HaPTIC Table 1: trajectories in the camera", _TABLE_1, "haptic-table1"),
        Benchmark(
            "haptic-table2", "HaPTIC Table 2: refinement, ARCTIC-EXO, view 0 of the static ones",
            (_haptic("HaPTIC Table 2", "arctic-exo-view0-s05", "s05 (val), first static view",
                     (GA, FA, ACC_NORM, PA_CM), more=" 2D joints of the truth."),),
            "haptic-table2",
        ),
        Benchmark("haptic-table3", "HaPTIC Table 3: HInt PCK", tuple(_hint(name) for name in HINT_SETS),
                  "haptic-table3"),
        Benchmark(
            "haptic-table4", "HaPTIC Table 4: pose",
            tuple(_haptic(f"HaPTIC Table 4, {name}", name, split, (PA_CM, RA_CM), more=more)
                  for name, split, more in HAPTIC_SETS),
            "haptic-table4",
        ),
        Benchmark(
            "haptic-table5", "HaPTIC Table 5: ablations, one view of ARCTIC-EXO",
            (_haptic("HaPTIC Table 5", "arctic-exo-view0-s05", "s05 (val), first static view",
                     (GA, FA, ACC_NORM, PA_CM)),),
            "haptic-table5",
        ),
        Benchmark(
            "haptic-table6", "HaPTIC Table 6: HInt PCK by crop size, aspect and place",
            tuple(replace(_hint(name), name=f"HInt {name}, sub-splits", splits=HINT_SPLITS) for name in HINT_SETS),
        ),
        Benchmark(
            "dynhamr", "Dyn-HaMR's tables: 128-frame segments in the world",
            (
                _dynhamr("h2o", "test, subject 4", (G_128, GA_128, RA_MM, ACC_MM, RTE, JERK, PEN)),
                _dynhamr("hoi4d", "release.txt", (G_128, GA_128, RA_MM, ACC_MM, RTE)),
                _dynhamr("fpha", "test", (RA_MM, PA_MM, ACC_MM)),
                _dynhamr("interhand26m", "30 fps, test, clips of both hands", (RA_MM, RA_V, ACC_MM)),
                _dynhamr("hot3d", "val", (JERK, PA_MM, G_128, ACC_MM, ACC_M_S2)),
                _dynhamr("egoexo4d", "val", (JERK, PA_MM, G_128)),
            ),
            "dynhamr", lacking="FID: the network whose features it compares is not public",
        ),
        Benchmark(
            "dexycb", "DexYCB s0 test: joints and mesh, frame by frame",
            (Protocol(name="DexYCB", data_set="dexycb-s0-test", split="s0 test", average="frames", sources=DEXYCB,
                      metrics=(PA_MM, PA_V, RA_MM, RA_V, PA_AUC, F_5, F_15, COVERAGE)),),
        ),
        Benchmark(
            "arctic", "ARCTIC's own measures, on s05",
            tuple(
                Protocol(name=f"ARCTIC {name}", data_set=name, split="s05 (val)", sources=ARCTIC,
                         metrics=(RA_MM, MRRPE, ACC_CAM_M_S2, PA_V, COVERAGE))
                for name in ("arctic-exo-s05", "arctic-ego-s05")
            ),
        ),
        Benchmark(
            "interhand", "InterHand2.6M, 5 fps",
            (Protocol(name="InterHand2.6M", data_set="interhand26m-5fps", split="test", average="frames",
                      metrics=(RA_MM, MRRPE, RA_V, COVERAGE), sources=INTERHAND),),
        ),
        Benchmark(
            "hand3r-table1", "Hand3R Table I: DexYCB by occlusion",
            (Protocol(
                name="Hand3R Table I", data_set="dexycb-s0-test", split="s0 test", metrics=(PA_MM, PA_AUC),
                average="frames", splits=OCCLUSION,
                sources=HAND3R + " No released code defines the share that is hidden: ours is of the 21 joints.",
            ),),
            "hand3r-table1",
        ),
        Benchmark(
            "hand3r-table2", "Hand3R Table II: HOI4D",
            (Protocol(
                name="Hand3R Table II", data_set="hoi4d", split="release.txt",
                metrics=(C_MM, *w_metrics(30), *w_metrics(100)),
                cameras="the system's own, in the world", box_source="the system's own", sources=HAND3R,
            ),),
            "hand3r-table2",
        ),
        Benchmark(
            "hot3d-hawor", "HOT3D as HaWoR scores it",
            (Protocol(
                name="HaWoR HOT3D", data_set="hot3d-hawor27", split="27 Aria sequences, from frame 20", hands="right",
                metrics=(*w_metrics(100), PA_MM, ACC_M_S2, RTE), missing=MissingRule("split", min_run_frames=16),
                average="frames", cameras="the system's own, in the world",
                sources="HaWoR, arXiv 2501.02973, its code.",
            ),),
            "hot3d-hawor",
        ),
        Benchmark(
            "heldout", "Synthetic clips that the shipped network was not trained on",
            tuple(
                Protocol(name=f"held-out {view}", data_set=f"heldout-{view}", split=f"seed {seed}",
                         metrics=(GA, FA, ACC_NORM, PA_CM, RA_CM, *PCK), sources=HELD_OUT)
                for view, seed in (("allocentric", 900), ("egocentric", 901))
            ),
        ),
        Benchmark(
            "freihand", "FreiHAND: joints and mesh after alignment, and the file for the official scorer",
            (_pictures("FreiHAND", "freihand-eval"),), "freihand", official="freihand",
        ),
        Benchmark("ho3d", "HO3D v3: joints and mesh after alignment, and the file for the official scorer",
                  (_pictures("HO3D v3", "ho3d-v3-eval"),), "ho3d", official="ho3d"),
        Benchmark("ho3d-v2", "HO3D v2: joints and mesh after alignment, and the file for the official scorer",
                  (_pictures("HO3D v2", "ho3d-v2-eval"),), official="ho3d"),
    )
}  # fmt: skip
NAMES = ("openhand", *FIXED)


def find_benchmark(name: str, *, seed: int, is_quick: bool) -> Benchmark:
    """Return a benchmark by name.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "openhand":
        return openhand_benchmark(openhand_size(is_quick=is_quick), seed=seed, is_quick=is_quick)
    if name not in FIXED:
        raise ValueError(f"there is no benchmark {name!r}; expected one of {', '.join(NAMES)}")
    return FIXED[name]


def beginnings(benchmark: Benchmark, num_frames: int) -> Benchmark:
    """Return the benchmark of the beginnings of its sequences: other protocols, with hashes of their own."""
    protocols = (replace(one, split=f"{one.split}, first {num_frames} frames") for one in benchmark.protocols)
    return replace(benchmark, protocols=tuple(protocols))


def find_shards(benchmark: Benchmark, shards: Mapping[str, str], folder: Path | None) -> dict[str, str]:
    """Return the patterns of the sets that are there: those given, and what `data_prep` wrote into the folder.

    Raises:
        ValueError: shards of a set that the benchmark does not read.
    """
    if benchmark.makes_own_data:
        if shards or folder is not None:
            raise ValueError("--shards: the openhand benchmark makes its own data; leave it out")
        return {}
    unknown = [name for name in shards if name not in benchmark.sets]
    if unknown:
        raise ValueError(f"--shards {unknown[0]}: {benchmark.name} reads {', '.join(benchmark.sets)}")
    found = dict(shards)
    for name in benchmark.sets:
        source = SHARDS.get(name)
        if name in found or source is None or folder is None:
            continue
        pattern = source.pattern(folder)
        if any(Path(pattern).parent.glob(Path(pattern).name)):
            found[name] = pattern
    return found


def missing_sets(benchmark: Benchmark, found: Mapping[str, str]) -> list[str]:
    """Return, for each set without shards, one line that says what to do; refuse if none is left.

    Raises:
        ValueError: there are no shards at all.
    """
    if benchmark.makes_own_data:
        return []
    lines = [
        f"{benchmark.name}: no shards of {name}; {_how_to_get(name)}" for name in benchmark.sets if name not in found
    ]
    if len(lines) == len(benchmark.sets):
        raise ValueError("; ".join(lines))
    return lines


def _how_to_get(name: str) -> str:
    source = SHARDS.get(name)
    if source is not None and source.split == MADE:
        return f"make them as checkpoints/openhand_tiny.md says, and give --shards-dir, or --shards {name}=PATTERN"
    if source is None:
        return f"write them as docs/shards.md says and give --shards {name}='DIR/*.tar'"
    return (
        f"python -m data_prep {source.data_set} --split {source.split} --out SHARDS/{source.data_set} ..., and give "
        f"--shards-dir SHARDS, or --shards {name}=PATTERN"
    )


def clips_of_set(name: str, clips: Sequence[EvalClip]) -> list[EvalClip]:
    """Return the clips of some shards that belong to a set.

    Raises:
        ValueError: none does.
    """
    source = SHARDS.get(name)
    chosen = [clip for clip in clips if source is None or source.takes(clip)]
    if not chosen:
        raise ValueError(
            f"set {name}: none of the {len(clips)} sequences of its shards belongs to it; expected those that "
            f"data_prep writes for {source.data_set} {source.split}"
            if source
            else f"set {name}: no sequences"
        )
    return chosen
