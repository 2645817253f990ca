"""Predictions that would give a number which means nothing: found here, refused in one line with the likely cause."""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from haptic.evaluation.clips import EvalClip
from haptic.evaluation.predictions import PredictedHand, Prediction
from haptic.geometry.transforms import apply_transform
from haptic.hand.joints import OPENPOSE_FROM_MANO
from haptic.metrics import pa_mpjpe

MAX_FPS_RATIO = 1.02
# Hands of one size are scored; beyond these ratios to the truth's the unit is another.
MIN_SIZE_RATIO, MAX_SIZE_RATIO = 0.25, 4.0
NAMED_RATIOS = ((1000.0, "millimetres"), (100.0, "centimetres"), (0.001, "kilometres"), (39.37, "inches"))
UNIT_SLACK = 2.5  # how far a hand's size may be off for its unit to be told
SUSPICIOUS_PA_M = 0.018  # a good or bad estimate of the right hand in the right order is below this
BETTER_SHARE = 0.5
CHECKED_FRAMES = 60
NEAR_ORIGIN_M = 0.03  # no wrist is so near a camera's pinhole
MAX_MESH_OFF_M = 0.15  # of the middle of a hand's vertices from the middle of its joints


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(joint) for joint in range(len(order)))


# What other programs call their joints: index of each OpenPose joint in them.
OTHER_ORDERS: dict[str, tuple[int, ...]] = {
    "MANO's 16 joints, then fingertips": OPENPOSE_FROM_MANO,
    "OpenPose read as MANO's (sorted twice)": _inverse(OPENPOSE_FROM_MANO),
    "fingertips first, wrist last (InterHand2.6M)": (
        20, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12, 19, 18, 17, 16
    ),
    "wrist, five knuckles, then fingers (FPHA)": (
        0, 1, 6, 7, 8, 2, 9, 10, 11, 3, 12, 13, 14, 4, 15, 16, 17, 5, 18, 19, 20
    ),
    "each finger from the tip (RHD)": (0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17),
}  # fmt: skip


@dataclass(frozen=True)
class PairedHand:
    """One hand's truth and prediction over the truth's frames, in double precision; `predicted` says which are there.

    What stands in frames without a prediction is zeros. `mesh` is there while a protocol asks for vertices.
    """

    clip: EvalClip
    name: str
    target: Float[Tensor, "T 21 3"]
    target_world: Float[Tensor, "T 21 3"]
    weight: Float[Tensor, "T 21"]
    pred: Float[Tensor, "T 21 3"]
    pred_world: Float[Tensor, "T 21 3"]
    predicted: Bool[Tensor, " T"]
    has_place: bool  # the truth knows where the hand is before its camera
    has_camera_points: bool  # the prediction has joints_cam, not only joints_world
    K: Float[Tensor, "T 3 3"] | None
    pieces: tuple[PredictedHand, ...] = ()  # what the prediction is made of
    mesh: "PairedMesh | None" = None


@dataclass(frozen=True)
class PairedMesh:
    """Vertices of one hand and one hand model, truth and prediction, with the wrists that they turn about."""

    target: Float[Tensor, "T V 3"]
    target_wrist: Float[Tensor, "T 3"]
    weight: Float[Tensor, " T"]
    pred: Float[Tensor, "T V 3"]
    pred_wrist: Float[Tensor, "T 3"]

    def cut(self, frames: slice) -> "PairedMesh":
        """Return some of its frames."""
        return PairedMesh(*(getattr(self, part.name)[frames] for part in fields(self)))


def pair_hands(clip: EvalClip, prediction: Prediction) -> tuple[list[PairedHand], list[str]]:
    """Lay prediction and truth side by side; also return what is worth a line (hands without a counterpart).

    Raises:
        ValueError: the prediction cannot be what it is taken for; one line with the likely cause.
    """
    _check_frames(clip, prediction)
    chosen, notes = _match(clip, prediction)
    _check_sides(clip, prediction, chosen)
    pairs = []
    for name in clip.hands:
        pair = _pair(clip, name, chosen.get(name, []))
        _check_unit(pair, prediction.where)
        _check_order(pair, prediction.where)
        pairs.append(pair)
    return pairs, notes


def _check_frames(clip: EvalClip, prediction: Prediction) -> None:
    where, fps = prediction.where, clip.info.fps
    if prediction.fps is not None and fps > 0:
        ratio = prediction.fps / fps
        if not 1 / MAX_FPS_RATIO < ratio < MAX_FPS_RATIO:
            raise ValueError(
                f"{where}: made at {prediction.fps:g} frames per second, the sequence {clip.key} has {fps:g}; "
                "frame_index must count the sequence's own frames: run on these, or resample before"
            )
    for name, hand in prediction.hands.items():
        if len(hand.frame_index) and int(hand.frame_index[-1]) >= clip.info.num_frames:
            raise ValueError(
                f"{where}: {name} names frame {int(hand.frame_index[-1])}, the sequence {clip.key} has frames 0 to "
                f"{clip.info.num_frames - 1}; was it run on another video, at another rate, or counted from 1?"
            )
        arrays = {"joints_cam": hand.joints_cam, "joints_world": hand.joints_world, "verts_cam": hand.verts_cam}
        arrays |= {} if hand.params is None else vars(hand.params)
        for what, points in arrays.items():
            if points is not None and not bool(torch.isfinite(points).all()):
                bad = ~torch.isfinite(points).flatten(1).all(1)
                raise ValueError(
                    f"{where}: {name}/{what} has NaN or infinity in frame {int(hand.frame_index[bad][0])} (in "
                    f"{int(bad.sum())} frames); leave frames without a prediction out"
                )
        _check_mesh(name, hand, where)


