"""The benchmarks: which protocols make up which table of which paper, and what each needs.

Sets are named here and found by the user's `--shards NAME=PATTERN`; only `openhand` makes its own. A set for which no
shards are given is missing, and said to be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from haptic.evaluation.openhand_sets import SETS, OpenhandSize, openhand_size, recipe_digest
from haptic.evaluation.protocols import (
    ACC_M_S2,
    ACC_MM,
    ACC_NORM,
    C_CM,
    C_MM,
    COVERAGE,
    FA,
    G_128,
    GA,
    GA_128,
    JERK,
    PA_AUC,
    PA_CM,
    PA_MM,
    RA_CM,
    RA_MM,
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


@dataclass(frozen=True)
class Benchmark:
    """A table: its protocols, one per set; `published` names its numbers in published.json."""

    name: str
    title: str
    protocols: tuple[Protocol, ...]
    published: str = ""
    makes_own_data: bool = False
    lacking: str = ""  # what the harness cannot score yet, in words

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets it reads."""
        return tuple(dict.fromkeys(protocol.data_set for protocol in self.protocols))


def openhand_benchmark(size: OpenhandSize, *, seed: int, is_quick: bool) -> Benchmark:
    """Return the benchmark that needs nothing: five synthetic sets. The recipe's digest is part of its protocols."""
    split = f"{'quick' if is_quick else 'full'}, recipe {recipe_digest(size, seed=seed)}"
    metrics = (GA, FA, ACC_NORM, PA_CM, RA_CM, C_CM, *w_metrics(100), COVERAGE)
    protocols = tuple(
        Protocol(
            name=f"openhand {recipe.name}",
            data_set=f"openhand-{recipe.name}",
            split=split,
            metrics=metrics,
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


def _hint(data_set: str, splits: tuple[Split, ...] = ()) -> Protocol:
    metrics = tuple(
        Metric("hint_pck", f"PCK@{alpha:g}", "%", options=(("alpha", alpha), ("min_confidence", 0.5)))
        for alpha in (0.05, 0.1, 0.15)
    )
    return Protocol(
        name=f"HInt {data_set}", data_set=data_set, split="test", metrics=metrics, cameras="2D, none",
        box_source="the annotation's box, twice its longer side", sources=HAMER,
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
                _dynhamr("h2o", "test, subject 4", (G_128, GA_128, RA_MM, ACC_MM, RTE, JERK)),
                _dynhamr("hoi4d", "release.txt", (G_128, GA_128, RA_MM, ACC_MM, RTE)),
                _dynhamr("fpha", "test", (RA_MM, PA_MM, ACC_MM)),
                _dynhamr("interhand26m", "30 fps, H+M, interacting, test", (RA_MM, ACC_MM)),
                _dynhamr("hot3d", "val", (JERK, PA_MM, G_128, ACC_MM, ACC_M_S2)),
                _dynhamr("egoexo4d", "val", (JERK, PA_MM, G_128)),
            ),
            "dynhamr", lacking="MPVPE, Pen and FID: predictions carry joints, no meshes",
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
            "freihand", "FreiHAND: PA-MPJPE, and the file for the official scorer",
            (Protocol(name="FreiHAND", data_set="freihand-eval", split="evaluation", metrics=(PA_MM, PA_AUC, COVERAGE),
                      box_source="192:256 expansion of the labelled box", sources=HAMER),),
            "freihand", lacking="MPVPE and F@5/F@15: predictions carry joints, no meshes",
        ),
        Benchmark(
            "ho3d", "HO3D v3: the file for the official scorer",
            (Protocol(name="HO3D", data_set="ho3d-v3-eval", split="evaluation", metrics=(PA_MM, PA_AUC, COVERAGE),
                      box_source="192:256 expansion of the labelled box", sources=HAMER),),
            "ho3d", lacking="MPVPE and F@5/F@15: predictions carry joints, no meshes",
        ),
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


def missing_sets(benchmark: Benchmark, shards: Mapping[str, str]) -> list[str]:
    """Return, for each set without shards, one line that says what to do; refuse if none is left.

    Raises:
        ValueError: shards of a set that the benchmark does not read, or none at all.
    """
    if benchmark.makes_own_data:
        if shards:
            raise ValueError("--shards: the openhand benchmark makes its own data; leave --shards out")
        return []
    unknown = [name for name in shards if name not in benchmark.sets]
    if unknown:
        raise ValueError(f"--shards {unknown[0]}: {benchmark.name} reads {', '.join(benchmark.sets)}")
    lines = [
        f"{benchmark.name}: no shards of {name}; write them as docs/shards.md says and give --shards {name}='DIR/*.tar'"
        for name in benchmark.sets
        if name not in shards
    ]
    if len(lines) == len(benchmark.sets):
        raise ValueError("; ".join(lines))
    return lines
