"""Refined hands are nearer to the truth, smooth, within range, and whole: no seam, no lag, no pull of outliers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from haptic.geometry.motion import acceleration, jerk
from haptic.geometry.rotations import rotation_from_aa
from haptic.geometry.transforms import apply_transform, invert_transform, make_transform
from haptic.hand.mirror import mirror_params
from haptic.hand.model import HandModel, trajectory_joints
from haptic.records import Camera, HandParams, Trajectory
from haptic.refinement.refine import refine
from haptic.refinement.report import measure_quality
from haptic.refinement.stages import BLOCKS, RefinementConfig, StageConfig, Weights

FAST_YAML = Path(__file__).parents[2] / "configs" / "refine" / "fast.yaml"


def about_wrist_mm(model: HandModel, trajectory: Trajectory, truth: Trajectory) -> torch.Tensor:
    """Error of the hand's form and direction, per frame; its size, hence distance, no single camera can tell."""
    joints, true_joints = trajectory_joints(model, trajectory), trajectory_joints(model, truth)
    return 1e3 * ((joints - joints[:, :1]) - (true_joints - true_joints[:, :1])).norm(dim=-1).mean(-1)


def place_error_mm(model: HandModel, trajectory: Trajectory, truth: Trajectory) -> torch.Tensor:
    """Error of the wrist's path once its mean distance, which the unknown size scales, is that of the truth."""
    path, true_path = trajectory_joints(model, trajectory)[:, 0], trajectory_joints(model, truth)[:, 0]
    path = path * (true_path[:, 2].mean() / path[:, 2].mean())
    return 1e3 * (path - true_path).norm(dim=-1)


@pytest.fixture(scope="module")
def both_hands(make_scene: Callable, model: HandModel) -> tuple:
    scenes = [make_scene(40, 0), make_scene(36, 1, is_right=False)]
    return scenes, refine(model, [scene.initial for scene in scenes], [scene.track for scene in scenes])


def test_refinement_brings_both_hands_nearer_to_the_truth(both_hands: tuple, model: HandModel):
    for scene, (refined, _) in zip(*both_hands, strict=True):
        before = about_wrist_mm(model, scene.initial, scene.truth).mean()
        after = about_wrist_mm(model, refined, scene.truth).mean()
        assert after < 0.75 * before
        assert (
            place_error_mm(model, refined, scene.truth).mean()
            < 0.5 * place_error_mm(model, scene.initial, scene.truth).mean()
        )


def test_refinement_reports_what_became_better(both_hands: tuple):
    for _, report in both_hands[1]:
        assert report.after.reprojection_box < 0.3 * report.before.reprojection_box
        assert report.after.reprojection_px < 0.3 * report.before.reprojection_px
        assert report.after.within_tenth_share > 0.99 > report.before.within_tenth_share
        assert report.after.jerk_m_s3 < 0.1 * report.before.jerk_m_s3
        assert report.after.limit_excess_deg < 0.5 * report.before.limit_excess_deg
        assert [stage.name for stage in report.stages] == ["place", "all"]
        assert all(stage.objective_after < stage.objective_before for stage in report.stages)
        assert report.to_dict()["after"]["jerk_m_s3"] == report.after.jerk_m_s3


def test_the_report_measures_what_was_given_and_what_came_back(both_hands: tuple, model: HandModel):
    scenes, results = both_hands
    joints = trajectory_joints(model, results[1][0])
    expected = jerk(joints, scenes[1].truth.time_s).norm(dim=-1).mean()
    assert results[1][1].after.jerk_m_s3 == pytest.approx(float(expected), rel=1e-2)


def test_everything_but_the_parameters_stays(both_hands: tuple):
    for scene, (refined, _) in zip(*both_hands, strict=True):
        for name in ("frame_index", "time_s", "confidence", "observed", "is_right"):
            assert torch.equal(getattr(refined, name), getattr(scene.initial, name))
        assert refined.params.transl.dtype == scene.initial.params.transl.dtype
        assert (refined.params.betas == refined.params.betas[0]).all()
        rotations = refined.params.hand_pose
        identity = torch.eye(3).expand_as(rotations)
        torch.testing.assert_close(rotations @ rotations.mT, identity, atol=1e-5, rtol=0)