def _check_mesh(name: str, hand: PredictedHand, where: str) -> None:
    """Refuse vertices that are not where the same file's joints are."""
    if hand.verts_cam is None or hand.joints_cam is None or not len(hand.frame_index):
        return
    middles = hand.verts_cam.double().mean(1), hand.joints_cam.double().mean(1)
    off_m = float((middles[0] - middles[1]).norm(dim=-1).median())
    if off_m > MAX_MESH_OFF_M:
        raise ValueError(
            f"{where}: {name}/verts_cam lies {off_m:.3g} m from its joints_cam; expected both in metres, in the "
            "camera of each frame: are the vertices in another unit, or without the hand's translation?"
        )


def _match(clip: EvalClip, prediction: Prediction) -> tuple[dict[str, list[PredictedHand]], list[str]]:
    """Give each true hand its predicted ones: by name, else by side; pieces of one hand are joined.

    Where truth and prediction each know one hand of a side, they are each other's, whatever they are called.
    """
    chosen: dict[str, list[PredictedHand]] = {}
    notes = []
    for is_right, side in ((True, "right"), (False, "left")):
        truths = [name for name, hand in clip.hands.items() if bool(hand.labels.is_right) == is_right]
        ours = {name: hand for name, hand in prediction.hands.items() if hand.is_right == is_right}
        if not truths or not ours:
            continue
        if len(truths) == 1 and _are_pieces(list(ours.values())):
            chosen[truths[0]] = list(ours.values())
            continue
        for name in truths:
            if name in ours:
                chosen[name] = [ours.pop(name)]
        unnamed = [name for name in truths if name not in chosen]
        if unnamed and ours:
            raise ValueError(
                f"{prediction.where}: {len(ours)} {side} hands ({', '.join(ours)}) overlap in time and could be "
                f"{' or '.join(unnamed)}; name them as the sequence does, so that it is clear who is who"
            )
        notes += [f"{prediction.where}: {name} has no counterpart in the truth; it is not scored" for name in ours]
    known = {bool(hand.labels.is_right) for hand in clip.hands.values()}
    for name, hand in prediction.hands.items():
        if hand.is_right not in known:
            notes.append(f"{prediction.where}: {name} has no counterpart in the truth; it is not scored")
    return chosen, notes


def _are_pieces(hands: list[PredictedHand]) -> bool:
    frames = torch.cat([hand.frame_index for hand in hands])
    return len(frames.unique()) == len(frames)


def _check_sides(clip: EvalClip, prediction: Prediction, chosen: dict[str, list[PredictedHand]]) -> None:
    """Refuse swapped sides: the other hand is where this one should be, or only the other one is there."""
    sides_true = {bool(hand.labels.is_right) for hand in clip.hands.values()}
    sides_ours = {hand.is_right for hand in prediction.hands.values() if len(hand.frame_index)}
    if len(sides_true) == 1 and len(sides_ours) == 1 and sides_true != sides_ours:
        true_side = "right" if True in sides_true else "left"
        our_side = "left" if true_side == "right" else "right"
        raise ValueError(
            f"{prediction.where}: only {our_side} hands, the sequence {clip.key} has a {true_side} one; are left and "
            "right swapped (a mirrored video, or is_right read the other way round)?"
        )
    if len(chosen) != 2 or len(clip.hands) != 2 or any(len(hands) != 1 for hands in chosen.values()):
        return
    names = list(clip.hands)
    first, second = (chosen[name][0] for name in names)
    same: list[float] = []
    crossed: list[float] = []
    for name, own, other in ((names[0], first, second), (names[1], second, first)):
        for hand, distances in ((own, same), (other, crossed)):
            distance = _wrist_distance(clip, name, hand)
            if distance is None:
                return
            distances.append(distance)
    if max(crossed) < BETTER_SHARE * min(same):
        raise ValueError(
            f"{prediction.where}: each hand lies where the other one is in truth (median {1000 * max(crossed):.0f} mm "
            f"swapped, {1000 * min(same):.0f} mm as named); left and right look swapped"
        )


def _wrist_distance(clip: EvalClip, name: str, hand: PredictedHand) -> float | None:
    """Return how far the wrists' rays are apart where the true wrist is; depth, which is guessed worse, has no say."""
    labels = clip.labels(name)
    if hand.joints_cam is None or bool((labels.place_weight == 0).any()):
        return None
    shared = torch.isin(labels.frame_index, hand.frame_index)
    ours = torch.isin(hand.frame_index, labels.frame_index)
    if not bool(shared.any()):
        return None
    true, found = labels.joints_cam[shared, 0].double(), hand.joints_cam[ours, 0].double()
    at_true_distance = found / found.norm(dim=-1, keepdim=True).clamp(min=1e-9) * true.norm(dim=-1, keepdim=True)
    return float((true - at_true_distance).norm(dim=-1).median())


