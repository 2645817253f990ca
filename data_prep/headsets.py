"""What both releases of HOT3D share: MANO in the world, fisheye lenses, and sensors that lie sideways."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float

from data_prep.dataset import HandTruth
from data_prep.fisheye import Fisheye624
from data_prep.frames import inverse, points_in_camera
from data_prep.mano_files import ManoFiles, ManoNumbers

FPS = 30.0
COLOR = "214-1"  # only Aria has it
STREAMS = (COLOR, "1201-1", "1201-2")
PCA = 15
MIN_VISIBLE = 0.1  # as the challenge's crops
QUARTER_TURN = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x' = -y, y' = x


class HeadsetView:
    """A camera whose pictures are straightened, and turned upright if its sensor lies sideways."""

    def __init__(self, lens: Fisheye624, T_world_cam: Float[np.ndarray, "T 4 4"], *, is_sideways: bool) -> None:
        self.lens, self.is_sideways = lens, is_sideways
        K, self.width_px, self.height_px = lens.K, lens.width_px, lens.height_px
        if is_sideways:
            T_world_cam = T_world_cam.copy()
            T_world_cam[:, :3, :3] = T_world_cam[:, :3, :3] @ QUARTER_TURN.T
            turned = K.copy()
            turned[0, 0], turned[1, 1] = K[1, 1], K[0, 0]
            turned[0, 2], turned[1, 2] = self.height_px - 1 - K[1, 2], K[0, 2]
            K, self.width_px, self.height_px = turned, self.height_px, self.width_px
        self.K, self.T_world_cam = np.tile(K, (len(T_world_cam), 1, 1)), T_world_cam

    def hand(self, mano: ManoFiles, side: str, rows: Float[np.ndarray, "T 21"], betas: np.ndarray) -> HandTruth:
        """Return a hand as this view sees it.

        Args:
            rows: 15 PCA coefficients, rotation (axis-angle) and translation in the world; NaN where it is not there.
            betas: (T, 10).
        """
        numbers = ManoNumbers(
            is_right=side == "right", finger=rows[:, :PCA], global_aa=rows[:, PCA : PCA + 3],
            transl=rows[:, PCA + 3 :], betas=betas, is_pca=True, is_mean_left_out=True, left_shape="mirrored",
        )  # fmt: skip
        T_cam_world = inverse(self.T_world_cam)
        truth = mano.params(numbers, rotation=T_cam_world[:, :3, :3], translation=T_cam_world[:, :3, 3])
        return HandTruth(
            is_right=side == "right",
            K=self.K,
            joints_cam=points_in_camera(mano.joints(numbers), T_cam_world),
            T_world_cam=self.T_world_cam,
            **vars(truth),
        )


class HeadsetPictures:
    """The pictures of a view. `read_raw` gives a frame as the sensor took it."""

    def __init__(self, read_raw: Callable[[int], np.ndarray], view: HeadsetView) -> None:
        self._read_raw, self._view = read_raw, view
        self._straighten: Callable[[np.ndarray], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._view.K)

    def read(self, frame: int) -> np.ndarray:
        """Return a frame."""
        self._straighten = self._straighten or self._view.lens.straightened()
        straight = self._straighten(self._read_raw(frame))
        return cv2.rotate(straight, cv2.ROTATE_90_CLOCKWISE) if self._view.is_sideways else straight


def quaternion_aa(wxyz: np.ndarray) -> Float[np.ndarray, " 3"]:
    """Return the axis-angle of a quaternion."""
    w, *rest = np.asarray(wxyz, np.float64)
    length = float(np.linalg.norm(rest))
    return 2 * np.arctan2(length, w) * np.array(rest) / max(length, 1e-12)


def quaternion_pose(wxyz: np.ndarray, xyz: np.ndarray) -> Float[np.ndarray, "4 4"]:
    """Return a rigid transform from a quaternion and a translation."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(quaternion_aa(wxyz))[0], np.asarray(xyz, np.float64)
    return pose
