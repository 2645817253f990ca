"""Where a detector's landmarks sit on the hand."""

import torch

from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.joints import JOINT_NAMES
from haptic.hand.landmarks import OWN_BONE, detector_landmarks, hand_size, load_landmark_model
from haptic.hand.model import load_hand_model
from haptic.records import HandParams


def flat_hand(betas: torch.Tensor | None = None) -> HandParams:
    betas = torch.zeros(10) if betas is None else betas
    return HandParams(torch.eye(3), torch.eye(3).expand(15, 3, 3), betas, torch.zeros(3))


def test_plain_joints_are_the_models_own():
    model = load_hand_model(None)
    landmarks = detector_landmarks(model, flat_hand(), load_landmark_model("joints"))
    torch.testing.assert_close(landmarks, model.joints(flat_hand()))


def test_mediapipes_wrist_lies_towards_the_fingers_of_manos():
    model = load_hand_model(None)
    shift = (detector_landmarks(model, flat_hand(), load_landmark_model("mediapipe")) - model.joints(flat_hand()))[0]
    assert shift[0] < -0.005  # the fingers point to -x
    assert 0.005 < shift.norm() < 0.03


def test_mediapipes_fingertips_lie_behind_the_ends_of_the_fingers():
    model = load_hand_model(None)
    joints = model.joints(flat_hand())
    landmarks = detector_landmarks(model, flat_hand(), load_landmark_model("mediapipe"))
    for tip in (8, 12, 16, 20):
        bone = joints[tip] - joints[tip - 1]
        assert (landmarks[tip] - joints[tip]) @ bone < 0, JOINT_NAMES[tip]


def test_landmarks_ride_on_their_bones():
    model, landmark_model = load_hand_model(None), load_landmark_model("mediapipe")
    turn = rotation_from_aa(torch.tensor([0.3, -1.0, 2.0]))
    moved = HandParams(turn, flat_hand().hand_pose, torch.zeros(10), torch.tensor([0.1, 0.2, 0.5]))
    wrist = model.rest_joints(torch.zeros(10))[0]
    expected = (detector_landmarks(model, flat_hand(), landmark_model) - wrist) @ turn.T + wrist + moved.transl
    torch.testing.assert_close(detector_landmarks(model, moved, landmark_model), expected, atol=1e-6, rtol=0)


def test_offsets_grow_with_the_hand():
    model, landmark_model = load_hand_model(None), load_landmark_model("mediapipe")
    large = torch.zeros(10)
    large[0] = 2.0 if hand_size(model, torch.eye(10)[0]) > hand_size(model, torch.zeros(10)) else -2.0
    ratio = hand_size(model, large) / hand_size(model, torch.zeros(10))
    assert ratio > 1.05

    def wrist_offset(betas: torch.Tensor) -> torch.Tensor:
        params = flat_hand(betas)
        return (detector_landmarks(model, params, landmark_model) - model.joints(params))[0].norm()

    torch.testing.assert_close(wrist_offset(large) / wrist_offset(torch.zeros(10)), ratio, atol=1e-4, rtol=0)


def test_every_landmark_has_a_bone_and_a_believable_spread():
    landmark_model = load_landmark_model("mediapipe")
    assert len(OWN_BONE) == len(JOINT_NAMES)
    assert OWN_BONE[4] == 15  # the thumb's tip belongs to its last bone
    assert landmark_model.frame_joint.min() >= 0
    assert landmark_model.frame_joint.max() < 16
    assert 0.01 < landmark_model.spread.min() < landmark_model.spread.max() < 0.15
