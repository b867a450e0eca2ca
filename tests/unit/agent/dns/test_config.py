"""The section `dns`, and resolv.conf."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from isthmus.agent.dns.config import Address, DnsConfig, DnsConfigError, check, listening, upstreams
from isthmus.agent.dns.resolv import ResolvConf, parse_resolv_conf, read_resolv_conf
from isthmus.agent.duration import decode


def mk_config(**keys: object) -> DnsConfig:
    return msgspec.convert(keys, DnsConfig, dec_hook=decode)


def test_the_defaults_can_be_used() -> None:
    check(DnsConfig())
    assert listening(DnsConfig()) == (Address("127.0.0.1", 15053),)


def test_addresses_are_read_in_every_form() -> None:
    config = mk_config(
        listen=["127.0.0.53:53", "[::1]:15053"],
        upstream=["192.0.2.1", "192.0.2.1:5353", "::1", "[::1]", "[2001:db8::1]:53", "fe80::1%lo"],
    )
    check(config)
    assert [str(a) for a in listening(config)] == ["127.0.0.53:53", "[::1]:15053"]
    assert [str(a) for a in upstreams(config)] == [
        *("192.0.2.1:53", "192.0.2.1:5353", "[::1]:53", "[::1]:53", "[2001:db8::1]:53", "[fe80::1%lo]:53")
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"listen": []}, r"listen: expected at least one address, such as 127.0.0.1:15053"),
        ({"listen": ["127.0.0.1"]}, r"listen.0: '127.0.0.1': expected address:port, such as"),
        ({"listen": ["127.0.0.1:"]}, r"listen.0: '127.0.0.1:': expected address:port"),
        ({"listen": ["::1:15053", "x"]}, r"listen.0: '::1:15053': expected address:port"),
        ({"listen": ["localhost:53"]}, r"listen.0: 'localhost:53': expected address:port"),
        ({"listen": ["127.0.0.1:99999"]}, r"listen.0: '127.0.0.1:99999': expected address:port"),
        ({"listen": ["0.0.0.0:53"]}, r"listen.0: '0.0.0.0:53': expected one address of this machine"),
        ({"listen": ["[::]:53"]}, r"listen.0: '\[::\]:53': expected one address of this machine"),
        ({"upstream": ["8.8.8.8", "dns.example"]}, r"upstream.1: 'dns.example': expected an address"),
        ({"search": ["a..b"]}, r"search.0: 'a..b' is no host name: expected labels of 1 to 63"),
        ({"domains": ["mésh"]}, r"domains.0: 'mésh' is no host name: write other letters than ASCII's as xn--"),
        ({"domains": [".".join(["x" * 60] * 5)]}, r"domains.0: .* longer than 253"),
        ({"ttl": "48h"}, r"ttl: 48h: expected at most a day"),
        ({"timeout": "1ms"}, r"timeout: 1ms: expected from 50ms to 30s"),
    ],
)
def test_what_cannot_be_used_is_said_with_what_can(keys: dict[str, object], message: str) -> None:
    with pytest.raises(DnsConfigError, match=message):
        check(mk_config(**keys))


def test_resolv_conf_is_read_as_the_c_library_does() -> None:
    text = b"""# generated
nameserver 192.0.2.1   # first
nameserver 2001:db8::1
nameserver nonsense
domain old.example
search corp.example a..b lan
options ndots:2
"""
    assert parse_resolv_conf(text) == ResolvConf(
        (Address("192.0.2.1", 53), Address("2001:db8::1", 53)), ("corp.example", "lan")
    )


def test_the_servers_behind_systemd_resolved_are_asked_directly(tmp_path: Path) -> None:
    """It is going to ask us for names of the mesh."""
    assert read_resolv_conf(tmp_path) == ResolvConf()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.53\nsearch lan\n")
    assert read_resolv_conf(tmp_path) == ResolvConf((Address("127.0.0.53", 53),), ("lan",))
    behind = tmp_path / "run/systemd/resolve/resolv.conf"
    behind.parent.mkdir(parents=True)
    behind.write_text("nameserver 192.0.2.1\n")
    assert read_resolv_conf(tmp_path) == ResolvConf((Address("192.0.2.1", 53),), ("lan",))
