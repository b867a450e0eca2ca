"""What an operator may write for a Consul, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.registry.consul import ConsulConfig
from isthmus.registry.model import Protocol


def test_an_empty_configuration_is_the_agent_of_this_machine() -> None:
    config = msgspec.convert({}, ConsulConfig)
    assert config.address == "http://127.0.0.1:8500"
    assert config.default_protocol is Protocol.HTTP


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "127.0.0.1:8500"}, "http://host:port"),
        ({"address": "http://consul/v1"}, "http://host:port"),
        ({"address": "http://consul:99999"}, "http://host:port"),
        ({"address": "http://[::1"}, "http://host:port"),
        ({"address": "ftp://consul"}, "http://host:port"),
        ({"adress": "http://consul"}, "adress"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"max_connections": 3}, "max_connections"),
        ({"consistency": "eventual"}, "eventual"),
        ({"default_protocol": "thrift"}, "thrift"),
        ({"default_port": 0}, "default_port"),
        ({"address": "https://consul", "cert_file": "x"}, "both or none"),
        ({"ca_file": "ca.pem"}, "https://"),
        ({"token": "read-from-a-file\n"}, "token"),
        ({"max_reads_per_minute": 5}, "max_reads_per_minute"),
        ({"datacenter": "dc1", "datacenters": ["dc2"]}, "one of them"),
        ({"datacenter": "dc1", "peer": "east"}, "one of them"),
        ({"peer": "east", "peers": ["west"]}, "peer or peers"),
        ({"datacenters": ["dc1", "dc1"]}, "each of them once"),
        ({"peers": ["east/../agent"]}, "letters, digits"),
        ({"peer": ".."}, "letters, digits"),
        ({"datacenters": [""]}, "letters, digits"),
        ({"datacenters": ["dc1", "dc2"], "max_connections": 45}, "max_connections: expected at least 23 for each"),
        ({"peers": ["east"], "max_reads_per_minute": 200}, "max_reads_per_minute: expected at least 120 for each"),
        ({"namespace": "*"}, "registry of its own"),
        ({"agent_cache": True, "consistency": "consistent"}, "cannot be consistent"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(options, ConsulConfig)


def test_secrets_are_in_no_text() -> None:
    """Neither a token in the printed configuration, nor a password in the error that refuses it."""
    config = msgspec.convert({"token": "s3cret"}, ConsulConfig)
    assert "s3cret" not in f"{config} {config!r}"
    with pytest.raises(msgspec.ValidationError, match="no user or password") as refused:
        msgspec.convert({"address": "http://user:s3cret@consul:8500"}, ConsulConfig)
    assert "s3cret" not in str(refused.value)
