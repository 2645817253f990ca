"""Vertices are compared within one hand model only; what lies between two hands is scored for both together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic import metrics
from haptic.evaluation.checks import pair_hands
from haptic.evaluation.meshes import HandModels, family, pair_meshes, posed
from haptic.evaluation.predictions import read_prediction, write_prediction
from haptic.evaluation.protocols import COVERAGE, F_5, F_15, MRRPE, PA_MM, PA_V, PEN, RA_V, Protocol
from haptic.evaluation.scoring import BOTH_HANDS, score_hand, score_two_hands
from haptic.export.npz import write_npz

MESHES = (PA_V, RA_V, F_5, F_15)


@pytest.fixture
def protocol():
    return Protocol(name="meshes", data_set="dexycb-s0-val", split="val", metrics=(PA_MM, *MESHES, COVERAGE))


def with_params(clip, prediction, **change):
    """The truth's own parameters, as a method of ours would give them, moved or bent."""
    hands = {}
    for name, hand in prediction.hands.items():
        params = clip.labels(name).params
        params = replace(params, **{key: make(getattr(params, key)) for key, make in change.items()})
        hands[name] = replace(hand, params=params, hand_model=clip.info.hand_model)
    return replace(prediction, hands=hands)


def meshed(clip, prediction):
    pairs = []
    for pair in pair_hands(clip, prediction)[0]:
        mesh, why = pair_meshes(pair, HandModels())
        assert mesh is not None, why
        pairs.append(replace(pair, mesh=mesh))
    return pairs


def test_the_truths_own_parameters_score_zero_on_its_vertices(clip, perfect, protocol):
    for pair in meshed(clip, with_params(clip, perfect(clip))):
        ((score,), _notes) = score_hand(pair, protocol, "truth")
        assert score.values["PA-V"] == pytest.approx(0, abs=1e-3)
        assert score.values["RA-V"] == pytest.approx(0, abs=1e-3)
        assert score.values["F@5"] == score.values["F@15"] == pytest.approx(1)


def test_vertices_lie_about_the_hands_own_joints(clip, perfect):
    for pair in meshed(clip, with_params(clip, perfect(clip))):
        off = (pair.mesh.target.mean(1) - pair.target.mean(1)).norm(dim=-1)
        assert off.max() < 0.05
        torch.testing.assert_close(pair.mesh.target_wrist, pair.target[:, 0], atol=1e-4, rtol=0)


def test_another_hand_shape_is_what_the_metrics_of_vertices_say(clip, perfect, protocol, open_hand):
    other = with_params(clip, perfect(clip), betas=lambda betas: betas + 1.5, transl=lambda transl: transl + 0.02)
    pair = meshed(clip, other)[0]
    ((score,), _notes) = score_hand(pair, protocol, "other")
    labels = clip.labels(pair.name)
    truth = posed(open_hand, labels.params, is_right=bool(labels.is_right))
    pred = posed(open_hand, other.hands[pair.name].params, is_right=bool(labels.is_right))
    assert score.values["PA-V"] == pytest.approx(1000 * float(metrics.pa_mpvpe(pred.verts, truth.verts)))
    expected = metrics.ra_mpvpe(pred.verts, truth.verts, pred_root=pred.joints[:, 0], target_root=truth.joints[:, 0])
    assert score.values["RA-V"] == pytest.approx(1000 * float(expected))
    assert 0.5 < score.values["PA-V"] < score.values["RA-V"] < 20
    aligned = metrics.align_frames(pred.verts, truth.verts)
    assert score.values["F@5"] == pytest.approx(float(metrics.f_score(aligned, truth.verts, threshold=0.005)))


def test_a_files_own_vertices_count_as_its_parameters_do(clip, noisy, protocol, open_hand, tmp_path):
    bent = with_params(clip, noisy(clip), betas=lambda betas: betas + 1)
    hands = {}
    for name, hand in bent.hands.items():
        verts = posed(open_hand, hand.params, is_right=hand.is_right).verts
        hands[name] = replace(hand, params=None, verts_cam=verts)
    for number, prediction in enumerate((bent, replace(bent, hands=hands))):
        write_prediction(tmp_path / f"{number}.npz", prediction)
    values = []
    for number in range(2):
        read = read_prediction(tmp_path / f"{number}.npz")
        ((score,), _notes) = score_hand(meshed(clip, read)[1], protocol, "mine")
        values.append(score.values)
    for title in ("PA-V", "F@5", "F@15"):
        assert values[0][title] == pytest.approx(values[1][title], rel=1e-4)


