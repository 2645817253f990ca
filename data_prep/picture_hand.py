"""A hand model in poses that tell whether it is well made, as a picture: flat, spread, fist, pinch, small and large.

python -m data_prep.picture_hand [--hand-model MANO_RIGHT.pkl] [--out docs/images/openhand.png]
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from haptic.data.synthetic.gestures import GestureBook, draw_sign
from haptic.files import atomic_path
from haptic.geometry.cameras import intrinsics
from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import pose_from_angles
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import HandParams
from haptic.vis.painter import PaintedHand, paint_hands

TILE_PX = 260
DISTANCE_M = 0.5
SKIN = (0.86, 0.66, 0.55)
PAPER, INK = 250, (60, 60, 60)
# Fingers up; the back of the hand, its palm, and the side of the thumb to the eye.
VIEWS = {"back": 0.0, "palm": np.pi, "thumb side": -np.pi / 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw and write; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hand-model", type=Path, help="a licensed MANO_RIGHT.pkl instead of the openhand")
    parser.add_argument("--out", type=Path, default=Path("docs/images/openhand.png"))
    options = parser.parse_args(arguments)
    model = load_hand_model(options.hand_model)
    hands = poses(model)
    rows = [
        np.concatenate([_tile(model, hand, turn, f"{name}, {view}") for name, hand in hands.items()], axis=1)
        for view, turn in VIEWS.items()
    ]
    with atomic_path(options.out) as temporary:
        cv2.imwrite(str(temporary), np.concatenate(rows)[..., ::-1])
    print(options.out)
    return 0


def poses(model: HandModel) -> dict[str, HandParams]:
    """Return what is drawn, by name."""
    rng = np.random.default_rng(0)
    signs = {name: draw_sign(name, rng=rng) for name in ("flat", "open", "fist")}
    angles = {**signs, "pinch": GestureBook(model).draw_pinch_for(0.0, rng=rng)}
    found = {name: _params(angles[name], 0.0) for name in angles}
    return found | {f"size {size:+.0f}": _params(signs["open"], size) for size in (-2.0, 2.0)}


def _params(angles: np.ndarray, size: float) -> HandParams:
    betas = torch.zeros(1, 10)
    betas[0, 0] = size
    return HandParams(
        global_orient=torch.eye(3)[None],
        hand_pose=pose_from_angles(torch.from_numpy(angles).float()[None]),
        betas=betas,
        transl=torch.zeros(1, 3),
    )


def _tile(model: HandModel, params: HandParams, turn: float, title: str) -> np.ndarray:
    """Return one hand seen from one side."""
    mesh = model(params)
    upright = rotation_from_aa(torch.tensor([0.0, 0.0, np.pi / 2])).numpy()  # fingers from -x to up, which is -y
    onto_eye = rotation_from_aa(torch.tensor([0.0, -np.pi / 2 + turn, 0.0])).numpy() @ upright
    verts = mesh.verts[0].numpy() @ onto_eye.T
    verts = verts - (verts.max(0) + verts.min(0)) / 2 + (0, 0, DISTANCE_M)
    picture = np.full((TILE_PX, TILE_PX, 3), PAPER, np.uint8)
    K = intrinsics(2 * TILE_PX, width=TILE_PX, height=TILE_PX).numpy()
    painted = PaintedHand(verts.astype(np.float32), model.faces.numpy(), SKIN, is_filled=False)
    paint_hands(picture, [painted], K, opacity=1.0)
    cv2.putText(picture, title, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return picture


if __name__ == "__main__":
    raise SystemExit(main())