def test_a_hand_is_refined_the_same_alone_and_in_company(both_hands: tuple, model: HandModel):
    scenes, results = both_hands
    for scene, (together, _) in zip(scenes, results, strict=True):
        ((alone, _),) = refine(model, [scene.initial], [scene.track])
        torch.testing.assert_close(alone.params.transl, together.params.transl, atol=1e-5, rtol=0)
        torch.testing.assert_close(alone.params.hand_pose, together.params.hand_pose, atol=1e-4, rtol=0)


def test_a_left_hand_is_refined_as_its_mirror_image(make_scene: Callable, model: HandModel):
    right, left = make_scene(20, 4), make_scene(20, 4, is_right=False)
    refined = refine(model, [right.initial, left.initial], [right.track, left.track])
    turned = mirror_params(refined[1][0].params)
    torch.testing.assert_close(turned.transl, refined[0][0].params.transl, atol=1e-4, rtol=0)
    torch.testing.assert_close(turned.hand_pose, refined[0][0].params.hand_pose, atol=1e-3, rtol=0)


def test_frames_where_the_detector_saw_something_else_do_not_pull_the_hand(make_scene: Callable, model: HandModel):
    scene = make_scene(40, 5)
    wrong = scene.track.joints_img.clone()
    wrong[20:23] += 1.5 * scene.track.box_side_px[20:23, None, None]
    track = replace(scene.track, joints_img=wrong)
    ((clean, _),) = refine(model, [scene.initial], [scene.track])
    ((misled, _),) = refine(model, [scene.initial], [track])
    away = (trajectory_joints(model, misled) - trajectory_joints(model, clean)).norm(dim=-1)
    assert away.max() < 0.035  # a box and a half is 0.25 m; these frames are as if not seen


def test_an_initial_estimate_that_followed_wrong_detections_is_pulled_back(make_scene: Callable, model: HandModel):
    scene = make_scene(40, 5)
    wrong_img, wrong_place = scene.track.joints_img.clone(), scene.initial.params.transl.clone()
    wrong_img[20:22] += scene.track.box_side_px[20:22, None, None]
    wrong_place[20:22, :2] += 0.15
    track = replace(scene.track, joints_img=wrong_img)
    initial = replace(scene.initial, params=replace(scene.initial.params, transl=wrong_place))
    ((refined, _),) = refine(model, [initial], [track])
    ((clean, _),) = refine(model, [scene.initial], [scene.track])
    away = (trajectory_joints(model, refined) - trajectory_joints(model, clean)).norm(dim=-1)
    assert away.max() < 0.03


def test_filled_frames_are_carried_by_the_motion_around_them(make_scene: Callable, model: HandModel):
    scene = make_scene(40, 6)
    is_seen = torch.ones(40, dtype=torch.bool)
    is_seen[16:24] = False
    track = replace(
        scene.track,
        observed=is_seen,
        joints_img=torch.where(is_seen[:, None, None], scene.track.joints_img, 0.0),
        joints_img_weight=scene.track.joints_img_weight * is_seen[:, None],
        landmarks_weight=scene.track.landmarks_weight * is_seen,
    )
    ((refined, report),) = refine(model, [scene.initial], [track])
    assert place_error_mm(model, refined, scene.truth)[16:24].max() < 15
    assert about_wrist_mm(model, refined, scene.truth)[16:24].max() < 20
    assert report.after.within_tenth_share > 0.99


def test_jitter_in_depth_goes_and_a_real_approach_stays_without_lag(make_scene: Callable, model: HandModel):
    scene = make_scene(90, 7)
    time_s = scene.truth.time_s
    depth = 0.55 + 0.12 * torch.sin(2 * torch.pi * 0.8 * time_s)
    params = scene.truth.params
    betas = torch.zeros_like(params.betas)
    truth = replace(params, betas=betas, transl=torch.stack([0 * depth, 0 * depth, depth], dim=-1))
    scene = reseen(scene, truth, model, size_noise=0.03)
    ((refined, _),) = refine(model, [scene.initial], [scene.track])
    refined_depth = refined.params.transl[:, 2]
    swing = (refined_depth - refined_depth.mean()) / (depth - depth.mean()).std()
    assert 0.93 < swing.std() < 1.05
    initial_depth = scene.initial.params.transl[:, 2]
    assert jerk(refined_depth, time_s).abs().mean() < 0.1 * jerk(initial_depth, time_s).abs().mean()
    assert (refined_depth - depth).std() < 0.5 * (initial_depth - depth).std()
    lags = range(-4, 5)
    centred = (depth - depth.mean())[10:-10]
    match = [float((swing[10 + lag : 80 + lag] * centred).sum()) for lag in lags]
    assert lags[max(range(9), key=match.__getitem__)] == 0


