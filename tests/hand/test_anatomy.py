"""Ranges of motion: axes, angles and back, what a hand can do and what it cannot."""

import math

import numpy as np
import torch
from torch.func import jacfwd, vmap

from haptic.geometry.rotations import rotation_from_aa
from haptic.hand.anatomy import (
    ABDUCTION,
    FLEXION,
    REST_ANGLES,
    clamp_to_limits,
    joint_angles,
    joint_axes,
    joint_limits,
    limit_violation,
    pose_from_angles,
    sample_pose,
)
from haptic.hand.joints import MANO_NAMES
from haptic.hand.mirror import mirror_rotation
from haptic.hand.model import load_hand_model
from haptic.records import HandParams

FINGER_KNUCKLES = (0, 3, 6, 9)  # rows of hand_pose: index, middle, little, ring


def flexed(joint_deg: dict[int, float]) -> torch.Tensor:
    angles = torch.zeros(15, 3)
    for joint, degrees in joint_deg.items():
        angles[joint, FLEXION] = math.radians(degrees)
    return pose_from_angles(angles)


def posed_joints(hand_pose: torch.Tensor) -> torch.Tensor:
    model = load_hand_model(None)
    return model.joints(HandParams(torch.eye(3), hand_pose, torch.zeros(10), torch.zeros(3)))


def test_the_zero_pose_has_no_angles_and_breaks_no_limit():
    flat = torch.eye(3).expand(15, 3, 3)
    torch.testing.assert_close(joint_angles(flat), torch.zeros(15, 3))
    assert limit_violation(flat).max() == 0


