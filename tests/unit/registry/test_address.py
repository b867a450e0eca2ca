"""What may stand as an address, whatever registry says it."""

from __future__ import annotations

import pytest

from isthmus.registry.address import is_host_name, parse_address, parse_socket_path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("db.example.com", "db.example.com"),
        ("db.example.com.", "db.example.com."),
        ("my_host", "my_host"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_an_ip_address_is_made_canonical_and_a_host_name_is_left_alone(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["10.0.0.300", "10.0.0", "1234", "http://web", "web:80", "a b", "-", "", "a" * 300])
def test_what_is_neither_is_refused_with_what_was_said(text: str) -> None:
    with pytest.raises(ValueError, match="neither an IP address nor a host name") as refused:
        parse_address(text)
    assert repr(text[:20])[:-1] in str(refused.value)


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "fe80::1%eth0"])
def test_what_nobody_can_call_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be called from elsewhere"):
        parse_address(text)


def test_an_error_does_not_repeat_a_book() -> None:
    with pytest.raises(ValueError, match="neither") as refused:
        parse_address("x" * 100_000)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("name", "ok"), [("a.b-c", True), ("a" * 63, True), ("a" * 64, False), ("a..b", False), ("-a", False)]
)
def test_a_host_name_is_what_dns_could_have(name: str, ok: bool) -> None:
    assert is_host_name(name) is ok


def test_the_path_of_a_socket_is_absolute() -> None:
    assert parse_socket_path("/run/web.sock") == "unix:///run/web.sock"
    for wrong in ("run/web.sock", "", "@abstract", "/run/\0"):
        with pytest.raises(ValueError, match="absolute path"):
            parse_socket_path(wrong)
