"""The user's MANO files, and the steps from a data set's MANO numbers to the package's parameters.

The package's are absolute rotation matrices (mean pose added), betas of MANO_RIGHT's shape space, and a wrist at
J0(betas) + transl. Data sets differ in four ways: fingers as PCA coefficients or axis-angle, with or without the mean
pose, in a world or camera frame, and by the shape directions their left hands were made with.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from haptic.files import load_plain_pickle
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.joints import FINGERTIP_VERTICES
from haptic.hand.mano import read_hand_model_data
from haptic.hand.mirror import mirror_params
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import HandParams

# Who made a set's joints took these vertices as fingertips: thumb, index, middle, ring, little.
SMPLX_TIPS = FINGERTIP_VERTICES
MANOPTH_RIGHT_TIPS = (745, 317, 444, 556, 673)
MANOPTH_LEFT_TIPS = (745, 317, 445, 556, 673)
TIP_JOINTS = (4, 8, 12, 16, 20)  # in OpenPose order

# `published`: MANO_LEFT.pkl as it is, whose shape directions are not mirrored in x. `mirrored`: with that mended.
LeftShape = Literal["published", "mirrored"]
MIRROR_AA = np.array([1.0, -1.0, -1.0])
MIRROR_X = np.array([-1.0, 1.0, 1.0])
SHAPE_RIDGE = 1e-3  # keeps a refitted shape small in directions that hardly move a vertex


@dataclass(frozen=True)
class ManoNumbers:
    """MANO's numbers as a data set stores them, T frames of one hand; NaN where there are none.

    `finger` has 45 axis-angle numbers, or as many PCA coefficients as the set keeps.
    """

    is_right: bool
    global_aa: Float[np.ndarray, "T 3"]
    finger: Float[np.ndarray, "T C"]
    betas: Float[np.ndarray, "T 10"]
    transl: Float[np.ndarray, "T 3"]
    is_pca: bool
    is_mean_left_out: bool  # smplx's flat_hand_mean=False: the layer adds the mean pose
    left_shape: LeftShape = "mirrored"


@dataclass(frozen=True)
class ManoTruth:
    """The package's parameters, under the names `HandTruth` takes them."""

    global_orient: Float[np.ndarray, "T 3 3"]
    hand_pose: Float[np.ndarray, "T 15 3 3"]
    betas: Float[np.ndarray, "T 10"]
    transl: Float[np.ndarray, "T 3"]


