"""HO3D v2, v3 and H2O3D in their official layouts: OpenGL axes, no mean pose, frames without pose, roots only."""

import json
import pickle

import cv2
import numpy as np
import pytest

OPENGL = np.array([1.0, -1.0, -1.0])
K = np.array([[614.6, 0, 320.3], [0, 614.1, 241.2], [0, 0, 1]])
MANO_FROM_OPENPOSE = [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]
HO3D_TIPS = [744, 333, 444, 555, 672]
REST_WRIST = np.array([0.096, 0.006, 0.006])
FRAMES = 5
UNANNOTATED = 2


def opengl_hand(hand, is_right):
    """Turn the hand's numbers into OpenGL axes, still about its wrist: rotation D R, and the place by hand."""
    D = np.diag(OPENGL)
    turned = np.stack([cv2.Rodrigues(D @ cv2.Rodrigues(aa)[0])[0][:, 0] for aa in hand.global_aa])
    rest = REST_WRIST * (1, 1, 1) if is_right else REST_WRIST * (-1, 1, 1)
    return turned, (hand.transl + rest) * OPENGL - rest


def make(root, smplx_joints, motion, picture, save_picture, *, kind, split, sequence="ABF10", frames=FRAMES):
    sides = ("right", "left") if kind == "h2o3d" else ("right",)
    hands = {}
    for side in sides:
        hand = motion(
            frames, seed=3 + len(side), place=(0.06 if side == "right" else -0.06, 0.0, 0.55), is_right=side == "right"
        )
        hand.betas[:] = motion(1, seed=9).betas
        aa, trans = opengl_hand(hand, side == "right")
        # Independent: the joints in OpenGL axes from smplx's layer, flat mean, HO3D's own fingertips.
        joints_gl = smplx_joints(side == "right", aa, hand.finger, hand.betas, trans, flat_mean=True, tips=HO3D_TIPS)
        hands[side] = (aa, hand.finger, trans, joints_gl)
    suffix = ".png" if kind == "ho3d-v2" else ".jpg"
    for frame in range(frames):
        folder = root / split / sequence
        seen = []
        for _aa, _finger, _trans, joints_gl in hands.values():
            joints = joints_gl[frame] * OPENGL
            seen.append((joints @ K.T)[:, :2] / joints[:, 2:])
        save_picture(folder / "rgb" / f"{frame:04d}{suffix}", picture(640, 480, *seen))
        meta = {"camMat": K, "objName": "021_bleach_cleanser", "objTrans": np.zeros(3), "handBeta": hand.betas[0]}
        for side, (aa, finger, trans, joints_gl) in hands.items():
            prefix = "hand" if kind != "h2o3d" else f"{side}Hand"
            pose = np.concatenate([aa[frame], finger[frame]])
            joints = joints_gl[frame][MANO_FROM_OPENPOSE]
            meta |= {f"{prefix}Pose": pose, f"{prefix}Trans": trans[frame], f"{prefix}Joints3D": joints}
            if split == "evaluation":
                meta |= {f"{prefix}Joints3D": joints[0], f"{prefix}BoundingBox": [1, 2, 3, 4]}
                del meta[f"{prefix}Pose"], meta[f"{prefix}Trans"], meta["handBeta"]
            elif frame == UNANNOTATED:
                meta |= {f"{prefix}{name}": None for name in ("Pose", "Trans", "Joints3D")}
        path = folder / "meta" / f"{frame:04d}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(meta, protocol=2))
    with (root / f"{split}.txt").open("a") as file:
        file.write("".join(f"{sequence}/{frame:04d}\n" for frame in range(frames)))
    return {side: numbers[3] * OPENGL for side, numbers in hands.items()}


@pytest.mark.parametrize("kind", ["ho3d-v2", "ho3d-v3", "h2o3d"])
def test_hands_lie_where_the_pictures_show_them(
    tmp_path, kind, smplx_joints, motion, picture, save_picture, to_shards, read_hands, mano, posed_joints,
    assert_labels_hit_the_blobs,
):  # fmt: skip
    truth = make(tmp_path, smplx_joints, motion, picture, save_picture, kind=kind, split="train")
    shards, tally = to_shards(kind, tmp_path, "train", mano=mano)
    hands = read_hands(shards)
    assert tally.damaged == []
    assert len(hands) == 2 * len(truth)  # the frame without pose cuts each track in two
    for side, joints in truth.items():
        before, after = hands[f"ABF10.{side}_0"], hands[f"ABF10.{side}_1"]
        assert (before.frame_index, after.frame_index) == ([0, 1], [3, 4])
        np.testing.assert_allclose(after.joints_cam, joints[3:], atol=1e-5)
        assert_labels_hit_the_blobs(before)
        assert_labels_hit_the_blobs(after)
        # All but the tips, which are other vertices, and exact for the side whose shapes are ours.
        inner = [joint for joint in range(21) if joint not in (4, 8, 12, 16, 20)]
        off = np.linalg.norm(posed_joints(after) - joints[3:], axis=-1)[:, inner]
        assert off[:, 0].max() < 1e-5
        assert off.max() < (2e-5 if side == "right" else 0.02)


def test_evaluation_takes_the_joints_that_were_published_apart(
    tmp_path, smplx_joints, motion, picture, save_picture, to_shards, read_hands, assert_labels_hit_the_blobs
):
    truth = make(tmp_path, smplx_joints, motion, picture, save_picture, kind="ho3d-v3", split="evaluation")["right"]
    with pytest.raises(ValueError, match=r"no evaluation_xyz\.json"):
        to_shards("ho3d-v3", tmp_path, "evaluation")
    published = (truth * OPENGL)[:, MANO_FROM_OPENPOSE]  # OpenGL axes, MANO's order and tips
    (tmp_path / "evaluation_xyz.json").write_text(json.dumps(published.tolist()))
    shards, _tally = to_shards("ho3d-v3", tmp_path, "evaluation")
    (hand,) = read_hands(shards).values()
    np.testing.assert_allclose(hand.joints_cam, truth, atol=1e-5)
    assert hand.labels.params_weight.max() == 0
    assert_labels_hit_the_blobs(hand)


def test_a_meta_file_that_would_run_code_is_refused_and_counted(
    tmp_path, smplx_joints, motion, picture, save_picture, to_shards, read_hands, capsys
):
    make(tmp_path, smplx_joints, motion, picture, save_picture, kind="ho3d-v3", split="train")
    (tmp_path / "train" / "ABF10" / "meta" / "0004.pkl").write_bytes(b"cos\nsystem\n(S'echo ran'\ntR.")
    shards, tally = to_shards("ho3d-v3", tmp_path, "train")
    assert len(tally.damaged) == 1
    assert "0004.pkl" in tally.damaged[0]
    assert "ran" not in capsys.readouterr().out
    assert read_hands(shards)["ABF10.right_1"].frame_index == [3]