def test_axes_are_right_handed_frames():
    axes = joint_axes()
    torch.testing.assert_close(axes.transpose(-1, -2) @ axes, torch.eye(3).expand(15, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.det(axes), torch.ones(15))


def test_the_openhands_bones_lie_along_the_axes():
    model = load_hand_model(None)
    rest = model.rest_joints(torch.zeros(10))
    for joint in range(1, 16):
        if joint % 3:  # its bone ends at the next joint
            bone = rest[joint + 1] - rest[joint]
            cosine = bone @ joint_axes()[joint - 1, :, 0] / bone.norm()
            assert torch.rad2deg(torch.acos(cosine.clamp(max=1))) < 3, MANO_NAMES[joint]


def test_angles_give_the_rotation_and_the_rotation_gives_the_angles_back():
    lower, upper = joint_limits()
    share = torch.rand(200, 15, 3, generator=torch.Generator().manual_seed(0))
    angles = lower + share * (upper - lower)
    torch.testing.assert_close(joint_angles(pose_from_angles(angles)), angles, atol=2e-5, rtol=0)


def test_any_rotation_is_rebuilt_from_its_angles():
    aa = torch.randn(100, 15, 3, generator=torch.Generator().manual_seed(1))
    pose = rotation_from_aa(aa)
    torch.testing.assert_close(pose_from_angles(joint_angles(pose)), pose, atol=3e-3, rtol=0)


def test_flexion_brings_fingertips_to_the_palm_side_and_abduction_to_the_thumb_side():
    flat = posed_joints(pose_from_angles(torch.zeros(15, 3)))
    tips = {0: 8, 3: 12, 6: 20, 9: 16}
    for knuckle, tip in tips.items():
        angles = torch.zeros(15, 3)
        angles[knuckle, FLEXION] = 0.5
        assert (posed_joints(pose_from_angles(angles)) - flat)[tip, 1] < -0.02  # back of the hand is +y
        angles = torch.zeros(15, 3)
        angles[knuckle, ABDUCTION] = 0.3
        assert (posed_joints(pose_from_angles(angles)) - flat)[tip, 2] > 0.01  # thumb side is +z
    angles = torch.zeros(15, 3)
    angles[12, FLEXION] = 0.5
    little_knuckle = flat[17]
    swept = posed_joints(pose_from_angles(angles))
    assert (swept[4] - little_knuckle).norm() < (flat[4] - little_knuckle).norm() - 0.02
    angles = torch.zeros(15, 3)
    angles[12, ABDUCTION] = 0.5
    assert (posed_joints(pose_from_angles(angles)) - flat)[4, 1] < -0.02


def test_a_fist_is_within_the_limits():
    fist = flexed(
        {
            joint: degrees
            for k in FINGER_KNUCKLES
            for joint, degrees in zip((k, k + 1, k + 2), (85, 95, 70), strict=True)
        }
        | {12: 35, 13: 30, 14: 40}
    )
    assert limit_violation(fist).max() == 0
    joints = posed_joints(fist)
    assert (joints[[8, 12, 16, 20]] - joints[[5, 9, 13, 17]]).norm(dim=-1).max() < 0.06  # tips are back at the palm


def test_a_finger_bent_back_by_sixty_degrees_at_its_middle_joint_is_out_of_range():
    violation = limit_violation(flexed({4: -60}))  # the middle finger's PIP
    assert violation[4, FLEXION] > math.radians(30)
    assert (violation > 0).sum() == 1


def test_a_knuckle_bent_back_beyond_hyperextension_is_out_of_range():
    assert limit_violation(flexed({0: -80}))[0, FLEXION] > math.radians(20)
    assert limit_violation(flexed({0: -30}))[0, FLEXION] == 0


def test_violation_is_the_angle_beyond_the_limit():
    upper = joint_limits()[1][1, FLEXION]
    angles = torch.zeros(15, 3)
    angles[1, FLEXION] = upper + 0.2
    torch.testing.assert_close(limit_violation(pose_from_angles(angles))[1, FLEXION], torch.tensor(0.2))


def test_a_bent_knuckle_spreads_less():
    angles = torch.zeros(15, 3)
    angles[3, ABDUCTION] = math.radians(24)
    assert limit_violation(pose_from_angles(angles)).max() == 0
    angles[3, FLEXION] = math.radians(85)
    assert limit_violation(pose_from_angles(angles))[3, ABDUCTION] > 0.05


def test_a_left_hand_mirrored_to_the_right_has_the_same_angles():
    right = sample_pose(20, rng=np.random.default_rng(2))
    left = mirror_rotation(right)
    assert (joint_angles(left) - joint_angles(right)).abs().max() > 0.5
    torch.testing.assert_close(joint_angles(mirror_rotation(left)), joint_angles(right))


def test_published_ranges_are_counted_from_a_straight_finger():
    # The index finger's zero pose is bent by eleven degrees at its PIP: a straight finger is minus eleven from there.
    torch.testing.assert_close(torch.rad2deg(REST_ANGLES[1, FLEXION]), torch.tensor(10.8), atol=0.3, rtol=0)
    assert REST_ANGLES[0, ABDUCTION] > 0 > REST_ANGLES[6, ABDUCTION]  # index to the thumb side, little finger away


def test_clamping_leaves_natural_poses_alone_and_repairs_broken_ones():
    natural = sample_pose(50, rng=np.random.default_rng(3))
    torch.testing.assert_close(clamp_to_limits(natural), natural, atol=1e-5, rtol=0)
    broken = rotation_from_aa(torch.randn(50, 15, 3, generator=torch.Generator().manual_seed(4)))
    assert limit_violation(broken).max() > 0.3
    assert limit_violation(clamp_to_limits(broken)).max() < 1e-4


def test_sampled_poses_are_rotations_within_limits_and_reach_from_open_to_closed():
    pose = sample_pose(500, rng=np.random.default_rng(5))
    torch.testing.assert_close(torch.det(pose), torch.ones(500, 15), atol=1e-4, rtol=0)
    assert limit_violation(pose).max() < 1e-5
    pip = torch.rad2deg(joint_angles(pose)[:, 1, FLEXION])
    assert pip.min() < 5
    assert pip.max() > 80
    dip_clinical = joint_angles(pose)[:, 2, FLEXION] + REST_ANGLES[2, FLEXION]
    pip_clinical = joint_angles(pose)[:, 1, FLEXION] + REST_ANGLES[1, FLEXION]
    slope = (dip_clinical @ pip_clinical) / (pip_clinical @ pip_clinical)
    assert 0.55 < slope < 0.75


def test_the_same_seed_draws_the_same_poses():
    first, second = (sample_pose(4, rng=np.random.default_rng(6)) for _ in range(2))
    torch.testing.assert_close(first, second)


def test_violation_can_be_mapped_and_differentiated():
    aa = 0.8 * torch.randn(6, 15, 3, generator=torch.Generator().manual_seed(7))
    jacobian = vmap(jacfwd(lambda one: limit_violation(rotation_from_aa(one))))(aa)
    assert jacobian.isfinite().all()
    assert jacobian.abs().max() > 0.5
    at_rest = jacfwd(lambda one: joint_angles(rotation_from_aa(one)))(torch.zeros(15, 3))
    assert at_rest.isfinite().all()