def test_what_infer_writes_has_a_mesh_by_its_parameters(make_result, open_hand, tmp_path):
    result = make_result(((0, 20), (4, 16)))
    write_npz(tmp_path / "trajectory.npz", result, open_hand)
    hand = read_prediction(tmp_path / "trajectory.npz").hands["left_0"]
    assert hand.hand_model == open_hand.name
    verts = posed(open_hand, hand.params, is_right=False).verts
    write_npz(tmp_path / "with_verts.npz", result, open_hand, save_verts=True)
    torch.testing.assert_close(
        read_prediction(tmp_path / "with_verts.npz").hands["left_0"].verts_cam.double(), verts, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": None, "verts_cam": None}, "neither verts_cam nor hand parameters"),
        ({"hand_model": "mano-12345678"}, "not compared vertex by vertex"),
        ({"hand_model": "openhand-12345678"}, "give that file with --hand-model"),
    ],
)
def test_meshes_that_cannot_be_compared_leave_their_columns_empty_and_say_why(clip, perfect, protocol, change, words):
    whole = with_params(clip, perfect(clip))
    hands = {name: replace(hand, **change) for name, hand in whole.hands.items()}
    pair = pair_hands(clip, replace(whole, hands=hands))[0][0]
    mesh, why = pair_meshes(pair, HandModels())
    assert mesh is None
    assert words in why
    ((score,), _notes) = score_hand(pair, protocol, "mine")
    assert all(math.isnan(score.values[metric.title]) for metric in MESHES)
    assert score.values["PA"] == pytest.approx(0, abs=1e-3)


def test_a_truth_of_manos_shapes_needs_the_users_file(clip, perfect):
    pair = pair_hands(clip, with_params(clip, perfect(clip)))[0][0]
    other = replace(pair, clip=replace(clip, info=replace(clip.info, hand_model="mano-12345678")))
    assert "--hand-model" in pair_meshes(other, HandModels())[1]
    assert family("mano-12345678") == family("mano") == "mano"


@pytest.mark.parametrize("factor", [1000.0, 0.0])
def test_vertices_in_another_unit_or_about_the_origin_are_refused(clip, perfect, open_hand, factor):
    whole = perfect(clip)
    hands = {}
    for name, hand in whole.hands.items():
        verts = posed(open_hand, clip.labels(name).params, is_right=hand.is_right).verts
        hands[name] = replace(hand, verts_cam=verts * factor, hand_model=clip.info.hand_model)
    with pytest.raises(ValueError, match=r"system\.npz: (left|right)_0/verts_cam lies"):
        pair_hands(clip, replace(whole, hands=hands))


def test_missing_frames_count_neither_in_vertices_nor_between_hands(clip, noisy, protocol):
    whole = with_params(clip, noisy(clip), betas=lambda betas: betas + 1)
    pair = meshed(clip, whole)[0]
    predicted = torch.arange(20) < 12
    ((score,), _notes) = score_hand(replace(pair, predicted=predicted), protocol, "mine")
    expected = metrics.pa_mpvpe(pair.mesh.pred[:12], pair.mesh.target[:12])
    assert score.values["PA-V"] == pytest.approx(1000 * float(expected))


def test_the_relation_of_two_wrists_is_scored_once_for_both(clip, perfect, open_hand):
    protocol = Protocol(name="two", data_set="dexycb-s0-val", split="val", metrics=(MRRPE, PEN))
    whole = perfect(clip)
    moved = {
        name: replace(hand, joints_cam=hand.joints_cam + torch.tensor([0.0, 0.0, 0.01 if hand.is_right else -0.02]))
        for name, hand in whole.hands.items()
    }
    pairs = pair_hands(clip, replace(whole, hands=moved))[0]
    ((score,), notes) = score_two_hands(pairs, protocol, "mine", open_hand.faces)
    assert not notes
    assert score.hand == BOTH_HANDS
    assert score.values["MRRPE"] == pytest.approx(30, rel=1e-6)  # mm
    assert math.isnan(score.values["Pen"])  # no meshes
    for pair in pairs:
        assert math.isnan(score_hand(pair, protocol, "mine")[0][0].values["MRRPE"])
    half = [replace(pairs[0], predicted=torch.arange(20) < 7), pairs[1]]
    ((score,), _notes) = score_two_hands(half, protocol, "mine", None)
    assert (score.num_frames, score.num_predicted) == (20, 7)


def test_hands_that_share_space_say_how_much(clip, perfect, open_hand):
    protocol = Protocol(name="two", data_set="dexycb-s0-val", split="val", metrics=(PEN,))
    pairs = meshed(clip, with_params(clip, perfect(clip)))
    apart = score_two_hands(pairs, protocol, "mine", open_hand.faces)[0][0].values["Pen"]
    assert apart == 0
    left, right = pairs
    onto = left.mesh.pred.mean((0, 1)) - right.mesh.pred.mean((0, 1))
    touching = [left, replace(right, mesh=replace(right.mesh, pred=right.mesh.pred + onto))]
    volume = score_two_hands(touching, protocol, "mine", open_hand.faces)[0][0].values["Pen"]
    assert 5 < volume < 400  # cm^3; a hand has some 400


def test_two_right_hands_at_once_have_no_relation_and_a_line_says_so(clip, perfect, open_hand):
    protocol = Protocol(name="two", data_set="dexycb-s0-val", split="val", metrics=(MRRPE,))
    pairs = pair_hands(clip, perfect(clip))[0]
    right = next(pair for pair in pairs if pair.name == "right_0")
    scores, (note,) = score_two_hands([*pairs, right], protocol, "mine", open_hand.faces)
    assert not scores
    assert "several right or left hands" in note
    assert score_two_hands([right], protocol, "mine", open_hand.faces) == ([], [])


def test_equal_predictions_with_parameters_give_equal_bytes(clip, perfect, tmp_path):
    for name in ("a.npz", "b.npz"):
        write_prediction(tmp_path / name, with_params(clip, perfect(clip)))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as file:
        assert str(file["hand_model"]) == clip.info.hand_model
