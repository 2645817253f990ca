"""Every data set through the command line: its shards, sheets and checks, and what is said of each bad download."""

import re
import shutil
from pathlib import Path

import cv2
import pytest

from data_prep.__main__ import main
from data_prep.registry import all_data_sets
from haptic.data.shard_tools import check_shards

# Twins have one layout: what is one looks like the other.
TWINS = [{"ho3d-v3", "h2o3d"}, {"interhand26m-30fps", "interhand26m-5fps"}, {"arctic-exo", "arctic-ego"}]
# Files of a miniature that converting its split does not read.
UNREAD = re.compile(
    r"evaluation|training_scale|TEST_ego4d|camera_models|close_milk|recording\.vrs|splits\.json|\.object\.npy|_occ\.npz"
    r"|mask/|mask_hand_visible|000000000999|images/s01/.*/\d/00008|_train/.*left\.pkl/|arctic-exo/.*egocam"
    r"|Kitchen/annotation\.txt_3D"
)
DAMAGE = {
    "nothing": b"",
    "a web page": b"<html><body>404 not found</body></html>",
    "noise": bytes(range(256)) * 20,
    "half": None,
}


def said_by(capsys, tmp_path):
    out, err = capsys.readouterr()
    return out.replace(str(tmp_path), ""), err.replace(str(tmp_path), "")


def assert_one_clear_line(err):
    lines = err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, err
    # A list of what is missing may follow.
    rest = lines[lines.index(errors[0]) + 1 :]
    assert all(line.startswith(("  ", "download them")) for line in rest), err
    assert "Traceback" not in err


def test_every_set_has_a_miniature(request):
    names = {item.callspec.params["any_set"] for item in request.session.items if hasattr(item, "callspec")
             and "any_set" in item.callspec.params}  # fmt: skip
    assert names == set(all_data_sets())


def test_shards_pass_check_and_a_sheet_is_drawn(any_set, lay_miniature, arguments_for, tmp_path, capsys):
    one = lay_miniature(any_set)
    assert main(arguments_for(one, "--out", str(tmp_path / "out"))) == 0
    report = check_shards([str(tmp_path / "out" / "*.tar")])
    assert report.faults == []
    assert report.num_clips > 0
    assert (tmp_path / "out" / f"{one.split}.json").is_file()
    sheet = tmp_path / "sheet.png"
    assert main(arguments_for(one, "--preview", str(sheet))) == 0
    assert cv2.imread(str(sheet)) is not None
    main(arguments_for(one, "--check"))
    said, err = said_by(capsys, tmp_path)
    facts = all_data_sets()[any_set].splits[one.split]
    unpublished = "no published number" if all_data_sets()[any_set].link else "Your own videos, train: 1 video\n"
    assert (f"published are {facts.published}" if facts.published else unpublished) in said
    assert "error" not in err


def test_a_wrong_root_names_the_file_it_lacks_and_the_set_it_looks_like(any_set, lay_miniature, tmp_path, capsys):
    one = lay_miniature(any_set)
    other = "rhd" if any_set == "h2o" else "h2o"
    command = ["--out", str(tmp_path / "out"), "--split", "train"]
    assert main([other, "--root", str(one.root), *command]) == 1
    _said, err = said_by(capsys, tmp_path)
    assert_one_clear_line(err)
    assert f"no {all_data_sets()[other].layout[0]} here" in err
    twins = next((names for names in TWINS if any_set in names), {any_set})
    if any_set == "own-videos":
        assert "looks like no data set" in err  # any folder may hold videos
    else:
        assert any(f"({name})" in err.split("rather looks like")[1] for name in twins)
    (tmp_path / "empty").mkdir()
    for root, words in ((tmp_path / "empty", ""), (tmp_path / "nowhere", "there is no such folder")):
        assert main([any_set, "--root", str(root), *command[:2], "--split", one.split]) == 1
        _said, err = said_by(capsys, tmp_path)
        assert_one_clear_line(err)
        assert words in err
    if all_data_sets()[any_set].layout:
        assert main([any_set, "--root", str(one.root.parent), *command[:2], "--split", one.split]) == 1
        assert "give that as --root" in capsys.readouterr().err


