from __future__ import annotations

from pathlib import Path

import pytest

from mobilenets.errors import UsageError
from mobilenets.runs import new_run_folder, newest_run_folder, run_name


def test_runs_of_one_name_are_numbered(tmp_path: Path) -> None:
    folders = [new_run_folder("train", "rose", root=tmp_path) for _ in range(3)]
    assert [folder.relative_to(tmp_path).as_posix() for folder in folders] == [
        "train/rose",
        "train/rose-2",
        "train/rose-3",
    ]
    assert all(folder.is_dir() for folder in folders)


def test_a_number_is_never_used_again_while_a_later_run_is_there(tmp_path: Path) -> None:
    folders = [new_run_folder("train", "rose", root=tmp_path) for _ in range(3)]
    folders[1].rmdir()
    assert new_run_folder("train", "rose", root=tmp_path).name == "rose-4"


def test_the_newest_run_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for _ in range(11):
        new_run_folder("train", "rose", root=tmp_path)
    new_run_folder("train", "rose-garden", root=tmp_path)
    assert newest_run_folder("train", "rose", root=tmp_path).name == "rose-11"


def test_no_run_to_go_on_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run"):
        newest_run_folder("train", "rose", root=tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b"])
def test_a_name_that_is_a_path_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a run"):
        new_run_folder("train", name, root=tmp_path)


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("")
    with pytest.raises(UsageError, match="cannot make the folder"):
        new_run_folder("train", "rose", root=tmp_path)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("mobilenet_v2", "my flowers"), "mobilenet_v2-my-flowers"),
        (("timm/mobilenetv2_050", "digits"), "timm-mobilenetv2_050-digits"),
        (("../x", "été"), "x-été"),
        (("...", "//"), "run"),
    ],
)
def test_any_words_make_a_folders_name(parts: tuple[str, ...], name: str) -> None:
    assert run_name(*parts) == name
