"""Every config that ships is read and made into what it configures."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.registry import all_data_sets
from haptic.cli.train import build_parser
from haptic.data.datamodule import DataConfig
from haptic.models.haptic import Haptic, HapticConfig
from haptic.training.optimisation import OptimConfig
from haptic.training.run import RunConfig

CONFIGS = sorted((Path(__file__).parent.parent.parent / "configs/train").glob("*.yaml"))
# These change one thing of another file.
LAYERS = ("no_image_data", "no_cross_view", "no_global", "flip_order")
BASES = {
    **dict.fromkeys(LAYERS, ("haptic",)),
    "openhand_tiny_second": ("openhand_tiny",),
    "openhand_tiny_third": ("openhand_tiny", "openhand_tiny_second"),
}


def read(path):
    bases = [path.with_name(f"{name}.yaml") for name in BASES.get(path.stem, ())]
    arguments = [word for one in [*bases, path] for word in ("--config", str(one))]
    parser = build_parser()
    return parser.instantiate(parser.parse_args(arguments))


def test_all_recipes_of_the_paper_are_there_and_our_own():
    ours = {"haptic", "finetune", "openhand_tiny", "openhand_tiny_second", "openhand_tiny_third", "smoke"}
    assert {path.stem for path in CONFIGS} == ours | set(LAYERS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_is_read_into_the_classes_it_configures(path):
    parts = read(path)
    assert isinstance(parts.run, RunConfig)
    assert isinstance(parts.data, DataConfig)
    assert isinstance(parts.optim, OptimConfig)
    header = path.read_text().split("\n\n")[0]
    for word in ("Command", "Hardware", "Hours", "Reached"):
        assert f"# {word}" in path.read_text(), f"{path.name} does not say its {word}: {header}"


def test_each_ablation_changes_what_it_says():
    found = {name: read(CONFIGS[0].with_name(f"{name}.yaml")) for name in LAYERS}
    added = {name: tuple(parts.network.decoder.added_attention) for name, parts in found.items()}
    assert added == {
        "no_image_data": ("cross_view", "global"),
        "no_cross_view": ("global",),
        "no_global": ("cross_view",),
        "flip_order": ("global", "cross_view"),
    }
    assert [name for name, parts in found.items() if not parts.data.image] == ["no_image_data"]
    assert all(parts.network.backbone.drop_path == 0.55 for parts in found.values())


def test_the_paper_s_recipe_has_the_official_numbers():
    parts = read(CONFIGS[0].with_name("haptic.yaml"))
    assert replace(parts.network) == HapticConfig()
    assert (parts.optim.lr, parts.optim.weight_decay, parts.optim.schedule) == (1e-5, 1e-4, "constant")
    assert (parts.data.windows_per_batch, parts.data.clip_frames, parts.data.images_per_batch) == (8, 8, 8)
    assert sum(parts.data.image.values()) == pytest.approx(1.0)


def test_the_paper_s_recipe_finds_its_video_sets_where_data_prep_writes_them():
    sets = read(CONFIGS[0].with_name("haptic.yaml")).data.sets
    known = all_data_sets()
    for name, one in sets.items():
        if one.format == "haptic":
            folder, file = one.shards.split("/")[-2:]
            assert file.removesuffix("-*.tar") in known[folder].splits, name


def test_the_shipped_networks_weights_stay_below_forty_megabytes_in_half_precision():
    network = Haptic(read(CONFIGS[0].with_name("openhand_tiny.yaml")).network)
    assert sum(value.numel() for value in network.state_dict().values()) * 2 < 40e6


def test_the_default_network_s_second_run_goes_on_from_its_first():
    first, second = (read(CONFIGS[0].with_name(f"{name}.yaml")) for name in ("openhand_tiny", "openhand_tiny_second"))
    assert second.run.init == f"{first.run.out}/last.ckpt"
    sees_box = replace(first.network.decoder, sees_box=True)
    assert second.network == replace(first.network, box_share=0.5, decoder=sees_box)


def test_the_default_network_s_third_run_goes_on_from_its_second():
    second, third = (read(CONFIGS[0].with_name(f"openhand_tiny_{name}.yaml")) for name in ("second", "third"))
    assert third.run.init == f"{second.run.out}/last.ckpt"
    assert third.network == replace(second.network, decoder=replace(second.network.decoder, sees_joints=True))
