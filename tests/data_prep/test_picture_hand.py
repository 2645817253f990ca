"""The picture of a hand model: every pose is there, from every side, and a large hand is larger than a small one."""

import cv2

from data_prep.picture_hand import TILE_PX, VIEWS, main, poses


def test_every_pose_is_seen_from_every_side_and_size_shows(tmp_path, open_hand):
    assert main(["--out", str(tmp_path / "hand.png")]) == 0
    picture = cv2.imread(str(tmp_path / "hand.png"))
    names = list(poses(open_hand))
    assert picture.shape == (TILE_PX * len(VIEWS), TILE_PX * len(names), 3)
    is_hand = (picture.max(-1) - picture.min(-1)) > 20  # paper and ink are grey
    tiles = is_hand.reshape(len(VIEWS), TILE_PX, len(names), TILE_PX).mean(axis=(1, 3))
    assert tiles.min() > 0.05
    assert tiles[0, names.index("open")] > 1.3 * tiles[0, names.index("fist")]
    assert tiles[0, names.index("size +2")] > 1.4 * tiles[0, names.index("size -2")]
