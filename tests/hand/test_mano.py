"""The user's licensed MANO file is read without chumpy, and nothing in a pickle is ever run."""

import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from haptic.files import UnsafePickleError, find_asset
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.mano import read_hand_model_data
from haptic.hand.model import OPENHAND, load_hand_model
from haptic.records import HandParams


class Foreign:
    """An object of a class that is not installed: pickled by its name, with a dict as its state (Python 2 style)."""

    def __init__(self, module: str, name: str, state: dict) -> None:
        self.module, self.name, self.state = module, name, state


def python2_pickle(value: object) -> bytes:  # noqa: PLR0915 (one branch per kind of value)
    """Write protocol 2 with `copy_reg._reconstructor(cls, object, None)` and BUILD, as Python 2 wrote MANO's files."""
    out = io.BytesIO()
    out.write(b"\x80\x02")

    def write(item: object) -> None:
        if isinstance(item, Foreign):
            out.write(b"ccopy_reg\n_reconstructor\n")
            out.write(f"c{item.module}\n{item.name}\n".encode())
            out.write(b"c__builtin__\nobject\nN\x87R")
            write(item.state)
            out.write(b"b")
        elif isinstance(item, dict):
            out.write(b"}(")
            for key, part in item.items():
                write(key)
                write(part)
            out.write(b"u")
        elif isinstance(item, str):
            data = item.encode("latin-1")
            out.write(b"T" + struct.pack("<i", len(data)) + data)
        elif isinstance(item, tuple):
            out.write(b"(")
            for part in item:
                write(part)
            out.write(b"t")
        elif isinstance(item, int):
            out.write(b"J" + struct.pack("<i", item))
        elif isinstance(item, np.ndarray):
            array = np.ascontiguousarray(item)
            out.write(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n")
            write((0,))
            write("b")
            out.write(b"\x87R")
            out.write(b"(")
            write(1)
            write(array.shape)
            out.write(b"cnumpy\ndtype\n")
            write(array.dtype.str[1:])
            out.write(b"K\x00K\x01\x87R")
            out.write(b"(K\x03")
            write(array.dtype.str[0])
            out.write(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
            out.write(b"\x89")
            write(array.tobytes().decode("latin-1"))
            out.write(b"tb")
        else:
            raise TypeError(type(item))

    write(value)
    out.write(b".")
    return out.getvalue()


@pytest.fixture(scope="module")
def openhand() -> dict[str, np.ndarray]:
    with np.load(find_asset(OPENHAND), allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture
def licensed_file(openhand, tmp_path) -> Path:
    """A pickle with exactly the classes of MANO_RIGHT.pkl: scipy's csc_matrix, chumpy's Ch and Select."""
    regressor = openhand["J_regressor"].astype(np.float64)
    rows, columns = np.nonzero(regressor.T)  # column-major order
    indptr = np.searchsorted(rows, np.arange(779)).astype(np.int32)
    sparse = Foreign(
        "scipy.sparse.csc",
        "csc_matrix",
        {
            "_shape": (16, 778),
            "maxprint": 50,
            "data": regressor.T[rows, columns],
            "indices": columns.astype(np.int32),
            "indptr": indptr,
        },
    )
    twenty = np.concatenate([openhand["shapedirs"], np.full((778, 3, 10), 7.0)], axis=-1).astype(np.float64)
    chosen = np.arange(twenty.size).reshape(twenty.shape)[..., :10].ravel()
    select = Foreign(
        "chumpy.reordering",
        "Select",
        {"a": Foreign("chumpy.ch", "Ch", {"x": twenty}), "idxs": chosen, "preferred_shape": (778, 3, 10)},
    )
    content = {
        "J_regressor": sparse,
        "shapedirs": select,
        "v_template": Foreign("chumpy.ch", "Ch", {"x": openhand["v_template"].astype(np.float64)}),
        "bs_style": "lbs",
    }
    for key in ("f", "weights", "posedirs", "kintree_table", "hands_mean", "hands_components"):
        content[key] = openhand[key]
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(python2_pickle(content))
    return path


def test_the_licensed_layout_gives_the_same_hand_as_plain_arrays(licensed_file):
    ours, theirs = load_hand_model(), load_hand_model(licensed_file)
    generator = torch.Generator().manual_seed(0)
    params = HandParams(
        global_orient=rotation_from_aa(torch.randn(2, 3, generator=generator)),
        hand_pose=rotation_from_aa(torch.randn(2, 15, 3, generator=generator) * 0.3),
        betas=torch.randn(2, 10, generator=generator),
        transl=torch.zeros(2, 3),
    )
    torch.testing.assert_close(ours(params).verts, theirs(params).verts, atol=1e-7, rtol=0)
    assert ours.name == theirs.name  # the openhand in whatever file is the openhand


def test_the_synthetic_file_of_the_goldens_loads(shared_dir):
    model = load_hand_model(shared_dir / "golden" / "synthetic_MANO_RIGHT.pkl")
    assert model.name.startswith("mano-")


def test_the_fast_joints_equal_the_mesh_joints():
    model = load_hand_model()
    generator = torch.Generator().manual_seed(1)
    params = HandParams(
        global_orient=rotation_from_aa(torch.randn(2, 4, 3, generator=generator)),
        hand_pose=rotation_from_aa(torch.randn(2, 4, 15, 3, generator=generator) * 0.5),
        betas=torch.randn(2, 4, 10, generator=generator),
        transl=torch.randn(2, 4, 3, generator=generator),
    )
    torch.testing.assert_close(model.joints(params), model(params).joints, atol=2e-6, rtol=0)


def test_the_wrist_lies_at_its_rest_place_plus_the_translation():
    model = load_hand_model()
    betas = torch.randn(5, 10, generator=torch.Generator().manual_seed(2))
    params = HandParams(
        global_orient=rotation_from_aa(torch.randn(5, 3, generator=torch.Generator().manual_seed(3))),
        hand_pose=torch.eye(3).expand(5, 15, 3, 3),
        betas=betas,
        transl=torch.ones(5, 3),
    )
    expected = model.rest_joints(betas)[:, 0] + 1
    torch.testing.assert_close(model(params).joints[:, 0], expected, atol=1e-6, rtol=0)


def test_an_empty_batch_gives_an_empty_mesh():
    params = HandParams(torch.zeros(0, 3, 3), torch.zeros(0, 15, 3, 3), torch.zeros(0, 10), torch.zeros(0, 3))
    assert load_hand_model()(params).verts.shape == (0, 778, 3)


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


class HostileEval:
    def __reduce__(self):
        return (eval, ("open('/tmp/never', 'w')",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_runs_nothing_and_is_refused_by_name(tmp_path, protocol):
    target = tmp_path / "ran"
    path = tmp_path / "MANO_RIGHT.pkl"
    path.write_bytes(pickle.dumps({"v_template": Hostile(target)}, protocol=protocol))
    with pytest.raises(UnsafePickleError, match=r"touch|getattr|Path"):
        read_hand_model_data(path)
    assert not target.exists()
    path.write_bytes(pickle.dumps(HostileEval(), protocol=protocol))
    with pytest.raises(UnsafePickleError, match="eval"):
        read_hand_model_data(path)


def changed(openhand: dict, **changes) -> dict:
    return {key: value for key, value in {**openhand, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v_template": np.zeros((6890, 3))}, r"v_template.*\(6890, 3\).*\(778, 3\)"),
        ({"posedirs": None}, "no array 'posedirs'"),
        ({"weights": np.full((778, 16), np.nan)}, "NaN"),
        ({"kintree_table": np.zeros((2, 16), dtype=np.int64)}, "kinematic tree"),
        ({"f": np.full((1538, 3), 778)}, "vertices outside"),
        ({"hands_mean": np.zeros(30)}, "hands_mean"),
    ],
)
def test_a_hand_model_with_a_fault_is_refused_in_one_line(openhand, tmp_path, changes, message):
    path = tmp_path / "hand.npz"
    np.savez(path, **changed(openhand, **changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_hand_model_data(path)
    assert "\n" not in str(caught.value)


def test_a_left_hand_is_refused_as_a_hand_model(openhand, tmp_path):
    path = tmp_path / "MANO_LEFT.npz"
    np.savez(path, **changed(openhand, v_template=openhand["v_template"] * [-1, 1, 1]))
    with pytest.raises(ValueError, match="left hand"):
        read_hand_model_data(path)


@pytest.mark.parametrize("name", ["hand.pkl", "hand.npz", "hand.txt", "absent.pkl"])
def test_a_file_that_is_no_hand_model_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    if not name.startswith("absent"):
        path.write_text("this is not a hand")
    with pytest.raises(ValueError, match=name) as caught:
        read_hand_model_data(path)
    assert "\n" not in str(caught.value)