def reseen(scene: object, params: HandParams, model: HandModel, *, size_noise: float) -> object:
    """The same scene with other true motion; the whole picture of the hand grows and shrinks at random."""
    from haptic.geometry.cameras import project

    generator = torch.Generator().manual_seed(11)
    truth = replace(scene.truth, params=params)
    joints = model.joints(params)
    joints_img = project(joints, truth.camera.K)
    growth = 1 + size_noise * torch.randn(len(joints), 1, 1, generator=generator)
    centre = joints_img.mean(1, keepdim=True)
    joints_img = centre + (joints_img - centre) * growth
    side_px = (joints_img.amax(1) - joints_img.amin(1)).amax(-1)
    track = replace(
        scene.track, joints_img=joints_img, box_side_px=side_px, landmarks=joints - joints.mean(1, keepdim=True)
    )
    initial = replace(truth, params=replace(params, transl=params.transl / growth[:, 0]))
    return replace(scene, truth=truth, track=track, initial=initial)


def test_smoothness_is_that_of_the_world_when_the_camera_moves(make_scene: Callable, model: HandModel):
    scene = make_scene(40, 8)
    shake = rotation_from_aa(0.02 * torch.randn(40, 3, generator=torch.Generator().manual_seed(2)))
    T_world_cam = make_transform(shake, torch.zeros(40, 3))
    T_cam_world = invert_transform(T_world_cam)
    steady = scene.truth.params

    def seen_by_shaking(params: HandParams) -> HandParams:
        wrist = model.rest_joints(params.betas)[:, 0]
        place = apply_transform(T_cam_world, (params.transl + wrist)[:, None])[:, 0] - wrist
        return replace(params, global_orient=T_cam_world[:, :3, :3] @ params.global_orient, transl=place)

    camera = Camera(K=scene.truth.camera.K, T_world_cam=T_world_cam)
    truth = replace(scene.truth, params=seen_by_shaking(steady), camera=camera)
    scene = reseen(replace(scene, truth=truth), truth.params, model, size_noise=0.01)
    ((refined, _),) = refine(model, [scene.initial], [scene.track])
    joints_world = apply_transform(T_world_cam, trajectory_joints(model, refined))
    in_world = acceleration(joints_world, truth.time_s).norm(dim=-1).mean()
    in_cam = acceleration(trajectory_joints(model, refined), truth.time_s).norm(dim=-1).mean()
    assert in_cam > 5 * in_world


def test_time_between_frames_may_differ(make_scene: Callable, model: HandModel):
    scene = make_scene(80, 9)
    kept = torch.cat([torch.arange(0, 40), torch.arange(40, 80, 2)])

    def thinned(record):
        record = record[kept]
        return replace(record, frame_index=torch.arange(len(kept)))

    truth, initial, track = thinned(scene.truth), thinned(scene.initial), thinned(scene.track)
    ((refined, _),) = refine(model, [initial], [track])
    assert about_wrist_mm(model, refined, truth).mean() < 0.75 * about_wrist_mm(model, initial, truth).mean()
    assert place_error_mm(model, refined, truth)[38:44].max() < 12


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4])
def test_the_shortest_videos_are_refined_too(make_scene: Callable, model: HandModel, num_frames: int):
    scene = make_scene(num_frames, 10)
    ((refined, report),) = refine(model, [scene.initial], [scene.track])
    assert report.after.reprojection_box < report.before.reprojection_box
    assert all(bool(value.isfinite().all()) for value in vars(refined.params).values())


def test_a_depth_that_the_network_told_is_kept_where_pixels_leave_it_open(make_scene: Callable, model: HandModel):
    scene = make_scene(30, 5)
    # A larger hand farther away looks the same; the shape prior alone would decide.
    known = replace(
        scene.initial.params, transl=scene.truth.params.transl * 1.1, betas=torch.zeros_like(scene.truth.params.betas)
    )
    initial = replace(scene.initial, params=known)
    moved_m = []
    for weight in (0, 10, 100):
        config = RefinementConfig(network_depth=weight).from_network()
        ((refined, report),) = refine(model, [initial], [scene.track], config)
        moved_m.append(float((refined.params.transl - known.transl)[:, 2].abs().mean()))
        assert report.after.within_tenth_share > 0.99
    assert moved_m[2] < 0.6 * moved_m[0]
    assert moved_m[2] < moved_m[1] < moved_m[0]


