"""Landmarks and their derivatives in closed form, against the hand model and finite differences."""

import pytest
import torch
from torch.func import jacfwd, vmap

from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import joint_limits, pose_from_angles
from haptic.hand.kinematics import LandmarkKinematics
from haptic.hand.landmarks import detector_landmarks, load_landmark_model
from haptic.hand.model import load_hand_model
from haptic.records import HandParams


@pytest.fixture(scope="module")
def posed() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    lower, upper = joint_limits()
    angles = lower + torch.rand(6, 15, 3, generator=generator) * (upper - lower)
    orient = rotation_from_aa(2 * torch.randn(6, 3, generator=generator))
    transl = torch.randn(6, 3, generator=generator)
    return orient, transl, angles, torch.randn(6, 10, generator=generator)


@pytest.mark.parametrize("kind", ["mediapipe", "joints"])
def test_landmarks_in_closed_form_are_those_of_the_hand_model(kind, posed):
    model, landmark_model = load_hand_model(None), load_landmark_model(kind)
    orient, transl, angles, betas = posed
    exact = detector_landmarks(model, HandParams(orient, pose_from_angles(angles), betas, transl), landmark_model)
    error = (LandmarkKinematics(model, landmark_model).points(orient, transl, angles, betas) - exact).norm(dim=-1)
    is_tip = torch.zeros(21, dtype=torch.bool)
    is_tip[4::4] = True
    assert error[:, ~is_tip].max() < 1e-5
    assert error[:, is_tip].max() < 2e-3  # skinning and correctives, left out on purpose


@pytest.mark.parametrize("kind", ["mediapipe", "joints"])
def test_derivatives_in_closed_form_are_those_of_the_landmarks(kind, posed):
    kinematics = LandmarkKinematics(load_hand_model(None), load_landmark_model(kind), torch.float64)
    orient, transl, angles, betas = (part.double() for part in posed)

    def moved(step, orient, transl, angles, betas):
        return kinematics.points(
            (rotation_from_aa(step[:3]) @ orient)[None],
            (transl + step[3:6])[None],
            (angles + step[6:51].unflatten(0, (15, 3)))[None],
            (betas + step[51:])[None],
        )[0]

    expected = []
    for index in range(6):
        data = (orient[index], transl[index], angles[index], betas[index])
        still, step = torch.zeros(61, dtype=torch.float64), 1e-6
        columns = []
        for unknown in range(61):
            ahead, behind = still.clone(), still.clone()
            ahead[unknown], behind[unknown] = step, -step
            columns.append((moved(ahead, *data) - moved(behind, *data)) / (2 * step))
        expected.append(torch.stack(columns, dim=-1))
    found = kinematics.linearise(orient, transl, angles, betas).jacobian
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-7, rtol=0)


def test_exact_landmarks_can_be_mapped_and_differentiated(posed):
    model, landmark_model = load_hand_model(None), load_landmark_model("mediapipe")
    orient, transl, angles, betas = posed

    def landmarks(betas, orient, transl, angles):
        return detector_landmarks(model, HandParams(orient, pose_from_angles(angles), betas, transl), landmark_model)

    jacobian = vmap(jacfwd(landmarks))(betas, orient, transl, angles)
    closed = LandmarkKinematics(model, landmark_model).linearise(orient, transl, angles, betas).jacobian[..., 51:]
    is_tip = torch.zeros(21, dtype=torch.bool)
    is_tip[4::4] = True
    torch.testing.assert_close(jacobian[:, ~is_tip], closed[:, ~is_tip], atol=1e-5, rtol=0)
