"""What operators may write about an etcd cluster, and what they are told when it cannot be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.etcd.session import range_of

P = [{"prefix": "/services/"}]


def config(**fields: Any) -> EtcdConfig:
    return msgspec.convert({"prefixes": P} | fields, EtcdConfig)


def test_a_prefix_is_enough() -> None:
    found = config()
    assert found.endpoints == ("http://127.0.0.1:2379",)
    assert found.prefixes[0].layout == "auto"
    assert not found.secure


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prefixes": []}, "length"),
        ({"endpoints": []}, "length"),
        ({"endpoints": ["127.0.0.1:2379"]}, "expected http://host:port"),
        ({"endpoints": ["http://127.0.0.1"]}, "expected http://host:port"),
        ({"endpoints": ["http://h:1/v3"]}, "expected http://host:port"),
        ({"endpoints": ["http://h:x"]}, "expected http://host:port"),
        ({"endpoints": ["http://h:1", "https://h:2"]}, "all http:// or all https://"),
        ({"ca_file": "ca.pem"}, "need https"),
        ({"endpoints": ["https://h:1"], "cert_file": "c.pem"}, "both or none"),
        ({"user": "bridge"}, "both or none"),
        ({"prefixes": [{"prefix": "/a/"}, {"prefix": "/a/b/"}]}, "one contains the other"),
        ({"prefixes": [{"prefix": "/a/", "layout": "template"}]}, "belong together"),
        ({"prefixes": [{"prefix": "/a/", "layout": "etcd2"}]}, "etcd2"),
        ({"prefixes": [{"prefix": "/a/", "layout": "template", "template": {"key": "{id}"}}]}, "what a service is"),
        ({"heartbeat": 0}, "heartbeat"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=said):
        config(**fields)


def test_passwords_are_not_shown() -> None:
    assert "s3cret" not in repr(config(user="bridge", password="s3cret"))  # noqa: S106
    with pytest.raises(msgspec.ValidationError) as e:
        config(endpoints=["http://root:s3cret@127.0.0.1:2379"])
    assert "s3cret" not in str(e.value)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("/services/", (b"/services/", b"/services0")),
        ("a\x7f", (b"a\x7f", b"a\x80")),
        ("", (b"\0", b"\0")),
    ],
)
def test_the_range_of_a_prefix(prefix: str, expected: tuple[bytes, bytes]) -> None:
    assert range_of(prefix) == expected
