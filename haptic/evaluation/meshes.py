"""Vertices of truth and prediction: posed from parameters or as a file holds them, and of one hand model only."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from haptic.evaluation.checks import PairedHand, PairedMesh
from haptic.evaluation.predictions import PredictedHand
from haptic.hand.mirror import mirror_mesh, mirror_params
from haptic.hand.model import HandModel, load_hand_model
from haptic.records import HandMesh, HandParams

MANO, OPENHAND = "mano", "openhand"
FOREIGN_TOPOLOGY = "verts_cam has {got} vertices, the truth's mesh {due}"


@dataclass
class HandModels:
    """Hand models by the names that shards and predictions have them under; `given` is the user's, if any."""

    given: HandModel | None = None
    _open: HandModel | None = field(default=None, init=False)

    def find(self, name: str) -> HandModel | None:
        """Return the model of this name, None if it is not at hand. `mano` alone is any MANO file."""
        if self.given is not None and (name == self.given.name or name == family(self.given.name) == MANO):
            return self.given
        if family(name) != OPENHAND:
            return None
        if self._open is None:
            self._open = load_hand_model()
        return self._open if self._open.name == name else None

    def resting(self) -> HandMesh:
        """Return the unposed right hand of the user's model or else the openhand's: 21 joints, 778 vertices."""
        model = self.given or load_hand_model()
        eye = torch.eye(3)
        params = HandParams(eye[None], eye.expand(1, 15, 3, 3), torch.zeros(1, 10), torch.zeros(1, 3))
        return posed(model, params, is_right=True)[0]


def family(hand_model: str) -> str:
    """Return `mano` or `openhand` (or whatever else) from a model's name: the family without the digest."""
    return hand_model.split("-")[0]


def pair_meshes(pair: PairedHand, models: HandModels) -> tuple[PairedMesh | None, str]:
    """Return the vertices of a hand's truth and prediction, or None and why they cannot be compared."""
    clip, labels = pair.clip, pair.clip.labels(pair.name)
    known = (labels.params_weight > 0) & (labels.betas_weight > 0)
    if not bool(known.any()):
        return None, "the truth has no hand shape (shards made without --mano)"
    model = models.find(clip.info.hand_model)
    if model is None:
        return None, f"the truth's mesh is that of {clip.info.hand_model}; give that file with --hand-model"
    target = posed(model, labels.params, is_right=bool(labels.is_right))
    pred, pred_wrist = torch.zeros_like(target.verts), torch.zeros_like(target.joints[:, 0])
    place_of = {frame: place for place, frame in enumerate(labels.frame_index.tolist())}
    for hand in pair.pieces:
        rows = [row for row, frame in enumerate(hand.frame_index.tolist()) if frame in place_of]
        places = [place_of[int(hand.frame_index[row])] for row in rows]
        found, why = _predicted(hand, clip.info.hand_model, models)
        if found is None:
            return None, why
        verts, wrist = found
        if verts.shape[1] != target.verts.shape[1]:
            return None, FOREIGN_TOPOLOGY.format(got=verts.shape[1], due=target.verts.shape[1])
        pred[places], pred_wrist[places] = verts[rows].to(pred), wrist[rows].to(pred)
    return PairedMesh(target.verts, target.joints[:, 0], known.double(), pred, pred_wrist), ""


def _predicted(hand: PredictedHand, truth_model: str, models: HandModels) -> tuple[tuple[Tensor, Tensor] | None, str]:
    if hand.verts_cam is None and hand.params is None:
        return None, "the prediction has neither verts_cam nor hand parameters"
    if family(hand.hand_model) != family(truth_model):
        return None, f"a mesh of {hand.hand_model} and one of {truth_model} are not compared vertex by vertex"
    if hand.verts_cam is not None:
        if hand.joints_cam is None:
            return None, "the prediction has verts_cam, but no joints_cam"
        return (hand.verts_cam, hand.joints_cam[:, 0]), ""
    assert hand.params is not None
    model = models.find(hand.hand_model)
    if model is None:
        return None, f"the prediction's parameters are those of {hand.hand_model}; give that file with --hand-model"
    mesh = posed(model, hand.params, is_right=hand.is_right)
    return (mesh.verts, mesh.joints[:, 0]), ""


def posed(model: HandModel, params: HandParams, *, is_right: bool, run_frames: int = 256) -> HandMesh:
    """Return a hand's mesh in the frame of its parameters, in double precision; left hands as left hands."""
    right = params if is_right else mirror_params(params)
    num_frames = right.transl.shape[0]
    with torch.no_grad():
        runs = [model(right[start : start + run_frames]) for start in range(0, max(num_frames, 1), run_frames)]
    mesh = HandMesh(torch.cat([run.verts for run in runs]).double(), torch.cat([run.joints for run in runs]).double())
    return mesh if is_right else mirror_mesh(mesh)


def verts_of(hand: PredictedHand, models: HandModels) -> Float[Tensor, "T V 3"] | None:
    """Return a predicted hand's vertices in the camera; None if it has no mesh or its hand model is not at hand."""
    if hand.verts_cam is not None:
        return hand.verts_cam.double()
    model = None if hand.params is None else models.find(hand.hand_model)
    return None if model is None or hand.params is None else posed(model, hand.params, is_right=hand.is_right).verts
