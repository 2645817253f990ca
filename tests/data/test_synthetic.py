"""Synthetic clips: the truth is where the picture shows it, hands are made like hands, chance is repeatable."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.data.synthetic.limbs import limb_topology, limb_verts
from haptic.data.synthetic.render import RenderConfig, SceneRenderer
from haptic.data.synthetic.scene import (
    SceneConfig,
    camera_T_body_cam,
    hand_params_body,
    sample_scene,
    scene_camera,
    scene_trajectories,
    spline,
)
from haptic.geometry.cameras import project
from haptic.geometry.raster import vertex_normals
from haptic.geometry.transforms import apply_transform
from haptic.hand.anatomy import limit_violation
from haptic.hand.mirror import mirror_params
from haptic.hand.model import load_hand_model, trajectory_joints, trajectory_mesh

SMALL = SceneConfig(width_px=160, height_px=120, num_frames=12)
CHEAP = RenderConfig(edge_samples=1, shadow_rays=2)


@pytest.fixture(scope="module")
def model():
    return load_hand_model(None)


@pytest.fixture(scope="module")
def scene(model):
    return sample_scene(replace(SMALL, view="egocentric"), model, rng=np.random.default_rng(3))


@pytest.fixture(scope="module")
def renderer(scene, model):
    quiet = replace(scene.look, noise=0.0, light_softness=0.001, sleeve_start_m=0.5)
    return SceneRenderer(replace(scene, look=quiet), model, CHEAP)


def with_motion(scene, index, **changes):
    hands = list(scene.hands)
    hands[index] = replace(hands[index], **changes)
    return replace(scene, hands=tuple(hands))


def test_equal_seeds_give_equal_clips_and_others_do_not(model):
    def joints(seed):
        drawn = sample_scene(SMALL, model, rng=np.random.default_rng(seed))
        return torch.stack([trajectory_joints(model, hand) for hand in scene_trajectories(drawn, model).values()])

    assert torch.equal(joints(5), joints(5))
    assert (joints(5) - joints(6)).abs().max() > 0.05


def test_equal_scenes_give_equal_pictures(renderer, model):
    again = SceneRenderer(renderer.scene, model, CHEAP)
    np.testing.assert_array_equal(renderer.frame(4), again.frame(4))


def test_drawn_clips_show_two_hands_within_their_ranges_of_motion_and_apart(model):
    for seed in range(4):
        drawn = sample_scene(SMALL, model, rng=np.random.default_rng(seed))
        hands = scene_trajectories(drawn, model)
        assert set(hands) == {"right_0", "left_0"}
        for hand in hands.values():
            params = hand.params if hand.is_right else mirror_params(hand.params)
            assert torch.rad2deg(limit_violation(params.hand_pose)).max() < 3
            joints_img = project(trajectory_joints(model, hand), hand.camera.K)
            inside = (joints_img >= 0).all(-1) & (joints_img < torch.tensor([160, 120])).all(-1)
            assert inside.float().mean() > 0.7
        right, left = (trajectory_joints(model, hand) for hand in hands.values())
        assert torch.cdist(right, left).min() > 0.02


def test_the_first_camera_is_the_world_and_a_hand_is_where_the_body_has_it(scene, model):
    camera = scene_camera(scene, scene.frame_time_s)
    torch.testing.assert_close(camera.T_world_cam[0], torch.eye(4), atol=1e-6, rtol=0)
    T_world_body = torch.linalg.inv(camera_T_body_cam(scene, np.zeros(1)))
    for hand, trajectory in zip(scene.hands, scene_trajectories(scene, model).values(), strict=True):
        wrist_world = apply_transform(camera.T_world_cam, trajectory_joints(model, trajectory)[:, :1])
        wrist_body = spline(hand.wrist_body, scene.frame_time_s, scene.duration_s)[:, None]
        if not hand.is_right:
            wrist_body = wrist_body * torch.tensor([-1.0, 1.0, 1.0])
        torch.testing.assert_close(
            wrist_world, apply_transform(T_world_body.expand(12, 4, 4), wrist_body), atol=1e-5, rtol=0
        )


def test_palms_face_down_at_no_supination_and_thumbs_point_inwards_on_both_sides(scene, model):
    for index, inwards in ((0, -1.0), (1, 1.0)):
        straight = np.zeros(len(scene.hands[index].supination))
        level = scene.hands[index].wrist_body + np.array([0, 0, -0.3])
        posed = with_motion(
            scene, index, supination=straight, wrist_flexion=straight, wrist_deviation=straight, elbow_body=level
        )
        params = hand_params_body(posed, posed.hands[index], model, np.zeros(1))
        back, thumb = params.global_orient[0, :, 1], params.global_orient[0, :, 2]
        fingers = -params.global_orient[0, :, 0] * (1 if index == 0 else -1)  # a left hand's rest fingers point to +x
        assert back[1] < -0.99  # up
        assert thumb[0] * inwards > 0.99
        assert fingers[2] > 0.99  # away from the body


def test_a_spline_stays_within_its_control_values_and_meets_the_outer_ones():
    values = np.array([0.0, 1.0, -1.0, 1.0, 0.5])
    curve = spline(values, np.linspace(0, 2, 200), 2.0)
    assert curve[0] == 0
    assert curve[-1] == 0.5
    assert curve.min() >= -1
    assert curve.max() <= 1
    assert curve.diff(n=2).abs().max() < 2e-3  # no kink
    torch.testing.assert_close(spline(np.array([2.0, 4.0]), np.array([0.5]), 2.0), torch.tensor([2.5]))


def test_the_picture_is_made_of_the_very_hands_that_the_truth_states(renderer, model):
    scene = renderer.scene
    time_s = scene.frame_time_s[7:8]
    for hand, trajectory in zip(scene.hands, scene_trajectories(scene, model).values(), strict=True):
        verts, faces = renderer._limb_verts(hand, time_s)
        truth = trajectory_mesh(model, trajectory[7:8]).verts[0].numpy()
        np.testing.assert_allclose(verts[:778], truth, atol=1e-6)
        # Outward normals on either side: a mirrored hand whose faces were not turned would look inside out.
        away = vertex_normals(verts, faces)[:778] * (truth - truth.mean(axis=0))
        assert (away.sum(axis=-1) > 0).mean() > 0.6


def test_the_arm_closes_the_wrist_and_leaves_the_hand_as_it_is(model):
    topology = limb_topology(model)
    hand = model.layer.v_template.numpy()
    verts = limb_verts(
        topology,
        hand,
        orientation=np.eye(3),
        elbow=np.array([0.33, 0.08, 0.02]),
        shoulder=np.array([0.45, -0.2, 0.1]),
    )
    np.testing.assert_array_equal(verts[:778], hand)
    edges = np.concatenate([topology.faces[:, [0, 1]], topology.faces[:, [1, 2]], topology.faces[:, [2, 0]]])
    assert len(np.unique(edges, axis=0)) == len(edges)  # every edge is walked once each way: consistently wound
    open_edges = set(map(tuple, edges.tolist())) - set(map(tuple, edges[:, ::-1].tolist()))
    at_shoulder = verts[sorted({vertex for edge in open_edges for vertex in edge})]
    assert len(open_edges) == 32  # sixteen, split in two
    assert np.linalg.norm(at_shoulder - [0.45, -0.2, 0.1], axis=-1).max() < 0.09
    # The skin goes on smoothly: no face of the first rings is longer than the rings are apart.
    near_wrist = verts[topology.faces][np.abs(verts[topology.faces][..., 0] - 0.104).max(axis=-1) < 0.012]
    assert np.linalg.norm(np.diff(near_wrist, axis=1), axis=-1).max() < 0.015


def test_hands_are_seen_where_the_truth_says_and_cast_shadows_elsewhere(renderer, model):
    index = 5
    with_hands = renderer.frame(index).astype(int)
    empty = SceneRenderer(replace(renderer.scene, hands=()), model, CHEAP).frame(index).astype(int)
    change = np.abs(with_hands - empty).max(axis=-1)
    on_hand = np.zeros(change.shape, bool)
    truth = scene_trajectories(renderer.scene, model)
    for name, visible in renderer.joints_visible(index).items():
        joints_img = project(trajectory_joints(model, truth[name])[index], truth[name].camera.K[index]).round().int()
        columns, rows = joints_img[torch.from_numpy(visible)].T.numpy()
        assert visible.sum() >= 8
        assert (change[rows, columns] > 8).mean() > 0.9
    for hand in renderer.scene.hands:
        verts, _ = renderer._limb_verts(hand, renderer.scene.frame_time_s[index : index + 1])
        in_front = verts[verts[:, 2] > 0.05]
        points = project(torch.from_numpy(in_front), torch.from_numpy(renderer.scene.camera.K).float()).round().int()
        for column, row in points.tolist():
            on_hand[max(row - 4, 0) : max(row + 5, 0), max(column - 4, 0) : max(column + 5, 0)] = True
    beside = ~on_hand
    darker = (empty - with_hands).min(axis=-1)[beside] > 10
    brighter = (with_hands - empty).max(axis=-1)[beside] > 10
    assert darker.mean() > 0.002
    assert brighter.mean() < 0.1 * darker.mean()


def test_a_hand_behind_the_other_is_not_seen(scene, model):
    camera = scene.camera
    place, target = camera.place_body[0], camera.target_body[0]
    still = replace(
        scene,
        camera=replace(
            camera, place_body=np.tile(place, (4, 1)), target_body=np.tile(target, (4, 1)), roll=np.zeros(4)
        ),
    )
    ahead = (target - place) / np.linalg.norm(target - place)
    for index, distance in ((0, 0.3), (1, 0.5)):
        # The palm's middle lies 5 cm beyond the wrist; both palms on the camera's axis.
        wrist = place + distance * ahead - np.array([0, 0, 0.05])
        wrist[0] *= 1 if index == 0 else -1
        still = with_motion(still, index, wrist_body=np.tile(wrist, (4, 1)))
    visible = SceneRenderer(still, model, CHEAP).joints_visible(3)
    assert visible["left_0"].sum() < visible["right_0"].sum()
    alone = SceneRenderer(replace(still, hands=still.hands[1:]), model, CHEAP).joints_visible(3)
    assert (~visible["left_0"] & alone["left_0"]).sum() >= 3


def test_dark_and_light_skin_differ_and_palms_differ_less_than_backs(model):
    from haptic.data.synthetic.textures import paint_skin

    def tones(skin):
        palm, back = paint_skin(model, skin=skin, redness=0.5, rng=np.random.default_rng(0))
        return palm.levels[0].mean(), back.levels[0].mean()

    (light_palm, light_back), (dark_palm, dark_back) = tones(0.0), tones(1.0)
    assert light_back > 3 * dark_back
    assert light_palm / dark_palm < 0.8 * light_back / dark_back


@pytest.mark.parametrize(
    "bad", [{"num_frames": 0}, {"fps": 0.0}, {"fov_deg": (80.0, 50.0)}, {"seconds_per_gesture": (0.0, 1.0)}]
)
def test_impossible_clips_are_refused_in_words(bad):
    with pytest.raises(ValueError, match="expected"):
        SceneConfig(**bad)


def test_impossible_pictures_are_refused_in_words():
    with pytest.raises(ValueError, match="shadow_rays 0"):
        RenderConfig(shadow_rays=0)


def test_more_exposures_blur_what_moves(renderer, model):
    blurred = SceneRenderer(renderer.scene, model, replace(CHEAP, exposure_samples=3, exposure_s=0.1)).frame(5)
    sharpness = [np.abs(np.diff(picture.astype(float), axis=1)).mean() for picture in (renderer.frame(5), blurred)]
    assert sharpness[1] < 0.95 * sharpness[0]
