"""What commands print: aligned, whole, and harmless."""

from __future__ import annotations

import json

import pytest
import yaml
from rich.text import Text

from isthmus.cli import address
from isthmus.cli.output import CommandError, print_document, print_table


def test_columns_are_aligned_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """However narrow a terminal is assumed to be, and without spaces at the end."""
    long = "x" * 300

    print_table(("NAME", "STATE", "NOTE"), [("reviews", Text("SYNCED", "green"), long), ("日本", "STALE", "")], "none")

    assert capsys.readouterr().out.splitlines() == [
        "NAME     STATE   NOTE",
        f"reviews  SYNCED  {long}",
        "日本     STALE   -",
    ]


def test_names_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """A registry is written to by many; what it holds is shown to whoever is on call."""
    print_table(("NAME",), [("\x1b[2Jgone\r\nHEADER\N{RIGHT-TO-LEFT OVERRIDE}",)], "none")

    assert capsys.readouterr().out.splitlines()[1:] == [
        "\N{REPLACEMENT CHARACTER}[2Jgone HEADER\N{REPLACEMENT CHARACTER}"
    ]


def test_markup_in_names_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME",), [("[red]reviews[/red]",)], "none")

    assert "[red]reviews[/red]" in capsys.readouterr().out


def test_an_empty_listing_says_so_beside_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME",), [], "no services")

    assert capsys.readouterr() == ("", "isthmus: no services\n")


def test_documents_are_json_or_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"services": [{"name": "b", "labels": {"version": "1"}}]}

    print_document(document, "json")
    assert json.loads(capsys.readouterr().out) == document
    print_document(document, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == document


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:15010", ("127.0.0.1", 15010)),
        ("[::1]:1", ("::1", 1)),
        ("bridge.example:65535", ("bridge.example", 65535)),
    ],
)
def test_addresses_are_split(text: str, parts: tuple[str, int]) -> None:
    assert address.split("--xds", text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "host",
        "host:",
        ":15010",
        "host:0",
        "host:65536",
        "host:x",
        "::1:15010",
        "http://host:1",
        "a b:1",
        "u@h:1",
        "h:\N{FULLWIDTH DIGIT ONE}",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match=r"^--xds .*: expected HOST:PORT") as error:
        address.split("--xds", text)
    assert error.value.status == 2
