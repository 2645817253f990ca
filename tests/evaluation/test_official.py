"""The files for FreiHAND's and HO3D's scorers have every picture in the scorer's order, axes and units."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.evaluation import official
from haptic.evaluation.meshes import HandModels, posed
from haptic.evaluation.official import write_official
from haptic.evaluation.predictions import PredictedHand, Prediction

# HO3D's order by name, as its toolkit has it: MANO's joints, then tips from thumb to little finger.
HO3D_IN_OPENPOSE = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]


@pytest.fixture
def right(clips, open_hand):
    """A right hand's clip of 12 frames, and a prediction of it by parameters."""
    clip = clips[1]
    params = clip.labels("right_0").params
    hand = PredictedHand(
        clip.labels("right_0").frame_index, open_hand.joints(params).double(), None, True, params=params,
        hand_model=clip.info.hand_model,
    )  # fmt: skip
    return clip, Prediction({"right_0": hand}, where="mine")


def read(path):
    xyz, verts = json.loads(path.read_text())
    return [np.array(one) for one in xyz], [np.array(one) for one in verts]


def as_mano(prediction, open_hand):
    """The same mesh, said to be MANO's."""
    hand = prediction.hands["right_0"]
    verts = posed(open_hand, hand.params, is_right=True).verts
    return replace(prediction, hands={"right_0": replace(hand, params=None, verts_cam=verts, hand_model="mano")})


def test_ho3ds_file_goes_by_its_list_in_opengl_axes_and_manos_order(right, open_hand, tmp_path):
    clip, prediction = right
    lines = [f"{clip.key}/{frame:04d}" for frame in (7, 2, 11)]
    (tmp_path / "evaluation.txt").write_text("\n".join(lines))
    notes = write_official(
        tmp_path / "pred.json", "ho3d", [clip], {clip.key: as_mano(prediction, open_hand)}, HandModels(),
        tmp_path / "evaluation.txt",
    )  # fmt: skip
    assert not notes
    xyz, verts = read(tmp_path / "pred.json")
    mesh = posed(open_hand, prediction.hands["right_0"].params, is_right=True)
    for place, frame in enumerate((7, 2, 11)):
        back = np.empty((21, 3))
        back[HO3D_IN_OPENPOSE] = xyz[place] * [1, -1, -1]
        np.testing.assert_allclose(back, prediction.hands["right_0"].joints_cam[frame], atol=1e-6)
        np.testing.assert_allclose(verts[place] * [1, -1, -1], mesh.verts[frame], atol=1e-6)
        assert xyz[place][0, 2] < 0  # before OpenGL's camera
        tips = verts[place][[744, 320, 443, 554, 671]]  # from thumb to little finger, as the last five joints
        np.testing.assert_allclose(xyz[place][16:], tips, atol=1e-5)


def test_freihands_file_has_every_picture_by_number_in_openpose_order(right, open_hand, tmp_path, monkeypatch):
    clip, prediction = right
    monkeypatch.setattr(official, "FREIHAND_PICTURES", 3)
    clips, predictions = [], {}
    for number in (2, 0, 1):
        key = f"evaluation-{number:08d}"
        clips.append(replace(clip, key=key))
        hand = prediction.hands["right_0"]
        place = torch.tensor([0.01 * number, 0.0, 0.0]).double()
        moved = replace(
            hand, frame_index=torch.tensor([0]), joints_cam=hand.joints_cam[:1] + place, params=None,
            verts_cam=posed(open_hand, hand.params[:1], is_right=True).verts + place, hand_model="mano",
        )  # fmt: skip
        predictions[key] = Prediction({"right_0": moved}, where="mine")
    assert not write_official(tmp_path / "pred.json", "freihand", clips, predictions, HandModels(), None)
    xyz, verts = read(tmp_path / "pred.json")
    for number in range(3):
        expected = predictions[f"evaluation-{number:08d}"].hands["right_0"]
        np.testing.assert_allclose(xyz[number], expected.joints_cam[0], atol=1e-6)
        np.testing.assert_allclose(verts[number], expected.verts_cam[0], atol=1e-6)


def test_a_mesh_that_is_not_manos_gets_another_number_of_vertices_so_that_none_is_compared(right, tmp_path):
    clip, prediction = right
    (tmp_path / "list.txt").write_text(f"{clip.key}/0003")
    (note,) = write_official(
        tmp_path / "pred.json", "ho3d", [clip], {clip.key: prediction}, HandModels(), tmp_path / "list.txt"
    )
    assert "not MANO's" in note
    _xyz, (verts,) = read(tmp_path / "pred.json")
    assert verts.shape == (779, 3)
    assert (verts[-1] == verts[-2]).all()


def test_a_picture_without_a_prediction_gets_a_hand_and_is_counted(right, open_hand, tmp_path):
    clip, prediction = right
    whole = as_mano(prediction, open_hand).hands["right_0"]
    first = replace(
        whole, frame_index=whole.frame_index[:1], joints_cam=whole.joints_cam[:1], verts_cam=whole.verts_cam[:1]
    )
    (tmp_path / "list.txt").write_text(f"{clip.key}/0000 {clip.key}/0001")
    predictions = {clip.key: replace(prediction, hands={"right_0": first})}
    (note,) = write_official(tmp_path / "pred.json", "ho3d", [clip], predictions, HandModels(), tmp_path / "list.txt")
    assert "1 of 2 pictures have no prediction" in note
    xyz, verts = read(tmp_path / "pred.json")
    assert xyz[1].shape == (21, 3)
    assert verts[1].shape == (778, 3)
    np.testing.assert_allclose(xyz[1][0], [0, 0, -0.6], atol=1e-6)


def test_what_the_scorer_could_not_use_is_refused(right, clips, tmp_path):
    clip, prediction = right
    predictions = {clip.key: prediction}
    with pytest.raises(ValueError, match="--official-list"):
        write_official(tmp_path / "pred.json", "ho3d", [clip], predictions, HandModels(), None)
    (tmp_path / "list.txt").write_text("SM1/0000")
    with pytest.raises(ValueError, match="no shard holds its sequence SM1"):
        write_official(tmp_path / "pred.json", "ho3d", [clip], predictions, HandModels(), tmp_path / "list.txt")
    only_joints = replace(prediction.hands["right_0"], params=None)
    (tmp_path / "list.txt").write_text(f"{clip.key}/0000")
    with pytest.raises(ValueError, match="has no vertices in frame 0"):
        write_official(
            tmp_path / "pred.json", "ho3d", [clip], {clip.key: replace(prediction, hands={"right_0": only_joints})},
            HandModels(), tmp_path / "list.txt",
        )  # fmt: skip
    numbered = replace(clip, key="evaluation-00000000")
    with pytest.raises(ValueError, match=r"needs all 3960 pictures, the shards have 1; .* 00000001"):
        write_official(tmp_path / "pred.json", "freihand", [numbered], {}, HandModels(), None)
    with pytest.raises(ValueError, match="is no picture of FreiHAND"):
        write_official(tmp_path / "pred.json", "freihand", clips, {}, HandModels(), None)
    assert not (tmp_path / "pred.json").exists()
