"""Checkpoints on a full disk, the logbook after a crash, validation and pictures of known answers."""

import csv
import logging
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch

from haptic.models.haptic import Haptic
from haptic.records import HandPrediction
from haptic.training.checkpointing import CheckpointFolder, RunState, changed_fields, read_run
from haptic.training.logbook import Logbook
from haptic.training.pictures import PREDICTED, TILE_PX, TRUE, draw_predictions
from haptic.training.validation import (
    IMG_ERROR,
    best_value,
    gather_windows,
    join_track,
    scored_windows,
    validation_scores,
)


@pytest.fixture
def network(tiny_network):
    torch.manual_seed(0)
    return Haptic(tiny_network)


def state_at(network, step):
    module = {"step": step, "network": None}
    return RunState(weights=network.state_dict(), module=module, data={"next_batch": step}, config={}, best=None)


def test_the_last_few_checkpoints_are_kept_and_the_best(network, tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (10, 20, 30, 40):
        assert folder.save(network, state_at(network, step), hand_model_name="openhand", is_best=step == 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.ckpt", "last.ckpt", "step_00000030.ckpt", "step_00000040.ckpt",
    ]  # fmt: skip
    assert read_run(folder.last).module["step"] == 40
    assert read_run(folder.best).module["step"] == 20


def test_a_full_disk_leaves_the_old_checkpoint_whole_and_is_said(network, tmp_path, caplog):
    folder = CheckpointFolder(tmp_path, keep=2)
    assert folder.save(network, state_at(network, 1), hand_model_name="openhand")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a file may not grow beyond: as on a full disk
    try:
        with caplog.at_level(logging.ERROR):
            assert not folder.save(network, state_at(network, 2), hand_model_name="openhand")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_run(folder.last).module["step"] == 1
    assert "step 2 could not be written" in caplog.text
    assert "the one before is whole" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "step_00000001.ckpt"]


def test_shipped_weights_are_no_run_to_go_on_from(network, tmp_path):
    from haptic.models.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "last.ckpt", network, hand_model_name="openhand")
    with pytest.raises(ValueError, match=r"start a new run from them with run\.init"):
        read_run(tmp_path / "last.ckpt")


def test_changed_fields_are_named_with_both_values():
    changed = changed_fields({"a": 1, "b": 2, "c": [1]}, {"a": 1, "b": 3, "c": [1], "d": None})
    assert changed == ["b (was 2, is 3)", "d (was None, is None)"]


def test_the_logbook_forgets_what_comes_after_the_checkpoint_and_lines_that_were_cut_off(tmp_path):
    logbook = Logbook(tmp_path)
    for step in (1, 2, 3):
        logbook.write(step, {"train/loss": 1 / step})
    with logbook.path.open("a") as file:
        file.write("4,0.2")
    logbook.go_back_to(2)
    logbook.write(3, {"train/loss": 0.125})
    with logbook.path.open(newline="") as file:
        rows = [(row["step"], float(row["train/loss"])) for row in csv.DictReader(file)]
    assert rows == [("1", 1.0), ("2", 0.5), ("3", 0.125)]


def test_numbers_in_the_csv_are_the_numbers_that_were_computed(tmp_path):
    value = float(torch.tensor(1 / 3))  # single precision
    Logbook(tmp_path).write(1, {"train/loss": value})
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert np.float32(next(csv.DictReader(file))["train/loss"]) == np.float32(value)


# --- validation


def true_prediction(clips, *, depth_error=0.0):
    """What a perfect network would say, but for an error in how fast the hand goes away."""
    params = clips.targets.params
    depth = params.transl[..., 2]
    ray = (clips.box_center_img - clips.camera.K[..., :2, 2]) / clips.camera.K[..., 0, 0, None]
    steps = torch.arange(depth.shape[1])
    return HandPrediction(
        global_orient=params.global_orient,
        hand_pose=params.hand_pose,
        betas=params.betas,
        scale=2 * clips.camera.K[..., 0, 0] / (clips.box_side_px * depth),
        shift_crop=params.transl[..., :2] - ray * depth[..., None],
        depth=depth + depth_error * steps + 7.0,  # where a window starts means nothing
    )


