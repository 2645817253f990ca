"""Hand model files in MANO's layout: the user's licensed pkl or npz, and the openhand's npz; read without chumpy."""

import contextlib
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haptic.files import load_plain_npz, load_plain_pickle, reading
from haptic.hand.joints import MANO_PARENTS

EXPECTED_SHAPES = {
    "v_template": (778, 3),
    "f": (1538, 3),
    "J_regressor": (16, 778),
    "weights": (778, 16),
    "shapedirs": (778, 3, 10),
    "posedirs": (778, 3, 135),
    "kintree_table": (2, 16),
}


# A model outside these is not in metres (the recorded random model of the tests measures about one).
MIN_EXTENT_M, MAX_EXTENT_M = 0.05, 2.0
MAX_WEIGHT_ERROR = 1e-2


@dataclass(frozen=True)
class HandModelData:
    """The arrays of a right hand under MANO's own names, checked; lengths in metres."""

    name: str
    v_template: np.ndarray
    f: np.ndarray
    J_regressor: np.ndarray
    weights: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray
    kintree_table: np.ndarray
    hands_mean: np.ndarray
    hands_components: np.ndarray


def read_hand_model_data(path: Path, *, family: str = "mano") -> HandModelData:
    """Read and check a hand model. Its name is the family and eight digits of a hash of its numbers.

    Raises:
        ValueError: missing file, unknown kind of file, missing array, wrong shape, a left hand, or an unsafe pickle.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: {what}; --hand-model takes MANO_RIGHT.pkl or an npz in the same layout")
    with reading(path, "MANO_RIGHT.pkl, or an npz in the same layout"):
        return _checked_data(_read_arrays(path), path, family)


def _checked_data(raw: dict[str, Any], path: Path, family: str) -> HandModelData:
    arrays: dict[str, np.ndarray] = {}
    for key, shape in EXPECTED_SHAPES.items():
        arrays[key] = _checked(raw, key, shape, path)
    parents = arrays["kintree_table"][0].astype(np.int64).copy()
    parents[0] = -1
    if tuple(parents.tolist()) != MANO_PARENTS:
        raise ValueError(f"{path}: the kinematic tree is {tuple(parents.tolist())}; a MANO hand has {MANO_PARENTS}")
    if not np.array_equal(arrays["f"], np.round(arrays["f"])):
        raise ValueError(f"{path}: 'f' holds broken numbers; it names vertices")
    sums = arrays["weights"].sum(axis=1)
    if arrays["weights"].min() < -MAX_WEIGHT_ERROR or np.abs(sums - 1).max() > MAX_WEIGHT_ERROR:
        raise ValueError(
            f"{path}: the skinning 'weights' of a vertex add up to {sums[np.abs(sums - 1).argmax()]:.3g}; expected "
            "numbers from 0 up that add up to 1"
        )
    if arrays["f"].min() < 0 or arrays["f"].max() >= 778:
        raise ValueError(f"{path}: 'f' names vertices outside 0..777")
    _refuse_left(arrays, path)
    extent_m = float(np.ptp(arrays["v_template"], axis=0).max())
    if not MIN_EXTENT_M < extent_m < MAX_EXTENT_M:
        raise ValueError(
            f"{path}: the hand measures {extent_m:.3g} along its longest side; expected about 0.2 m; in millimetres?"
        )
    raw = {"hands_mean": np.zeros(45), "hands_components": np.eye(45), **raw}
    mean = _checked({"hands_mean": np.ravel(raw["hands_mean"])}, "hands_mean", (45,), path).astype(np.float64)
    components = _checked(raw, "hands_components", (45, 45), path).astype(np.float64)
    digest = hashlib.sha256()
    for key in ("v_template", "shapedirs", "posedirs", "weights", "J_regressor"):
        digest.update(np.ascontiguousarray(arrays[key], dtype="<f4").tobytes())
    return HandModelData(
        name=f"{family}-{digest.hexdigest()[:8]}", hands_mean=mean, hands_components=components, **arrays
    )


def mano_layer(data: HandModelData) -> Any:
    """Return smplx's MANOLayer over these arrays (rotation matrices in, no mean pose added)."""
    import smplx
    from smplx.utils import Struct

    struct = Struct(
        v_template=data.v_template,
        f=data.f,
        J_regressor=data.J_regressor,
        weights=data.weights,
        shapedirs=data.shapedirs,
        posedirs=data.posedirs,
        kintree_table=data.kintree_table,
        hands_mean=data.hands_mean,
        hands_components=data.hands_components,
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a warning about ten shape coefficients
        return smplx.MANOLayer(
            model_path="MANO_RIGHT", data_struct=struct, is_rhand=True, use_pca=False, flat_hand_mean=True
        )


def _read_arrays(path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".npz":
        try:
            return load_plain_npz(path)
        except ValueError as error:
            raise ValueError(f"{path}: not a readable npz of plain arrays ({error})") from None
    if path.suffix.lower() != ".pkl":
        raise ValueError(f"{path}: a hand model is a .pkl or .npz in MANO's layout, not {path.suffix or 'this'}")
    raw = load_plain_pickle(path)
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: the pickle holds a {type(raw).__name__}; expected MANO's dict of arrays")
    return raw


def _checked(raw: dict[str, Any], key: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    if key not in raw:
        raise ValueError(f"{path}: no array '{key}'; expected MANO's layout with {', '.join(EXPECTED_SHAPES)}")
    array = np.asarray(raw[key])
    if array.shape != shape:
        raise ValueError(f"{path}: '{key}' has shape {array.shape}; MANO's is {shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: '{key}' holds {array.dtype}, not numbers")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: '{key}' holds NaN or infinity")
    return array


def _refuse_left(arrays: dict[str, np.ndarray], path: Path) -> None:
    joints = arrays["J_regressor"] @ arrays["v_template"]
    middle_knuckle, wrist = joints[4], joints[0]
    if middle_knuckle[0] - wrist[0] > 0.02:
        raise ValueError(
            f"{path}: the fingers point to +x, so this is a left hand; give MANO_RIGHT (left ones are mirrored from it)"
        )
