"""Paths and patterns, and the files that they stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.registry.file import find as module
from isthmus.registry.file.find import begin_of, find

TREE = (
    "a.yaml",
    "b.yml",
    "c.json",
    "notes.txt",
    "a.yaml~",
    ".hidden.yaml",
    "teams/red/services.yaml",
    "teams/red/more/services.yaml",
    "teams/blue/services.yaml",
    "teams/blue/other.json",
    "teams/.git/services.yaml",
    "teams/x1.yaml",
    "teams/x2.yaml",
    "teams/x9.yaml",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("services: []")
    return tmp_path


def found(tree: Path, *patterns: str) -> set[str]:
    """Files, relative to the tree."""
    return {str(path.relative_to(tree)) for path in find(str(tree / p) for p in patterns).files.values()}


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        (".", {"a.yaml", "b.yml", "c.json"}),
        ("notes.txt", {"notes.txt"}),
        ("*", {"a.yaml", "b.yml", "c.json"}),
        ("*.yaml", {"a.yaml"}),
        ("teams/x[12].yaml", {"teams/x1.yaml", "teams/x2.yaml"}),
        ("teams/x[!12].yaml", {"teams/x9.yaml"}),
        ("teams/x?.yaml", {"teams/x1.yaml", "teams/x2.yaml", "teams/x9.yaml"}),
        ("teams/*/services.yaml", {"teams/red/services.yaml", "teams/blue/services.yaml"}),
        ("teams/r*/*.yaml", {"teams/red/services.yaml"}),
        (
            "**/services.yaml",
            {"teams/red/services.yaml", "teams/red/more/services.yaml", "teams/blue/services.yaml"},
        ),
        ("teams/**/more/*.yaml", {"teams/red/more/services.yaml"}),
        (
            "teams/red/**",
            {"teams/red/services.yaml", "teams/red/more/services.yaml"},
        ),
        ("teams/green*/**/*.yaml", set()),
    ],
)
def test_what_a_pattern_stands_for(tree: Path, pattern: str, files: set[str]) -> None:
    """Hidden ones, backups of editors and other kinds of files never, unless a path names one."""
    assert found(tree, pattern) == files


def test_several_patterns_and_a_file_that_two_of_them_match(tree: Path) -> None:
    assert found(tree, "a.yaml", "*.y*ml", "teams/x1.yaml") == {"a.yaml", "b.yml", "teams/x1.yaml"}


def test_files_are_known_by_their_path_from_what_all_have_in_common(tree: Path) -> None:
    """Two of one name in different directories are told apart; in one directory the name is enough."""
    assert set(find([str(tree / "teams" / "*" / "services.yaml")]).files) == {"red/services.yaml", "blue/services.yaml"}
    assert set(find([str(tree / "teams" / "red"), str(tree / "a.yaml")]).files) == {
        "teams/red/services.yaml",
        "a.yaml",
    }
    assert set(find([str(tree)]).files) == {"a.yaml", "b.yml", "c.json"}


@pytest.mark.parametrize("pattern", ["absent", "absent/*.yaml", "absent/**/x.yaml"])
def test_where_a_search_begins_has_to_be_there(tree: Path, pattern: str) -> None:
    """Nothing was found out if it is not: that is no evidence of absence."""
    with pytest.raises(FileNotFoundError) as caught:
        find([str(tree / "*.yaml"), str(tree / pattern)])

    assert caught.value.filename == str(tree / "absent")


def test_links_are_followed_but_not_in_circles(tree: Path) -> None:
    (tree / "teams" / "current").symlink_to("red")
    (tree / "teams" / "red" / "up").symlink_to("..")

    assert "teams/current/services.yaml" in found(tree, "teams/*/services.yaml")
    assert "teams/red/services.yaml" in found(tree, "**/services.yaml")


def test_too_many_directories_are_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would be watched, and the system has few watches."""
    monkeypatch.setattr(module, "MAX_DIRECTORIES", 3)

    with pytest.raises(OSError, match="more than 3 directories"):
        find([str(tree / "**" / "*.yaml")])


@pytest.mark.parametrize(
    ("pattern", "begin"),
    [("/a/b", "/a/b"), ("/a/b/*.yaml", "/a/b"), ("/a/*/b", "/a"), ("/**", "/"), ("/a/[b]/c", "/a")],
)
def test_where_a_search_begins(pattern: str, begin: str) -> None:
    assert begin_of(pattern) == Path(begin)
