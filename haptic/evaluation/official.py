"""`pred.json` for the scorers of FreiHAND and HO3D: [xyz, vertices], one entry per picture, in the scorer's own order.

FreiHAND   pictures by number; OpenPose order, the camera's axes as ours, metres.
HO3D       pictures by the lines of evaluation.txt; MANO's 16 joints, then tips from thumb to little finger; OpenGL's
           axes (y up, z backward), metres.

Joints and vertices are both where the hand is before the camera, wrists included: the scorers align by themselves what
they compare aligned.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.evaluation.benchmarks import OfficialFormat
from haptic.evaluation.clips import EvalClip
from haptic.evaluation.meshes import MANO, HandModels, family, verts_of
from haptic.evaluation.predictions import PredictedHand, Prediction
from haptic.files import atomic_write
from haptic.hand.joints import OPENPOSE_FROM_MANO

OPENGL = (1.0, -1.0, -1.0)
FREIHAND_KEY = re.compile(r"evaluation-(\d{8})")
FREIHAND_PICTURES = 3960
DIGITS = 6  # of a metre
PLACE_M = 0.6  # where a hand that was not predicted is put: the scorers need an entry for every picture


def write_official(
    path: Path,
    kind: OfficialFormat,
    clips: Sequence[EvalClip],
    predictions: Mapping[str, Prediction],
    models: HandModels,
    evaluation_list: Path | None,
) -> list[str]:
    """Write a method's file; return what is to be said about it.

    Raises:
        ValueError: the pictures are not all there, the list of HO3D's is missing, or a prediction has no mesh.
    """
    xyz: list[list[list[float]]] = []
    verts: list[list[list[float]]] = []
    is_mano = True
    absent = 0
    stand_in = _stand_in(models)
    for clip, frame in _entries(kind, clips, evaluation_list):
        found = _find(clip, frame, predictions[clip.key], models)
        if found is None:
            absent += 1
        hand, mesh, hand_model = found or stand_in
        is_mano = is_mano and (found is None or family(hand_model) == MANO)
        xyz.append(_rows(_theirs(kind, hand, are_joints=True)))
        verts.append(_rows(_theirs(kind, mesh, are_joints=False)))
    notes = []
    if not is_mano:
        # The scorers compare vertices one by one where there are as many as MANO's, and by F-score alone elsewhere.
        verts = [[*rows, rows[-1]] for rows in verts]
        notes.append(
            f"{path}: the meshes are not MANO's; the last vertex is written twice, so that the scorer aligns them by "
            "the joints and gives F-scores, no vertex errors"
        )
    if absent:
        notes.append(
            f"{path}: {absent} of {len(xyz)} pictures have no prediction; an open hand {PLACE_M:g} m away stands in"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps([xyz, verts], separators=(",", ":")).encode())
    return notes


def _entries(
    kind: OfficialFormat, clips: Sequence[EvalClip], evaluation_list: Path | None
) -> Iterator[tuple[EvalClip, int]]:
    """Give each picture's clip and frame, in the scorer's order."""
    if kind == "freihand":
        yield from _freihand_entries(clips)
        return
    if evaluation_list is None:
        raise ValueError(
            "--official: HO3D's scorer counts by the lines of evaluation.txt; give it: --official-list FILE"
        )
    if not evaluation_list.is_file():
        raise ValueError(f"--official-list {evaluation_list}: no such file; expected HO3D's evaluation.txt")
    by_key = {clip.key: clip for clip in clips}
    for line in evaluation_list.read_text().split():
        sequence, sign, frame = line.rpartition("/")
        if not sign or not frame.isdecimal():
            raise ValueError(f"--official-list {evaluation_list}: a line is {line!r}; expected SEQUENCE/FRAME")
        if sequence not in by_key:
            raise ValueError(f"--official-list {evaluation_list}: no shard holds its sequence {sequence}; convert all")
        yield by_key[sequence], int(frame)


def _freihand_entries(clips: Sequence[EvalClip]) -> list[tuple[EvalClip, int]]:
    numbered: dict[int, EvalClip] = {}
    for clip in clips:
        match = FREIHAND_KEY.fullmatch(clip.key)
        if match is None:
            raise ValueError(
                f"--official: {clip.key} is no picture of FreiHAND's evaluation set as data_prep names them"
            )
        numbered[int(match[1])] = clip
    lacking = sorted(set(range(FREIHAND_PICTURES)) - set(numbered))
    if lacking or len(numbered) != FREIHAND_PICTURES:
        raise ValueError(
            f"--official: FreiHAND's scorer needs all {FREIHAND_PICTURES} pictures, the shards have {len(numbered)}"
            + (f"; the first that is missing is {lacking[0]:08d}" if lacking else "")
        )
    return [(numbered[number], 0) for number in range(FREIHAND_PICTURES)]


def _find(
    clip: EvalClip, frame: int, prediction: Prediction, models: HandModels
) -> tuple[Float[Tensor, "21 3"], Float[Tensor, "V 3"], str] | None:
    """Return joints, vertices and hand model of the right hand in a frame; both sets show right hands only."""
    for name, hand in prediction.hands.items():
        rows = torch.nonzero(hand.frame_index == frame)[:, 0]
        if not hand.is_right or not len(rows):
            continue
        row = int(rows[0])
        verts = None if hand.joints_cam is None else verts_of(_one_frame(hand, row), models)
        if hand.joints_cam is None or verts is None:
            raise ValueError(
                f"{prediction.where}: {name} has no vertices in frame {frame} of {clip.key}, and the official scorer "
                "asks for them; add verts_cam, or parameters with their hand_model (MANO's with --hand-model)"
            )
        return hand.joints_cam[row], verts[0], hand.hand_model
    return None


def _one_frame(hand: PredictedHand, row: int) -> PredictedHand:
    part = slice(row, row + 1)
    return PredictedHand(
        hand.frame_index[part], None, None, hand.is_right, None,
        None if hand.verts_cam is None else hand.verts_cam[part],
        None if hand.params is None else hand.params[part], hand.hand_model,
    )  # fmt: skip


def _stand_in(models: HandModels) -> tuple[Float[Tensor, "21 3"], Float[Tensor, "V 3"], str]:
    mesh = models.resting()
    place = torch.tensor([0.0, 0.0, PLACE_M]).double() - mesh.joints[0]
    return mesh.joints + place, mesh.verts + place, ""


def _theirs(kind: OfficialFormat, points: Float[Tensor, "N 3"], *, are_joints: bool) -> Float[Tensor, "N 3"]:
    if kind == "freihand":
        return points
    ordered = points[[OPENPOSE_FROM_MANO.index(joint) for joint in range(len(points))]] if are_joints else points
    return ordered * ordered.new_tensor(OPENGL)


def _rows(points: Float[Tensor, "N 3"]) -> list[list[float]]:
    rows = [[round(value, DIGITS) for value in row] for row in points.tolist()]
    assert all(math.isfinite(value) for row in rows for value in row)
    return rows
