"""From what a data set says of a hand to what lies in a shard: weights for NaN, 2D from 3D, boxes, tracks with gaps."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float

from data_prep.dataset import HandTruth, SourceClip
from haptic.data.samples import MIN_BOX_PX, HandLabels
from haptic.geometry.boxes import HAPTIC_EXPANSION, haptic_side, tight_box
from haptic.geometry.cameras import MIN_DEPTH_M
from haptic.records import Camera, HandParams

MIN_JOINTS_INSIDE = 3  # ARCTIC's rule for a hand that is in view, without its root


def clip_hands(clip: SourceClip, *, lost: frozenset[int] = frozenset()) -> dict[str, HandLabels]:
    """Return the labels of a clip's hands by name; a hand with a gap is two.

    Args:
        lost: frames whose picture cannot be read.
    """
    hands: dict[str, HandLabels] = {}
    counts = {"right": 0, "left": 0}
    for truth in clip.hands:
        side = "right" if truth.is_right else "left"
        for labels in hand_labels(truth, width_px=clip.width_px, height_px=clip.height_px, lost=lost):
            hands[f"{side}_{counts[side]}"] = labels
            counts[side] += 1
    return hands


def hand_labels(
    truth: HandTruth, *, width_px: int, height_px: int, lost: frozenset[int] = frozenset()
) -> Iterator[HandLabels]:
    """Give the labels of one hand, one for each run of frames in which enough of it is in the picture."""
    joints_img = image_joints(truth)
    in_front = np.ones(joints_img.shape[:2], bool)
    if truth.joints_cam is not None and truth.is_placed:
        in_front = ~(truth.joints_cam[..., 2] < MIN_DEPTH_M)
    known = np.isfinite(joints_img).all(axis=-1) & in_front
    center_img, size_px = _boxes(truth, joints_img, known)
    usable = known & _inside(joints_img, width_px, height_px)
    enough = usable.sum(axis=1) >= (0 if truth.is_box_kept else MIN_JOINTS_INSIDE)
    side_px = haptic_side(size_px, expansion=HAPTIC_EXPANSION)
    keep = enough & (side_px.numpy() >= MIN_BOX_PX)
    keep[[frame for frame in lost if frame < len(keep)]] = False
    for start, stop in runs(keep):
        span = slice(start, stop)
        yield _labels_of(truth, joints_img, known, center_img, side_px, span)


def image_joints(truth: HandTruth) -> Float[np.ndarray, "T 21 2"]:
    """Return the 2D joints the set gives, or else the projected 3D ones; NaN where neither is known."""
    if truth.joints_img is not None:
        return truth.joints_img
    if truth.joints_cam is None or not truth.is_placed:
        raise ValueError("a hand has neither 2D joints nor 3D joints in their true place; expected one of them")
    return project_joints(truth.joints_cam, truth.K)


def project_joints(
    joints_cam: Float[np.ndarray, "T 21 3"], K: Float[np.ndarray, "T 3 3"]
) -> Float[np.ndarray, "T 21 2"]:
    """Return pixels; NaN for what is unknown or behind the camera."""
    depth = np.where(joints_cam[..., 2:] > MIN_DEPTH_M, joints_cam[..., 2:], np.nan)
    return np.einsum("tab,tjb->tja", K[:, :2], joints_cam / depth)


def runs(keep: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Return first frame and the one after the last of every run of frames that are kept."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], keep, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def thinned(hands: Mapping[str, HandLabels], frames: range) -> dict[str, HandLabels]:
    """Return the hands cut to some frames of the clip in a row (previews)."""
    cut = {}
    for name, labels in hands.items():
        inside = [row for row, frame in enumerate(labels.frame_index.tolist()) if frame in frames]
        if inside:
            cut[name] = labels[inside[0] : inside[-1] + 1]
    return cut


def _inside(joints_img: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        low = (joints_img >= -0.5).all(axis=-1)
        return low & (joints_img[..., 0] < width_px - 0.5) & (joints_img[..., 1] < height_px - 0.5)


def _boxes(truth: HandTruth, joints_img: np.ndarray, known: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.from_numpy(np.where(known[..., None], joints_img, 0.0))
    center_img, size_px = tight_box(points, torch.from_numpy(known.astype(np.float64)))
    if truth.box_xyxy is not None:
        few = (known.sum(axis=1) < 21) | truth.is_box_kept
        few = torch.from_numpy(few & np.isfinite(truth.box_xyxy).all(axis=1))
        own = torch.from_numpy(np.nan_to_num(truth.box_xyxy))
        center_img = torch.where(few[:, None], (own[:, :2] + own[:, 2:]) / 2, center_img)
        size_px = torch.where(few[:, None], own[:, 2:] - own[:, :2], size_px)
    return center_img, size_px


def _labels_of(
    truth: HandTruth,
    joints_img: np.ndarray,
    known: np.ndarray,
    center_img: torch.Tensor,
    side_px: torch.Tensor,
    span: slice,
) -> HandLabels:
    count = span.stop - span.start

    def part(values: np.ndarray | None, shape: Sequence[int], rest: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values of the span, and for each joint or frame whether they are known."""
        if values is None:
            return torch.full((count, *shape), rest), torch.zeros(count)
        cut = np.asarray(values[span], np.float64)
        finite = np.isfinite(cut)
        return torch.from_numpy(np.where(finite, cut, rest)).float(), torch.from_numpy(finite)

    joints_cam, joints_cam_known = part(truth.joints_cam, (21, 3))
    cam_weight = torch.zeros(count, 21) if truth.joints_cam is None else joints_cam_known.all(dim=-1).float()
    orient, orient_known = part(truth.global_orient, (3, 3))
    pose, pose_known = part(truth.hand_pose, (15, 3, 3))
    betas, betas_known = part(truth.betas, (10,))
    transl, transl_known = part(truth.transl, (3,))
    params_weight = _all_known(orient_known) * _all_known(pose_known)
    visible = truth.joints_visible
    T_world_cam = (
        np.broadcast_to(np.eye(4), (len(joints_img), 4, 4)) if truth.T_world_cam is None else truth.T_world_cam
    )
    img_weight = torch.from_numpy(known[span]).float()
    if truth.joints_img_weight is not None:
        img_weight = img_weight * torch.from_numpy(np.nan_to_num(truth.joints_img_weight[span])).float()
    return HandLabels(
        frame_index=torch.arange(span.start, span.stop),
        box_center_img=center_img[span].float(),
        box_side_px=side_px[span].float(),
        joints_img=torch.from_numpy(np.where(known[span][..., None], joints_img[span], 0.0)).float(),
        joints_img_weight=img_weight,
        joints_visible=(
            torch.full((count, 21), -1, dtype=torch.int64)
            if visible is None
            else torch.from_numpy(np.asarray(visible[span], np.int64))
        ),
        joints_cam=joints_cam * cam_weight[..., None],
        joints_cam_weight=cam_weight,
        place_weight=(cam_weight.amax(dim=-1) * float(truth.is_placed)),
        params=HandParams(
            global_orient=_identity_where_unknown(orient, params_weight),
            hand_pose=_identity_where_unknown(pose, params_weight),
            betas=betas * _all_known(betas_known)[:, None],
            transl=transl * _all_known(transl_known)[:, None],
        ),
        params_weight=params_weight,
        betas_weight=_all_known(betas_known),
        camera=Camera(
            K=torch.from_numpy(np.ascontiguousarray(truth.K[span])).float(),
            T_world_cam=torch.from_numpy(np.array(T_world_cam[span])).float(),
        ),
        camera_weight=torch.full((count,), float(truth.is_camera_known)),
        is_right=torch.tensor(truth.is_right),
    )


def _all_known(known: torch.Tensor) -> torch.Tensor:
    """Return 1 for frames of which every number is known, else 0."""
    return known.reshape(len(known), -1).bool().all(dim=1).float()


def _identity_where_unknown(rotation: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    eye = torch.eye(3).expand_as(rotation)
    return torch.where((weight > 0).reshape(-1, *[1] * (rotation.ndim - 1)), rotation, eye)
