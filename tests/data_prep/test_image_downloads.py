"""What image sets look like as downloads: each is told from the others, and a wrong root says which it is."""

import pytest

from data_prep.registry import check_root, find_data_set

FILES = {
    "freihand": ("training_K.json", "training_xyz.json", "training/rgb/00000000.jpg"),
    "hint": ("TEST_newdays_img/ND_1_l.json", "TEST_newdays_img/ND_1_l.jpg"),
    "hamer-tars": ("hamer_training_data/dataset_tars/rhd-train/000000.tar",),
    "hamer-eval": ("hamer_evaluation_data/TEST_newdays_img_all.npz", "hamer_evaluation_data/freihand_val.npz"),
    "coco-wholebody": ("annotations/coco_wholebody_train_v1.0.json", "train2017/000000000009.jpg"),
    "halpe": ("halpe_train_v1.json", "hico_20160224_det/images/train2015/HICO_train2015_00000001.jpg"),
    "rhd": ("training/anno_training.pickle", "training/color/00000.png"),
    "onehand10k": ("Train/label_joint.txt", "Train/source/0.jpg"),
    "mtc": ("annotation.pkl", "camera_data.pkl", "hdImgs/171026_pose1/00001234/00_00_00001234.jpg"),
    "mpii-nzsl": ("manual_train/000015774_01_l.json", "manual_train/000015774_01_l.jpg"),
    "freihand-mmpose": ("annotations/freihand_train.json",),
    "onehand10k-mmpose": ("annotations/onehand10k_train.json",),
    "mpii-nzsl-mmpose": ("annotations/panoptic_train.json",),
    "rhd-mmpose": ("annotations/rhd_train.json",),
}


@pytest.fixture
def lay(tmp_path):
    def touch(name):
        root = tmp_path / "download"
        for file in FILES[name]:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        return root

    return touch


@pytest.mark.parametrize("name", list(FILES))
def test_a_download_is_taken_for_itself_and_nothing_else(name, lay):
    root = lay(name)
    check_root(find_data_set(name), root)
    for other in FILES:
        if other != name:
            with pytest.raises(ValueError, match=rf"rather looks like .*\({name}\)"):
                check_root(find_data_set(other), root)


def test_a_folder_too_high_is_led_to_the_right_one(lay):
    root = lay("rhd")
    with pytest.raises(ValueError, match=rf"it lies in {root}: give that as --root"):
        check_root(find_data_set("rhd"), root.parent)