def _pair(clip: EvalClip, name: str, hands: list[PredictedHand]) -> PairedHand:
    labels = clip.labels(name)
    num = len(labels.frame_index)
    target = labels.joints_cam.double()
    cameras = labels.camera.T_world_cam.double()
    pred, pred_world = torch.zeros(num, 21, 3).double(), torch.zeros(num, 21, 3).double()
    predicted = torch.zeros(num, dtype=torch.bool)
    K = labels.camera.K.double().clone() if any(hand.K is not None for hand in hands) else None
    has_camera_points = True
    for hand in hands:
        place_of = {frame: place for place, frame in enumerate(labels.frame_index.tolist())}
        rows = [row for row, frame in enumerate(hand.frame_index.tolist()) if frame in place_of]
        places = [place_of[int(hand.frame_index[row])] for row in rows]
        predicted[places] = True
        if hand.joints_cam is None:
            has_camera_points = False
        else:
            pred[places] = hand.joints_cam[rows].double()
        if hand.joints_world is not None:
            pred_world[places] = hand.joints_world[rows].double()
        else:
            pred_world[places] = apply_transform(cameras[places], pred[places])
        if hand.K is not None and K is not None:
            K[places] = hand.K[rows].double()
    if not has_camera_points:
        pred = pred_world
    return PairedHand(
        clip=clip,
        name=name,
        target=target,
        target_world=apply_transform(cameras, target),
        weight=labels.joints_cam_weight.double(),
        pred=pred,
        pred_world=pred_world,
        predicted=predicted,
        has_place=bool(((labels.place_weight > 0) & (labels.camera_weight > 0)).all()),
        has_camera_points=has_camera_points,
        K=K,
        pieces=tuple(hands),
    )


def _shared(pair: PairedHand) -> Bool[Tensor, " T"]:
    return pair.predicted & (pair.weight > 0).all(-1)


def _check_unit(pair: PairedHand, where: str) -> None:
    shared = _shared(pair)
    if not bool(shared.any()):
        return
    ours, true = (_size(points[shared]) for points in (pair.pred, pair.target))
    ratio = ours / true
    if not MIN_SIZE_RATIO < ratio < MAX_SIZE_RATIO:
        factor, unit = min(NAMED_RATIOS, key=lambda named: abs(math.log(max(ratio, 1e-9) / named[0])))
        cause = f"in {unit}?" if 1 / UNIT_SLACK < ratio / factor < UNIT_SLACK else "scaled?"
        times = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.3g}"
        raise ValueError(
            f"{where}: {pair.name} is {times} times as large as the true hand; are the joints {cause} Metres are "
            "expected"
        )
    depth = pair.pred[shared, 0].norm(dim=-1).median()
    if pair.has_camera_points and float(depth) < NEAR_ORIGIN_M:
        raise ValueError(
            f"{where}: {pair.name}'s wrist lies {1000 * float(depth):.0f} mm from the camera's centre; are the joints "
            "about the wrist, without the hand's translation? Add it: joints_cam are places before the camera"
        )


def _size(joints: Float[Tensor, "N 21 3"]) -> float:
    """Return the median size of a hand, whatever the order of its joints: their spread."""
    return float((joints - joints.mean(1, keepdim=True)).square().sum((-1, -2)).sqrt().median())


def _check_order(pair: PairedHand, where: str) -> None:
    """Refuse joints in another order, and hands that are mirror images of what they should be."""
    shared = torch.nonzero(_shared(pair))[:, 0]
    if not len(shared):
        return
    shared = shared[:: max(1, len(shared) // CHECKED_FRAMES)]
    pred, target = pair.pred[shared], pair.target[shared]
    as_given = float(pa_mpjpe(pred, target))
    if as_given < SUSPICIOUS_PA_M:
        return
    found = [(float(pa_mpjpe(pred[:, list(order)], target)), name) for name, order in OTHER_ORDERS.items()]
    best, name = min(found)
    if best < BETTER_SHARE * as_given:
        raise ValueError(
            f"{where}: {pair.name}'s joints fit the truth after alignment at {1000 * as_given:.0f} mm as given and at "
            f"{1000 * best:.0f} mm in the order {name}; expected OpenPose order: wrist, then thumb to little finger "
            "from base to tip"
        )
    mirrored = float(pa_mpjpe(pred * pred.new_tensor([-1.0, 1.0, 1.0]), target))
    if mirrored < BETTER_SHARE * as_given:
        raise ValueError(
            f"{where}: {pair.name} fits the truth after alignment at {1000 * as_given:.0f} mm as given and at "
            f"{1000 * mirrored:.0f} mm mirrored; is a left hand left a right one (x not negated), or are sides swapped?"
        )