def windows_of(clips, prediction, spans):
    """Cut one clip into windows, as the validation loader gives them."""
    found = []
    for start, stop in spans:
        cut = replace(
            clips,
            **{
                name: getattr(clips, name)[:, start:stop]
                for name in ("frame_index", "place_weight", "camera_weight", "box_center_img", "box_side_px")
            },
            camera=type(clips.camera)(
                K=clips.camera.K[:, start:stop], T_world_cam=clips.camera.T_world_cam[:, start:stop]
            ),
            targets=replace(
                clips.targets,
                joints_cam=clips.targets.joints_cam[:, start:stop],
                joints_cam_weight=clips.targets.joints_cam_weight[:, start:stop],
                joints_img=clips.targets.joints_img[:, start:stop],
                joints_img_weight=clips.targets.joints_img_weight[:, start:stop],
                params_weight=clips.targets.params_weight[:, start:stop],
                params=type(clips.targets.params)(
                    **{name: getattr(clips.targets.params, name)[:, start:stop] for name in PARAM_NAMES}
                ),
            ),
            **{name: getattr(clips, name)[:, start:stop] for name in REST},
        )
        part = HandPrediction(**{name: getattr(prediction, name)[:, start:stop] for name in prediction.__dict__})
        found += scored_windows(part, cut)
    return found


PARAM_NAMES = ("global_orient", "hand_pose", "betas", "transl")
REST = ("crops", "frames", "crop_gain", "frame_gain", "betas_weight", "frame_time_s")


def test_a_perfect_network_has_no_error_however_its_windows_come(open_hand, make_clips):
    clips = make_clips(1, 20)
    windows = windows_of(clips, true_prediction(clips), [(12, 20), (0, 8), (7, 15)])
    scores = validation_scores(gather_windows(windows), open_hand)
    assert set(scores) == {"ga_mpjpe_mm", "fa_mpjpe_mm", "pa_mpjpe_mm", "ra_mpjpe_mm", "acc_norm_mm", IMG_ERROR}
    assert all(value < 0.05 for value in scores.values()), scores
    assert best_value(scores) == scores["ga_mpjpe_mm"]


def test_2d_labels_alone_tell_how_far_off_the_joints_are_in_the_square(open_hand, make_clips):
    clips = make_clips(1, 12)
    hidden = torch.zeros_like(clips.targets.joints_cam_weight)
    clips = replace(clips, targets=replace(clips.targets, joints_cam_weight=hidden))
    spans = [(0, 8), (4, 12)]
    aside = replace(true_prediction(clips), shift_crop=true_prediction(clips).shift_crop + torch.tensor([0.0, 1e-2]))
    exact, off = (
        validation_scores(windows_of(clips, one, spans), open_hand) for one in (true_prediction(clips), aside)
    )
    assert [name for name, value in off.items() if not np.isnan(value)] == [IMG_ERROR]
    # A centimetre at this depth, in shares of the square.
    expected = 100 * (1e-2 * clips.camera.K[..., 0, 0] / clips.targets.joints_cam[..., 0, 2] / clips.box_side_px).mean()
    assert off[IMG_ERROR] == pytest.approx(float(expected), rel=0.1)
    assert exact[IMG_ERROR] < 1e-3
    guessed = replace(clips, camera_weight=torch.zeros_like(clips.camera_weight))
    imagined = validation_scores(windows_of(guessed, true_prediction(clips), spans), open_hand)[IMG_ERROR]
    assert 0.1 < imagined < 3  # HaMeR's camera sees a hand without the perspective that the labels have
    assert best_value(off) == off[IMG_ERROR]
    assert np.isnan(best_value({}))


