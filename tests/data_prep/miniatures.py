"""A miniature download of every data set, in its official layout, for the tests that go through all of them.

Each is laid out where its own test is. `lay_miniature` gives a copy that a test may spoil.
"""

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def module_of(name: str) -> ModuleType:
    """Load a file of this folder; tests are no package."""
    spec = importlib.util.spec_from_file_location(f"miniatures_of_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small_videos = module_of("test_small_video_sets")
own = module_of("test_own_videos")
hamer = module_of("test_hamer_files")
ho3d = module_of("test_ho3d")
hot3d_clips, hot3d_full = module_of("test_hot3d"), module_of("test_hot3d_full")
images = module_of("test_image_sets")
people = module_of("test_coco_people")
interhand = module_of("test_interhand")

FIXTURES = {
    "arctic_download": module_of("test_arctic").download,
    "coco": own.coco,
    "dexycb_download": module_of("test_dexycb").download,
    "dome": images.dome,
    "egodexter": small_videos.egodexter,
    "egoexo4d": small_videos.egoexo4d,
    "egoexo4d_raw": module_of("test_egoexo4d_raw").download,
    "filmed": own.filmed,
    "fpha": small_videos.fpha,
    "freihand_download": module_of("test_freihand").download,
    "h2o_download": module_of("test_h2o").download,
    "halpe": people.halpe,
    "hamer_evaluation": hamer.evaluation,
    "hamer_tars": hamer.tars,
    "haptic_release": module_of("test_haptic_clips").release,
    "hint_download": module_of("test_hint").download,
    "hoi4d": small_videos.hoi4d,
    "interhand_cache": interhand.cache,  # for all tests here: none reads or writes the user's
    "interhand_download": interhand.download,
    "mpii": images.mpii,
    "onehand10k": images.onehand10k,
    "pictures": people.pictures,
    "rhd_download": module_of("test_rhd").download,
    "wholebody": people.wholebody,
}


@dataclass(frozen=True)
class Miniature:
    """What `python -m data_prep` is given for it."""

    name: str
    root: Path
    split: str
    options: dict[str, str] = field(default_factory=dict)
    manos: int = 0  # of the user's files: none, the right hand's, both


# Where the pictures of the others are none: the fixture, the split, MANO files.
PLAIN: dict[str, tuple[str, str, int]] = {
    "arctic-exo": ("arctic_download", "p1_train", 1),
    "arctic-ego": ("arctic_download", "p2_train", 1),
    "coco-wholebody": ("wholebody", "train", 0),
    "egodexter": ("egodexter", "all", 0),
    "egoexo4d": ("egoexo4d", "train", 0),
    "egoexo4d-raw": ("egoexo4d_raw", "train", 0),
    "fpha": ("fpha", "action_train", 0),
    "freihand": ("freihand_download", "training", 1),
    "h2o": ("h2o_download", "train", 1),
    "halpe": ("halpe", "val", 0),
    "hamer-eval": ("hamer_evaluation", "NEWDAYS-TEST-ALL", 0),
    "hamer-tars": ("hamer_tars", "h2o3d-train", 0),
    "hint": ("hint_download", "TEST_newdays_img", 0),
    "hoi4d": ("hoi4d", "release", 1),
    "interhand26m-30fps": ("interhand_download", "train", 1),
    "interhand26m-5fps": ("interhand_download", "train", 1),
    "mpii-nzsl": ("mpii", "manual_train", 0),
    "mtc": ("dome", "training", 0),
    "onehand10k": ("onehand10k", "Train", 0),
    "rhd": ("rhd_download", "training", 0),
}
MMPOSE = {"freihand-mmpose": "freihand", "onehand10k-mmpose": "onehand10k", "mpii-nzsl-mmpose": "panoptic",
          "rhd-mmpose": "rhd"}  # fmt: skip
HO3D = ("ho3d-v2", "ho3d-v3", "h2o3d")
HEADSETS = ("hot3d-clips", "hot3d")
NAMES = sorted([*PLAIN, *MMPOSE, *HO3D, *HEADSETS, "dexycb", "haptic-clips", "own-videos"])


class Laying:
    """Lays out a data set's miniature in a folder of its own."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._request, self._folder, self._monkeypatch = request, folder, monkeypatch

    def __call__(self, name: str) -> Miniature:
        """Return where it is, and what the command line is to be given."""
        root = self._folder / name
        self._folder.mkdir(exist_ok=True)
        if name in PLAIN:
            return self._plain(name, root)
        if name in HEADSETS:
            return self._headset(name, root)
        if name in MMPOSE:
            self._see_right_hands()
            lay_mmpose(root, MMPOSE[name], *self._given("picture", "save_picture", "smplx_joints", "motion"))
            return Miniature(name, root, "test")
        if name in HO3D:
            ho3d.make(root, *self._given("smplx_joints", "motion", "picture", "save_picture"), kind=name, split="train")
            return Miniature(name, root, "train", manos=1)
        return self._other(name, root)

    def _given(self, *names: str) -> list[Any]:
        return [self._request.getfixturevalue(name) for name in names]

    def _plain(self, name: str, root: Path) -> Miniature:
        fixture, split, manos = PLAIN[name]
        (laid,) = self._given(fixture)
        shutil.copytree(laid if isinstance(laid, Path) else laid[0], root)
        if name == "onehand10k":
            self._see_right_hands()
        return Miniature(name, root, split, manos=manos)

    def _headset(self, name: str, root: Path) -> Miniature:
        parts = self._given("motion", "smplx_joints", "mano_arrays", "picture", "through_lens")
        if name == "hot3d-clips":
            hot3d_clips.make_clips("aria", root, *parts)
        else:
            _root, device, _truth, pictures, _times = hot3d_full.make_sequence("aria", root, *parts)
            stand_in = hot3d_full.stand_in(device, pictures)
            self._monkeypatch.setattr("data_prep.datasets.hot3d_full.open_recording", stand_in)
        return Miniature(name, root, "train_aria", manos=2)

    def _other(self, name: str, root: Path) -> Miniature:
        (laid,) = self._given(
            {"dexycb": "dexycb_download", "haptic-clips": "haptic_release", "own-videos": "coco"}[name]
        )
        if name == "own-videos":
            _content, save = laid
            shutil.copytree(save(), root)
            return Miniature(name, root, "train")
        shutil.copytree(laid[0], root)
        if name == "dexycb":
            return Miniature(name, root, "s0_train", {"sequences": str(root / "sequences.txt")}, manos=2)
        return Miniature(name, root / "labels", "train", {"images": str(root / "pictures")}, manos=1)

    def _see_right_hands(self) -> None:
        """Blobs are no hands to a detector: one stands in that takes all for right ones."""
        self._monkeypatch.setattr("data_prep.hand_side.SideJudge.is_right", lambda _self, _image, _joints: True)


@pytest.fixture
def lay_miniature(request, tmp_path, monkeypatch) -> Laying:
    """Lay out a data set's miniature, by its name."""
    return Laying(request, tmp_path / "miniatures", monkeypatch)


@pytest.fixture
def make_ho3d_evaluation(smplx_joints, motion, picture, save_picture) -> Callable[[Path, str], None]:
    """Lay out HO3D's evaluation split with the joints that were published apart; what tells HO3D is in train/."""

    def make(root: Path, kind: str) -> None:
        given = (smplx_joints, motion, picture, save_picture)
        ho3d.make(root, *given, kind=kind, split="train")
        truth = ho3d.make(root, *given, kind=kind, split="evaluation")["right"]
        published = (truth * ho3d.OPENGL)[:, ho3d.MANO_FROM_OPENPOSE]
        (root / "evaluation_xyz.json").write_text(json.dumps(published.tolist()))

    return make


@pytest.fixture
def arguments_for(mano) -> Callable[..., list[str]]:
    """Return what stands on the command line to convert a miniature, but for `--out`."""

    def arguments(one: Miniature, *more: str) -> list[str]:
        files = [["--mano", str(mano.right_path)], ["--mano-left", str(mano.left_path)]][: one.manos]
        options = [["--option", f"{name}={value}"] for name, value in one.options.items()]
        words = [one.name, "--root", str(one.root), "--split", one.split, "--partial"]
        return [*words, *(word for part in (*files, *options) for word in part), *more]

    return arguments


def lay_mmpose(root: Path, prefix: str, picture, save_picture, smplx_joints, motion) -> dict[str, np.ndarray]:
    """Two hands in MMPose's COCO file, as the real samples have it; the joints in OpenPose's order, RHD's in metres.

    A joint that is not annotated is three zeros. RHD's fingers go from tip to base, its 3D is in millimetres.
    """
    images, annotations, truth = [], [], {}
    for number, side in ((11, "l"), (12, "r")):
        hand = motion(1, seed=number, place=(0.0, 0.0, 0.5), is_right=side == "r")
        joints = smplx_joints(side == "r", hand.global_aa, hand.finger, hand.betas, hand.transl, flat_mean=True)[0]
        points = joints[:, :2] / joints[:, 2:] * 300 + [160, 140]
        name = f"ex.flv_{number}_{side}.jpg"
        save_picture(root / name, picture(320, 280, points))
        order = [0, 4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13, 20, 19, 18, 17]
        order = order if prefix == "rhd" else list(range(21))
        known = np.arange(21) != (0 if prefix == "rhd" else 17)
        rows = np.column_stack([points[order] * known[:, None], known])
        truth[name] = joints
        image = {"file_name": name, "height": 280, "width": 320, "id": number}
        hand = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "keypoints": rows.ravel().tolist(),
                "bbox": [*points.min(axis=0), *np.ptp(points, axis=0)]}  # fmt: skip
        if prefix == "rhd":
            image["cam_param"] = {"focal": [300.0, 300.0], "princpt": [160.0, 140.0]}
            hand |= {"joint_cam": (1000 * joints[order]).tolist(), "keypoints": rows.tolist(),
                     "hand_type": "right" if side == "r" else "left"}  # fmt: skip
        images.append(image)
        annotations.append(hand)
    (root / "annotations").mkdir()
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "hand"}]}
    (root / "annotations" / f"{prefix}_test.json").write_text(json.dumps(content))
    return truth