def test_an_unknown_split_is_answered_with_those_there_are(any_set, lay_miniature, arguments_for, tmp_path, capsys):
    arguments = arguments_for(lay_miniature(any_set), "--out", str(tmp_path / "out"))
    arguments[arguments.index("--split") + 1] = "tset"
    assert main(arguments) == 1
    _said, err = said_by(capsys, tmp_path)
    assert_one_clear_line(err)
    assert f"has no split 'tset'; it has {', '.join(all_data_sets()[any_set].splits)}" in err


def kinds_of_files(folder: Path) -> list[Path]:
    """Return one file of each kind: names that differ in numbers only are of one."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        kinds.setdefault(re.sub(r"\d+", "#", str(path.relative_to(folder))), []).append(path)
    return [paths[min(1, len(paths) - 1)] for paths in kinds.values()]


@pytest.mark.parametrize("what", [pytest.param(what, marks=pytest.mark.slow) if what != "noise" else what
                                  for what in DAMAGE])  # fmt: skip
def test_damage_of_any_file_is_named_in_one_line(any_set, what, lay_miniature, arguments_for, tmp_path, capsys):
    one = lay_miniature(any_set)
    folder = tmp_path / "miniatures" / any_set
    for path in kinds_of_files(folder):
        whole = path.read_bytes()
        content = DAMAGE[what]
        path.write_bytes(whole[: len(whole) // 2] if content is None else content)
        code = main(arguments_for(one, "--out", str(tmp_path / "out")))
        out, err = said_by(capsys, tmp_path)
        path.write_bytes(whole)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        assert code in (0, 1)
        if code == 1:
            assert_one_clear_line(err)
        # A text that was cut between two lines is a shorter text; whoever cut it is not to be seen.
        is_list = what in ("half", "a web page") and path.suffix in (".txt", ".csv", ".log")
        if not UNREAD.search(str(path)) and not is_list:
            assert path.name in out + err, f"{path}: {out}\n{err}"
            assert code == 1 or "  damaged: " in out


@pytest.mark.slow
def test_any_file_may_be_missing_or_a_folder(any_set, lay_miniature, arguments_for, tmp_path, capsys):
    one = lay_miniature(any_set)
    for path in kinds_of_files(tmp_path / "miniatures" / any_set):
        whole = path.read_bytes()
        for is_folder in (False, True):
            path.unlink()
            if is_folder:
                path.mkdir()
            for arguments in (arguments_for(one), [word for word in arguments_for(one) if word != "--partial"]):
                code = main([*arguments, "--out", str(tmp_path / "out")])
                _out, err = said_by(capsys, tmp_path)
                shutil.rmtree(tmp_path / "out", ignore_errors=True)
                assert code in (0, 1)
                if code == 1:
                    assert_one_clear_line(err)
            if is_folder:
                path.rmdir()
            path.write_bytes(whole)


def a_picture_of(one) -> Path | None:
    """Return a picture that hands are in."""
    if one.name.startswith("arctic"):  # the second row is one of ten that do not count
        return one.root / f"images/s01/box_grab_01/{3 if one.name == 'arctic-exo' else 0}/00018.jpg"
    found = [path for path in kinds_of_files(one.root.parent) if path.suffix in (".jpg", ".jpeg", ".png")]
    return next((path for path in found if not UNREAD.search(str(path))), None)


def test_a_picture_that_is_missing_is_named_and_the_others_are_converted(
    any_set, lay_miniature, arguments_for, tmp_path, capsys
):
    """Before anything is written where a set lists its pictures; where it does not, a missing one is damage."""
    one = lay_miniature(any_set)
    picture = a_picture_of(one)
    if picture is None:
        pytest.skip("its pictures lie in films, tars or recordings")
    picture.unlink()
    code = main(arguments_for(one, "--out", str(tmp_path / "out")))
    out, err = said_by(capsys, tmp_path)
    if any_set not in ("mtc", "interhand26m-5fps", "interhand26m-30fps"):  # those lack pictures as published
        assert picture.name in out + err
    if code == 1:  # it was the only one
        assert_one_clear_line(err)
        return
    if any_set not in ("mtc", "interhand26m-5fps", "interhand26m-30fps"):
        assert "that the download lacks" in out or "  damaged: " in out
    assert check_shards([str(tmp_path / "out" / "*.tar")]).faults == []
