"""Changes of frame of whole clips, in numpy: camera poses, world points in a camera, OpenGL axes."""

import numpy as np
from jaxtyping import Float

OPENGL = np.diag([1.0, -1.0, -1.0])  # x right, y up, z backward -> x right, y down, z forward; its own inverse


def points_in_camera(
    points_world: Float[np.ndarray, "T J 3"], T_cam_world: Float[np.ndarray, "T 4 4"]
) -> Float[np.ndarray, "T J 3"]:
    """Return world points as each frame's camera sees them."""
    return np.einsum("tab,tjb->tja", T_cam_world[:, :3, :3], points_world) + T_cam_world[:, None, :3, 3]


def rigid(rotation: Float[np.ndarray, "T 3 3"], translation: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 4 4"]:
    """Return x' = rotation x + translation as 4 x 4 matrices."""
    transform = np.tile(np.eye(4), (len(rotation), 1, 1))
    transform[:, :3, :3], transform[:, :3, 3] = rotation, translation
    return transform


def inverse(transform: Float[np.ndarray, "T 4 4"]) -> Float[np.ndarray, "T 4 4"]:
    """Return the inverse of rigid transforms."""
    back = np.swapaxes(transform[:, :3, :3], 1, 2)
    return rigid(back, -np.einsum("tab,tb->ta", back, transform[:, :3, 3]))


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """Return K."""
    return np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
