"""From downloads to ten steps of `train.py`: two video and two image sets, and all there are together."""

import csv
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_prep.__main__ import main as convert
from data_prep.registry import all_data_sets
from haptic.cli.train import main
from haptic.data.readers import ClipSet
from haptic.data.shards import ShardStore
from haptic.training.module import TrainingModule

STEPS = 10
K = np.array([[620.0, 0, 310], [0, 621, 240], [0, 0, 1]])


def dexycb(root, joints, motion, save, picture):
    """A left hand before one camera, nine frames of which the first is not annotated."""
    name, serial = "20200709-subject-01/20200709_141754", "836212060125"
    hand = motion(9, seed=1, is_right=False)
    # This test is not about PCA: zero coefficients, so that any basis gives the mean pose.
    hand.finger[:] = 0
    posed = joints(False, hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=False)
    files = {
        f"calibration/intrinsics/{serial}_640x480.yml": {
            "color": {"fx": 620.0, "fy": 621.0, "ppx": 310.0, "ppy": 240.0}
        },
        "calibration/extrinsics_a/extrinsics.yml": {"extrinsics": {serial: np.eye(4)[:3].ravel().tolist()}},
        "calibration/mano_b/mano.yml": {"betas": hand.betas[0].tolist()},
        f"{name}/meta.yml": {
            "num_frames": 9, "extrinsics": "a", "mano_sides": ["left"], "mano_calib": ["b"], "serials": [serial]
        },
    }  # fmt: skip
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(yaml.safe_dump(content))
    for frame in range(9):
        seen = (posed[frame] @ K.T)[:, :2] / posed[frame][:, 2:]
        pose = np.concatenate([hand.global_aa[frame], np.zeros(45), hand.transl[frame]])
        is_known = frame > 0
        save(root / name / serial / f"color_{frame:06d}.jpg", picture(640, 480, seen))
        np.savez(
            root / name / serial / f"labels_{frame:06d}.npz",
            pose_m=pose[None] * is_known,
            joint_3d=(posed[frame] if is_known else -np.ones((21, 3)))[None],
            joint_2d=(seen if is_known else -np.ones((21, 2)))[None],
        )
    (root / "sequences.txt").write_text(name)
    return {"sequences": str(root / "sequences.txt")}


def arctic(root, joints, motion, save, picture):
    """Two hands before one fixed camera; 28 rows, of which eight count."""
    stored, posed = {}, {}
    for side in ("right", "left"):
        hand = motion(28, seed=len(side), is_right=side == "right", place=(0.06 if side == "right" else -0.06, 0, 0.6))
        stored[side] = {"rot": hand.global_aa, "pose": hand.finger, "trans": hand.transl, "shape": hand.betas[0]}
        posed[side] = joints(
            side == "right", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=False
        )  # fmt: skip
    misc = {"s01": {"world2cam": np.tile(np.eye(4), (8, 1, 1)).tolist(), "intris_mat": [K.tolist()] * 8,
                    "ioi_offset": 3, "image_size": [[640, 480]] * 9}}  # fmt: skip
    for folder in ("meta", "raw_seqs/s01"):
        (root / folder).mkdir(parents=True)
    (root / "meta" / "misc.json").write_text(json.dumps(misc))
    np.save(root / "raw_seqs" / "s01" / "box_grab_01.mano.npy", stored, allow_pickle=True)
    for row in range(28):
        seen = [(one[row] @ K.T)[:, :2] / one[row][:, 2:] for one in posed.values()]
        save(root / "images" / "s01" / "box_grab_01" / "1" / f"{row + 3:05d}.jpg", picture(640, 480, *seen))
    return {}


def freihand(root, joints, motion, save, picture):
    """One hand before four backgrounds."""
    hand = motion(1, seed=20, place=(0.01, 0.0, 0.7))
    posed = joints(True, hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=False)[0]
    own_K = np.array([[480.0, 0, 112], [0, 480, 112], [0, 0, 1]])
    numbers = np.concatenate([hand.global_aa[0], hand.finger[0], hand.betas[0], [0, 0, 0.03]])
    root.mkdir()
    for name, values in (("K", own_K), ("xyz", posed), ("mano", numbers[None])):
        (root / f"training_{name}.json").write_text(json.dumps([values.tolist()]))
    for number in range(4):
        seen = (posed @ own_K.T)[:, :2] / posed[:, 2:]
        save(root / "training" / "rgb" / f"{number:08d}.jpg", picture(224, 224, seen))
    return {}


def hint(root, _joints, _motion, save, picture):
    """A left and a right hand, 2D only."""
    for number, side in enumerate("lr"):
        points = np.random.default_rng(number).uniform(60, 140, (21, 2))
        record = [{"keypoints": points.tolist(), "occlusion": [0] * 20 + [1], "bbox": [[50, 40, 150, 160]]}]
        path = root / "TRAIN_newdays_img" / f"ND_{number}_{side}.json"
        save(path.with_suffix(".jpg"), picture(220, 200, points))
        path.write_text(json.dumps(record))
    return {}