class ManoFiles:
    """MANO_RIGHT, and MANO_LEFT where a set's left hands need its PCA basis."""

    def __init__(self, right: Path, left: Path | None = None) -> None:
        self.right_path, self.left_path = right, left
        self._data = read_hand_model_data(right)
        self._left = None if left is None else _read_left_basis(left)

    @property
    def has_left(self) -> bool:
        """Say whether MANO_LEFT was given."""
        return self._left is not None

    @cached_property
    def model(self) -> HandModel:
        """The right hand, in double precision."""
        return load_hand_model(self.right_path).double()

    @property
    def name(self) -> str:
        """The hand model's name in shards."""
        return self._data.name

    def finger_aa(self, numbers: ManoNumbers) -> Float[np.ndarray, "T 45"]:
        """Return the fingers' absolute axis-angle, of a left hand in MANO_LEFT's convention.

        Raises:
            ValueError: PCA coefficients of a left hand without MANO_LEFT.
        """
        # MANO_LEFT's mean is MANO_RIGHT's mirrored; its PCA basis need not be.
        mean = self._data.hands_mean
        components = self._data.hands_components
        if not numbers.is_right:
            mean = (mean.reshape(15, 3) * MIRROR_AA).reshape(45)
            if self._left is not None:
                mean, components = self._left
            elif numbers.is_pca:
                raise ValueError(
                    "this set stores left hands as PCA coefficients of MANO_LEFT; give the user's own file with "
                    "--mano-left MANO_LEFT.pkl (from mano.is.tue.mpg.de)"
                )
        finger = numbers.finger
        if numbers.is_pca:
            finger = finger @ components[: finger.shape[1]]
        return finger + mean if numbers.is_mean_left_out else finger

    def rest_wrist(
        self, betas: Float[np.ndarray, "T 10"], *, is_right: bool, left_shape: LeftShape = "mirrored"
    ) -> Float[np.ndarray, "T 3"]:
        """Return J0(betas) of a side, with the shape directions that side was made with."""
        wrist = self._data.J_regressor[0]
        template = wrist @ self._data.v_template
        shape = np.einsum("v,vcb->cb", wrist, self._data.shapedirs)
        if is_right:
            return template + betas @ shape.T
        if left_shape == "published":
            shape = shape * MIRROR_X[:, None]  # its x is the right hand's, not mirrored: mirroring again takes it back
        return (template + betas @ shape.T) * MIRROR_X

    def params(
        self,
        numbers: ManoNumbers,
        *,
        rotation: Float[np.ndarray, "T 3 3"] | None = None,
        translation: Float[np.ndarray, "T 3"] | None = None,
    ) -> ManoTruth:
        """Return the package's parameters in the frame that x' = rotation x + translation leads to.

        MANO turns about the wrist, not the origin, so it is the wrist J0(betas) + transl that changes frames.
        """
        count = len(numbers.transl)
        R = np.broadcast_to(np.eye(3), (count, 3, 3)) if rotation is None else rotation
        t = np.zeros((count, 3)) if translation is None else translation
        side = numbers.is_right
        wrist = self.rest_wrist(numbers.betas, is_right=side, left_shape=numbers.left_shape) + numbers.transl
        wrist = np.einsum("tab,tb->ta", R, wrist) + t
        betas = numbers.betas
        if not side and numbers.left_shape == "published":
            betas = betas @ self._refit.T
        return ManoTruth(
            global_orient=R @ matrices(numbers.global_aa),
            hand_pose=matrices(self.finger_aa(numbers).reshape(count, 15, 3)),
            betas=betas,
            transl=wrist - self.rest_wrist(betas, is_right=side),
        )

    def joints(self, numbers: ManoNumbers, *, tips: tuple[int, ...] = SMPLX_TIPS) -> Float[np.ndarray, "T 21 3"]:
        """Return the 21 joints as the set's authors got them: its frame, its left shapes, its fingertip vertices.

        NaN where a number is.
        """
        count = len(numbers.transl)
        fingers = matrices(self.finger_aa(numbers).reshape(count, 15, 3))
        parts = (matrices(numbers.global_aa), fingers, numbers.betas, numbers.transl)
        joints = np.full((count, 21, 3), np.nan)
        known = np.all([np.isfinite(part).reshape(count, -1).all(axis=1) for part in parts], axis=0)
        if not known.any():
            return joints
        params = HandParams(*(torch.from_numpy(np.ascontiguousarray(part[known])) for part in parts))
        is_published_left = not numbers.is_right and numbers.left_shape == "published"
        model = self._published_left if is_published_left else self.model
        params = params if numbers.is_right else mirror_params(params)
        with torch.no_grad():
            if tips == SMPLX_TIPS:
                posed = model.joints(params)
            else:
                mesh = model(params)
                posed = mesh.joints.clone()
                posed[:, list(TIP_JOINTS)] = mesh.verts[:, list(tips)]
        joints[known] = posed.numpy() * (1 if numbers.is_right else MIRROR_X)
        return joints

    @cached_property
    def _published_left(self) -> HandModel:
        """The published MANO_LEFT, turned over: a right hand whose shape directions have x the wrong way."""
        return HandModel(replace(self._data, shapedirs=self._data.shapedirs * MIRROR_X[:, None])).double()

    @cached_property
    def _refit(self) -> np.ndarray:
        """The map from betas of the published MANO_LEFT to those of the mended one that come nearest, in vertices.

        The two span different shapes: what the first calls long, the second calls short. Bones are what counts, so the
        joints weigh as much as the skin.
        """
        skin = self._data.shapedirs
        bones = np.einsum("jv,vcb->jcb", self._data.J_regressor, skin)
        about_wrist = [skin - bones[:1], (bones - bones[:1]) * np.sqrt(len(skin) / len(bones))]
        ours = np.concatenate(about_wrist).reshape(-1, 10)
        theirs = (np.concatenate(about_wrist) * MIRROR_X[:, None]).reshape(-1, 10)
        square = ours.T @ ours
        return np.linalg.solve(square + SHAPE_RIDGE * np.trace(square) / 10 * np.eye(10), ours.T @ theirs)


def matrices(aa: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Return rotation matrices of axis-angle numbers; NaN stays NaN."""
    return rotation_from_aa(torch.from_numpy(np.ascontiguousarray(aa, np.float64))).numpy()


def _read_left_basis(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and PCA basis of MANO_LEFT."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --mano-left takes MANO_LEFT.pkl, or an npz in its layout")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            raw = dict(archive)
    else:
        raw = load_plain_pickle(path)
    lacking = [name for name in ("hands_mean", "hands_components", "J_regressor", "v_template") if name not in raw]
    if lacking:
        raise ValueError(f"{path}: no array {lacking[0]!r}; expected MANO_LEFT.pkl as it is downloaded")
    joints = np.asarray(raw["J_regressor"]) @ np.asarray(raw["v_template"])
    if joints[4, 0] < joints[0, 0]:
        raise ValueError(f"{path}: the fingers point to -x, so this is a right hand; --mano-left takes MANO_LEFT.pkl")
    mean, components = (np.asarray(raw[name], np.float64) for name in ("hands_mean", "hands_components"))
    if mean.size != 45 or components.shape != (45, 45):
        raise ValueError(f"{path}: hands_mean {mean.shape}, hands_components {components.shape}; expected 45 and 45x45")
    return mean.reshape(45), components