def test_a_track_without_any_detection_stays_finite(make_scene: Callable, model: HandModel):
    scene = make_scene(6, 12)
    nothing = replace(scene.track, observed=torch.zeros(6, dtype=torch.bool))
    ((refined, report),) = refine(model, [scene.initial], [nothing])
    assert all(bool(value.isfinite().all()) for value in vars(refined.params).values())
    assert report.after.within_tenth_share == 0


def test_no_tracks_give_no_results(model: HandModel):
    assert refine(model, [], []) == []


@pytest.mark.slow
def test_a_long_track_has_no_seam(make_scene: Callable, model: HandModel):
    scene = make_scene(700, 13)
    stages = (StageConfig(name="all", free=BLOCKS, max_steps=6),)
    ((whole, _),) = refine(model, [scene.initial], [scene.track], RefinementConfig(stages, chunk_frames=700))
    ((pieces, _),) = refine(model, [scene.initial], [scene.track], RefinementConfig(stages, chunk_frames=300))
    joints, joints_pieces = trajectory_joints(model, whole), trajectory_joints(model, pieces)
    assert (joints - joints_pieces).norm(dim=-1).max() < 1e-5
    size = acceleration(joints_pieces, scene.truth.time_s).norm(dim=-1).mean(-1)
    for border in (300, 600):
        assert size[border - 4 : border + 3].max() < size.quantile(0.99)


def test_a_track_solved_in_pieces_has_no_seam(make_scene: Callable, model: HandModel):
    scene = make_scene(30, 13)
    ((whole, _),) = refine(model, [scene.initial], [scene.track])
    ((pieces, _),) = refine(model, [scene.initial], [scene.track], RefinementConfig(chunk_frames=8))
    torch.testing.assert_close(trajectory_joints(model, whole), trajectory_joints(model, pieces), atol=1e-5, rtol=0)


def test_what_does_not_belong_together_is_refused_in_words(make_scene: Callable, model: HandModel):
    scene, other = make_scene(5, 0), make_scene(6, 0)
    with pytest.raises(ValueError, match="5 frames and the track's 6"):
        refine(model, [scene.initial], [other.track])
    with pytest.raises(ValueError, match="one of each per hand"):
        refine(model, [scene.initial], [])
    with pytest.raises(ValueError, match="a left hand and the other a right one"):
        refine(model, [scene.initial], [make_scene(5, 0, is_right=False).track])
    stopped = replace(scene.track, time_s=torch.zeros(5))
    with pytest.raises(ValueError, match="time_s does not increase"):
        refine(model, [scene.initial], [stopped])


def test_stages_that_make_no_sense_are_refused_in_words():
    with pytest.raises(ValueError, match="at least one of"):
        StageConfig(name="nothing", free=())
    with pytest.raises(ValueError, match="name each at most once"):
        StageConfig(name="twice", free=("transl", "transl"))
    with pytest.raises(ValueError, match="above zero"):
        StageConfig(name="hard", free=BLOCKS, robust_scale=0.0)
    with pytest.raises(ValueError, match=r"Weights\.acceleration is -1"):
        Weights(acceleration=-1.0)
    with pytest.raises(ValueError, match="3 or more"):
        RefinementConfig(chunk_frames=2)
    with pytest.raises(ValueError, match="network_depth is nan"):
        RefinementConfig(network_depth=float("nan"))
    with pytest.raises(ValueError, match="may appear once"):
        RefinementConfig(stages=(StageConfig("a", BLOCKS), StageConfig("a", BLOCKS)))


def test_the_fast_config_on_disk_is_the_default_one():
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(RefinementConfig, None)
    parsed = parser.instantiate_classes(parser.parse_args([f"--config={FAST_YAML}"]))
    del parsed["config"]
    assert RefinementConfig(**parsed.as_dict()) == RefinementConfig()


def test_measured_quality_of_the_truth_is_that_of_the_noise(make_scene: Callable, model: HandModel):
    from haptic.hand.landmarks import load_landmark_model

    scene = make_scene(30, 14, noise_box=0.01)
    quality = measure_quality(model, scene.truth, scene.track, landmark_model=load_landmark_model("joints"))
    assert quality.reprojection_box == pytest.approx(0.01 * 1.177, rel=0.1)  # the median of a Rayleigh distribution
    assert quality.within_tenth_share == 1
    assert quality.limit_excess_share < 0.01
