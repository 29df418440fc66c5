from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from mobilenets.errors import FileFormatError, UsageError
from mobilenets.runtime import find_images

Picture = Callable[..., Path]


def test_a_file_stands_for_itself_whatever_its_suffix(picture: Picture, tmp_path: Path) -> None:
    assert find_images(picture("a.png", "red")) == [tmp_path / "a.png"]
    odd = tmp_path / "upload"
    odd.write_bytes(b"x")
    assert find_images(str(odd)) == [odd]


def test_a_folder_gives_its_images_in_natural_order_without_hidden_ones(picture: Picture, tmp_path: Path) -> None:
    names = ["in/10.png", "in/2.PNG", "in/sub/1.jpg", "in/.hidden.png", "in/.cache/3.png"]
    for name in names:
        picture(name, "red")
    (tmp_path / "in" / "notes.md").write_text("x")
    found = find_images(tmp_path / "in")
    assert [str(p.relative_to(tmp_path)) for p in found] == ["in/2.PNG", "in/10.png", "in/sub/1.jpg"]


def test_a_folder_may_lie_below_a_hidden_one(picture: Picture, tmp_path: Path) -> None:
    picture(".data/in/1.png", "red")
    assert len(find_images(tmp_path / ".data" / "in")) == 1


def test_a_pattern_gives_what_it_matches(picture: Picture, tmp_path: Path) -> None:
    for name in ("in/a1.png", "in/a10.png", "in/a2.jpg", "in/sub/a3.png"):
        picture(name, "red")
    (tmp_path / "in" / "notes.md").write_text("x")
    names = {
        "in/*.png": ["a1.png", "a10.png"],
        "in/*": ["a1.png", "a2.jpg", "a10.png"],
        "in/**": ["a1.png", "a2.jpg", "a10.png", "a3.png"],
        "in/*.md": ["notes.md"],
    }
    for pattern, wanted in names.items():
        assert [Path(str(p)).name for p in find_images(str(tmp_path / pattern))] == wanted


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(picture: Picture, tmp_path: Path) -> None:
    assert find_images(str(picture("a[1].png", "red"))) == [tmp_path / "a[1].png"]


def test_a_list_keeps_its_order_and_is_relative_to_itself(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbfb.png\r\n\r\n# a comment\r\n  sub/a.png  \r\n/abs/c.png\r\n")
    assert find_images(listed) == [tmp_path / "b.png", tmp_path / "sub" / "a.png", Path("/abs/c.png")]


def test_standard_input_may_be_one_image(picture: Picture) -> None:
    content = picture("a.jpg", "red").read_bytes()
    assert find_images("-", stdin=io.BytesIO(content)) == [content]


def test_standard_input_may_be_a_list_of_paths() -> None:
    assert find_images("-", stdin=io.BytesIO(b"a.png\nsub/b \xc3\xa9.png\n")) == [Path("a.png"), Path("sub/b é.png")]


def test_nothing_found_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "in").mkdir()
    for source, claim in (
        ("in", "holds no images"),
        ("absent.png", "nothing at"),
        ("*.webp", "nothing matches"),
        ("empty.txt", "lists no images"),
    ):
        with pytest.raises(UsageError, match=claim):
            find_images(str(tmp_path / source))
    with pytest.raises(UsageError, match="standard input is empty"):
        find_images("-", stdin=io.BytesIO(b"\n"))


def test_a_list_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="is not text"):
        find_images(tmp_path / "list.txt")