def test_before_and_after_are_compared_where_labels_tell(tmp_path):
    logbook = Logbook(tmp_path)
    assert logbook.write_before_after() is None
    logbook.write(0, {"val/ga_mpjpe_mm": 50.0, "val/pa_mpjpe_mm": 8.0, "val/acc_norm_mm": 0.0})
    logbook.write(10, {"train/loss": 1.0})
    assert logbook.write_before_after() is None
    logbook.write(20, {"val/ga_mpjpe_mm": 30.0, "val/pa_mpjpe_mm": 6.0, "val/acc_norm_mm": 1.0})
    assert logbook.write_before_after().splitlines() == [
        "| validation | before | after 20 steps | change |",
        "|---|---|---|---|",
        "| GA-MPJPE, mm | 50.0 | 30.0 | -40.0 % |",
        "| PA-MPJPE, mm | 8.00 | 6.00 | -25.0 % |",
        "| ACC-NORM, mm/frame² | 0.00 | 1.00 |  |",
    ]
    logbook.write(30, {"val/ga_mpjpe_mm": 40.0, "val/pa_mpjpe_mm": 5.0, "val/acc_norm_mm": 1.0})
    table = logbook.write_before_after()
    assert table == (tmp_path / "before_after.md").read_text()
    assert table.splitlines()[0] == "| validation | before | after 30 steps | change | best.ckpt, step 20 | change |"
    assert table.splitlines()[2] == "| GA-MPJPE, mm | 50.0 | 40.0 | -20.0 % | 30.0 | -40.0 % |"


def test_a_run_that_made_nothing_better_says_so(tmp_path):
    logbook = Logbook(tmp_path)
    for step, error_mm in ((0, 30.0), (10, 35.0), (20, 31.0)):
        logbook.write(step, {"val/ga_mpjpe_mm": error_mm})
    assert logbook.write_before_after().splitlines()[-1].startswith("No validated step is better than the weights")


def test_depth_is_chained_from_window_to_window(open_hand, make_clips):
    clips = make_clips(1, 15)
    windows = windows_of(clips, true_prediction(clips, depth_error=0.01), [(0, 8), (7, 15)])
    joints, target, _weight, _placed = join_track([one for _key, one in windows], open_hand)
    error = joints[:, 0, 2] - target[:, 0, 2]
    torch.testing.assert_close(error, 0.01 * torch.arange(15), atol=1e-4, rtol=0)
    scores = validation_scores(windows, open_hand)
    assert scores["fa_mpjpe_mm"] > 20
    assert scores["pa_mpjpe_mm"] < 0.05


def test_labels_without_a_place_tell_of_the_form_alone(open_hand, make_clips):
    clips = replace(make_clips(1, 8), place_weight=torch.zeros(1, 8))
    scores = validation_scores(windows_of(clips, true_prediction(clips), [(0, 8)]), open_hand)
    assert scores["ra_mpjpe_mm"] < 0.05
    assert np.isnan(scores["ga_mpjpe_mm"])
    assert np.isnan(scores["acc_norm_mm"])


def test_longer_tracks_count_more(open_hand, make_clips):
    short, long = make_clips(1, 4, seed=1), make_clips(1, 16, seed=2)
    bad = replace(true_prediction(short), hand_pose=torch.eye(3).expand(1, 4, 15, 3, 3))
    windows = windows_of(short, bad, [(0, 4)]) + windows_of(long, true_prediction(long), [(0, 16)])
    alone = validation_scores(windows[:1], open_hand)["ra_mpjpe_mm"]
    assert validation_scores(windows, open_hand)["ra_mpjpe_mm"] == pytest.approx(alone * 4 / 20, rel=1e-3)


# --- pictures


def test_a_perfect_prediction_covers_the_truth_in_crops_and_in_the_view_from_above(open_hand, make_clips):
    clips = make_clips(2, 3)
    clips = replace(clips, crops=torch.zeros_like(clips.crops))
    perfect = true_prediction(clips)
    sheet = draw_predictions(perfect, clips, open_hand)
    assert sheet.shape == (2 * TILE_PX, 4 * TILE_PX, 3)
    paths = sheet[:, 3 * TILE_PX :]
    assert pixels_of(paths, PREDICTED) > 10
    assert pixels_of(paths, TRUE) == 0  # the predicted path lies on the true one
    wrong = replace(perfect, depth=perfect.depth + torch.tensor([[0.0, 0.05, -0.1]] * 2))
    assert pixels_of(draw_predictions(wrong, clips, open_hand)[:, 3 * TILE_PX :], TRUE) > 10
    away = replace(perfect, shift_crop=perfect.shift_crop + 0.1)
    crops = draw_predictions(away, clips, open_hand)[:, : 3 * TILE_PX]
    columns = [np.argwhere((crops[:TILE_PX, :TILE_PX] == color).all(-1))[:, 1].mean() for color in (TRUE, PREDICTED)]
    assert columns[1] > columns[0] + 3


def pixels_of(picture, color):
    return int((picture == color).all(-1).sum())
