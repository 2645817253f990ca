"""Measuring landmark offsets: known ones are found again, without a detector."""

import numpy as np
import torch

from data_prep.measure_landmarks import FOCAL_PX, IMAGE_PX, Views, open_loop, random_params, solve_offsets, with_forearm
from haptic.geometry.cameras import intrinsics, project
from haptic.hand.landmarks import detector_landmarks, load_landmark_model
from haptic.hand.model import load_hand_model


def test_offsets_are_found_again_in_spite_of_noise_and_gross_mistakes():
    model, landmark_model = load_hand_model(None), load_landmark_model("mediapipe")
    params = random_params(model, 300, rng=np.random.default_rng(0))
    K = intrinsics(FOCAL_PX, width=IMAGE_PX, height=IMAGE_PX).expand(300, 3, 3)
    seen = project(detector_landmarks(model, params, landmark_model), K)
    generator = torch.Generator().manual_seed(0)
    side = (seen.amax(1) - seen.amin(1)).amax(-1)
    seen = seen + 0.01 * side[:, None, None] * torch.randn(seen.shape, generator=generator)
    seen[::15] += 0.5 * side[::15, None, None]
    offsets, frame_joint, spread, before = solve_offsets(model, Views(params, K, seen))
    np.testing.assert_allclose(offsets, landmark_model.offset.numpy(), atol=0.012)  # of the hand's size: 1 mm
    assert (frame_joint == landmark_model.frame_joint.numpy()).mean() > 0.8
    np.testing.assert_allclose(spread, 0.01, atol=0.003)
    assert (before > spread).all()


def test_a_forearm_closes_the_wrist_and_leaves_the_hand_as_it_is():
    model = load_hand_model(None)
    verts, faces = model.layer.v_template.numpy(), model.faces.numpy()
    assert len(open_loop(faces)) == 16
    with_arm, arm_faces = with_forearm(verts, faces, np.eye(3))
    np.testing.assert_array_equal(with_arm[:778], verts)
    assert with_arm[:, 0].max() > verts[:, 0].max() + 0.15  # towards the elbow, which is +x
    assert len(open_loop(arm_faces)) == 16  # the elbow is the only rim left
    assert set(open_loop(arm_faces)).isdisjoint(open_loop(faces))
