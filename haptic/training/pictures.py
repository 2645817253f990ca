"""Pictures of what a network has learned: its joints over the crops, and the paths seen from above."""

from itertools import pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from haptic.data.batches import ClipBatch
from haptic.hand.joints import PARENTS_21
from haptic.hand.model import HandModel
from haptic.records import HandPrediction
from haptic.training.objective import joints_in_crop, lift_from_true_start, params_at, single_precision

PREDICTED, TRUE = (255, 150, 40), (60, 220, 120)  # amber and green
PAPER, INK = (250, 250, 248), (70, 70, 70)
TILE_PX = 160
MAX_CLIPS, MAX_FRAMES = 4, 8
PATH_MARGIN = 0.12  # of the view from above
MIN_SPAN_M = 0.02


@torch.no_grad()
def draw_predictions(prediction: HandPrediction, batch: ClipBatch, hand_model: HandModel) -> UInt8[np.ndarray, "H W 3"]:
    """Return a sheet: a row per clip, its crops with true (green) and predicted (amber) joints, and both paths."""
    prediction = single_precision(prediction[:MAX_CLIPS])
    batch = batch[:MAX_CLIPS]
    joints = hand_model.joints(params_at(prediction, torch.zeros_like(prediction.betas[..., :3])))
    predicted_crop = joints_in_crop(joints, prediction, batch)
    wrist = joints[:, :, 0] + lift_from_true_start(prediction, batch, hand_model)
    known = batch.targets.joints_img_weight > 0
    rows = []
    for clip in range(batch.num_clips):
        frames = min(batch.crops.shape[1], MAX_FRAMES)
        tiles = [
            _crop_tile(
                batch.crops[clip, frame].cpu().numpy(),
                predicted_crop[clip, frame].cpu().numpy(),
                batch.joints_crop[clip, frame].cpu().numpy(),
                known[clip, frame].cpu().numpy(),
            )
            for frame in range(frames)
        ]
        placed = batch.depth_weight[clip].cpu().numpy() > 0
        tiles.append(_path_tile(wrist[clip].cpu().numpy(), batch.targets.joints_cam[clip, :, 0].cpu().numpy(), placed))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def _crop_tile(
    crop: np.ndarray, predicted: np.ndarray, true: np.ndarray, known: np.ndarray
) -> UInt8[np.ndarray, "S S 3"]:
    tile = cv2.resize(crop, (TILE_PX, TILE_PX), interpolation=cv2.INTER_LINEAR)
    _draw_skeleton(tile, true, known, TRUE)
    _draw_skeleton(tile, predicted, np.isfinite(predicted).all(-1), PREDICTED)
    return tile


def _draw_skeleton(
    tile: np.ndarray, joints_crop: Float[np.ndarray, "21 2"], known: np.ndarray, color: tuple[int, ...]
) -> None:
    places = np.nan_to_num(np.clip((joints_crop + 0.5) * TILE_PX - 0.5, -TILE_PX, 2 * TILE_PX))
    points = [(round(float(x)), round(float(y))) for x, y in places]
    for joint, parent in enumerate(PARENTS_21):
        if parent >= 0 and known[joint] and known[parent]:
            cv2.line(tile, points[parent], points[joint], color, 1, cv2.LINE_AA)
        if known[joint]:
            cv2.circle(tile, points[joint], 2, color, -1, cv2.LINE_AA)


def _path_tile(
    predicted: Float[np.ndarray, "T 3"], true: Float[np.ndarray, "T 3"], placed: np.ndarray
) -> UInt8[np.ndarray, "S S 3"]:
    """Draw both wrists' paths from above: x to the right, away from the camera is up; one scale for both axes."""
    tile = np.full((TILE_PX, TILE_PX, 3), PAPER, np.uint8)
    paths = [(true[placed][:, [0, 2]], TRUE), (predicted[:, [0, 2]], PREDICTED)]
    points = np.concatenate([path for path, _color in paths])
    points = points[np.isfinite(points).all(-1)]
    if len(points) < 2 or not placed.any():
        cv2.putText(tile, "no path", (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.4, INK, 1, cv2.LINE_AA)
        return tile
    middle = (points.min(0) + points.max(0)) / 2
    span = max(float((points.max(0) - points.min(0)).max()), MIN_SPAN_M)
    px_per_m = TILE_PX * (1 - 2 * PATH_MARGIN) / span
    for path, color in paths:
        places = (path - middle) * (px_per_m, -px_per_m) + TILE_PX / 2
        places = np.nan_to_num(np.clip(places, -TILE_PX, 2 * TILE_PX))
        line = [(round(float(x)), round(float(y))) for x, y in places]
        for start, end in pairwise(line):
            cv2.line(tile, start, end, color, 1, cv2.LINE_AA)
        for place in line:
            cv2.circle(tile, place, 2, color, -1, cv2.LINE_AA)
        cv2.circle(tile, line[0], 5, color, 1, cv2.LINE_AA)  # where the path begins
    cv2.putText(tile, f"{100 * span:.1f} cm", (6, TILE_PX - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.35, INK, 1, cv2.LINE_AA)
    return tile