SETS = {"dexycb": (dexycb, "s0_train"), "arctic-exo": (arctic, "p1_train"), "freihand": (freihand, "training"),
        "hint": (hint, "TRAIN_newdays_img")}  # fmt: skip


@pytest.fixture
def converted(tmp_path, smplx_joints, motion, save_picture, picture, to_shards, mano):
    """The shards of all four, as patterns."""
    patterns = {}
    for name, (make, split) in SETS.items():
        options = make(tmp_path / name, smplx_joints, motion, save_picture, picture)
        uses = None if name == "hint" else mano
        shards, tally = to_shards(name, tmp_path / name, split, mano=uses, partial=True, **options)
        assert tally.damaged == []
        patterns[name] = f"{shards[0].parent}/*.tar"
    return patterns


def key_of(name):
    return name.replace("-", "_")


def train(out, hand_model, patterns, monkeypatch, *, video, image, windows, images, clip_frames, validation):
    """Train a small network for ten steps; return the losses and what was drawn, by kind and set."""
    config = {
        "run": {"out": str(out / "run"), "log_every_steps": 1, "save_every_steps": STEPS,
                "validate_every_steps": None, "hand_model": str(hand_model)},
        "data": {
            "sets": {key_of(name): {"shards": pattern} for name, pattern in patterns.items()},
            "video": {key_of(name): share for name, share in video.items()},
            "image": {key_of(name): share for name, share in image.items()},
            "validation": [key_of(validation)], "clip_frames": clip_frames, "windows_per_batch": windows,
            "images_per_batch": images, "real_hands_per_batch": windows + images, "num_workers": 0,
        },
        "network": {
            "backbone": {"dim": 32, "depth": 1, "heads": 2, "patch_px": 16, "patch_padding_px": 0, "drop_path": 0.0},
            "decoder": {"dim": 32, "depth": 2, "heads": 2, "head_dim": 16, "mlp_dim": 32},
            "crop_side_px": 32, "frame_side_px": 32, "keep_width": 1.0,
        },
        "optim": {"total_steps": STEPS, "lr": 1.0e-3, "warmup_steps": 1, "clip_norm": 10.0},
        "trainer": {"accelerator": "cpu", "devices": 1},
    }  # fmt: skip
    path = out / "mix.yaml"
    path.write_text(yaml.safe_dump(config))
    drawn = Counter()
    step = TrainingModule.training_step

    def counting(self, batch, *more):
        for kind, part in (("video", batch.video), ("image", batch.image)):
            drawn.update((kind, key.split("/")[0]) for key in part.keys)
        return step(self, batch, *more)

    monkeypatch.setattr(TrainingModule, "training_step", counting)
    assert main(["--config", str(path)]) == 0
    with (out / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file)]
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    return drawn


def test_ten_steps_draw_from_every_set_and_the_loss_stays_finite(converted, tmp_path, mano, monkeypatch):
    drawn = train(
        tmp_path, mano.right_path, converted, monkeypatch, video={"dexycb": 0.5, "arctic-exo": 0.5},
        image={"dexycb": 0.2, "arctic-exo": 0.2, "freihand": 0.3, "hint": 0.3}, windows=2, images=4, clip_frames=4,
        validation="arctic-exo",
    )  # fmt: skip
    # Two windows of video sets and four images of all sets in each step.
    assert set(drawn) == {("video", "dexycb"), ("video", "arctic_exo")} | {("image", key_of(name)) for name in SETS}
    assert sum(count for (kind, _name), count in drawn.items() if kind == "video") == 2 * STEPS
    assert sum(count for (kind, _name), count in drawn.items() if kind == "image") == 4 * STEPS


def longest_track(pattern):
    (path,) = Path(pattern).parent.glob("*.tar")
    return max(ClipSet(path.name, str(path), store=ShardStore()).num_frames)


@pytest.mark.slow
def test_ten_steps_draw_from_all_data_sets_there_are(lay_miniature, arguments_for, tmp_path, mano, monkeypatch):
    """Each as `python -m data_prep` converts it, those without MANO's numbers too."""
    patterns = {}
    for name in all_data_sets():
        more = ["--mano", str(mano.right_path)] if name == "own-videos" else []
        out = tmp_path / "shards" / name
        assert convert([*arguments_for(lay_miniature(name), "--out", str(out)), *more]) == 0
        patterns[name] = f"{out}/*.tar"
    videos = {name for name in patterns if all_data_sets()[name].is_video and longest_track(patterns[name]) >= 2}
    assert videos == {name for name in patterns if all_data_sets()[name].is_video}
    drawn = train(
        tmp_path, mano.right_path, patterns, monkeypatch, video=dict.fromkeys(sorted(videos), 1 / len(videos)),
        image=dict.fromkeys(sorted(patterns), 1 / len(patterns)), windows=12, images=36, clip_frames=2,
        validation="dexycb",
    )  # fmt: skip
    assert {name for kind, name in drawn if kind == "image"} == {key_of(name) for name in patterns}
    assert {name for kind, name in drawn if kind == "video"} == {key_of(name) for name in videos}
