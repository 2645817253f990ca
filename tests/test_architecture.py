"""House rules: who may import whom, where each outside package lives, and that the shape checker is awake."""

import ast
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import haptic
from haptic.geometry.rotations import rotation_from_aa

PACKAGE = Path(haptic.__file__).parent
REPOSITORY = Path(__file__).parent.parent
FLOORS = {
    "records": 0, "files": 0, "memory": 0, "options": 0,
    "geometry": 1,
    "hand": 2,
    "losses": 3, "metrics": 3, "models": 3, "data": 3, "perception": 3, "vis": 3, "export": 3,
    "training": 4, "inference": 4, "refinement": 4,
    "pipeline": 5,
    "evaluation": 6,
    "cli": 7, "__main__": 7,
}  # fmt: skip
HOMES = {
    "pytorch_lightning": {"training", "data"},
    "wandb": {"training"},
    "webdataset": {"data", "data_prep"},
    "smplx": {"hand"},
    "timm": {"models"},
    "mediapipe": {"perception"},
    "embreex": {"geometry"},
    "trimesh": {"geometry"},
    "av": {"perception", "vis", "data"},
    "viser": {"export"},
    "matplotlib": {"vis"},
    "transformers": {"evaluation"},
    "jsonargparse": {"cli", "evaluation", "options"},  # the entry points, and what reads their files
}


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Every module a file imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            modules.add(node.module or "")
            modules.update(f"{node.module}.{alias.name}" for alias in node.names)
    return modules


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in source_files()} - {"__init__", "assets"}
    assert rooms <= set(FLOORS), f"rooms without a floor: {rooms - set(FLOORS)}"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_floors_below_its_own(path):
    room = room_of(path)
    if room == "__init__":
        return
    for module in imported_modules(path):
        if not module.startswith("haptic."):
            continue
        other = module.split(".")[1]
        if other == room or other not in FLOORS:
            continue
        assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {module} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_outside_packages_stay_in_their_homes(path):
    for module in imported_modules(path):
        homes = HOMES.get(module.split(".")[0])
        assert homes is None or room_of(path) in homes, f"{module} belongs in {homes}"


def test_no_init_file_re_exports_anything():
    for path in PACKAGE.rglob("__init__.py"):
        assert not imported_modules(path), f"{path} imports"


def test_every_file_opens_with_what_it_is():
    folders = ("haptic", "data_prep", "benchmarks", "tests", "checkpoints")
    for path in (file for folder in folders for file in (REPOSITORY / folder).rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_a_wrong_shape_is_caught_while_tests_run():
    with pytest.raises(TypeCheckError):
        rotation_from_aa(torch.zeros(4, 2))
