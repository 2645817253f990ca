"""Files appear whole or not at all."""

from pathlib import Path

import pytest

from haptic.files import atomic_path, atomic_write, find_asset, sha256_of

REPOSITORY = Path(__file__).parents[1]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.npz"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_write_has_the_name_and_the_usual_permissions(tmp_path):
    with atomic_path(tmp_path / "new" / "a.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_bytes(b"whole")
    other = tmp_path / "other"
    other.touch()
    assert (tmp_path / "new" / "a.mp4").read_bytes() == b"whole"
    assert (tmp_path / "new" / "a.mp4").stat().st_mode == other.stat().st_mode


def test_a_shipped_file_that_is_missing_is_named():
    with pytest.raises(FileNotFoundError, match="no/such/file"):
        find_asset("no/such/file")


def test_the_hash_is_the_known_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize(("name", "page"), [
    ("openhand_tiny.ckpt", "README.md"),
    ("openhand/OPENHAND_RIGHT.npz", "openhand/README.md"),
])  # fmt: skip
def test_what_ships_is_the_file_whose_hash_its_page_names(name, page):
    assert sha256_of(find_asset(name)) in (REPOSITORY / "checkpoints" / page).read_text(encoding="utf-8")
