"""What an operator may write for a Nomad, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.registry.model import Protocol
from isthmus.registry.nomad import NomadConfig


def test_an_empty_configuration_is_the_agent_of_this_machine() -> None:
    config = msgspec.convert({}, NomadConfig)
    assert config.address == "http://127.0.0.1:4646"
    assert config.namespace == "default"
    assert config.default_protocol is Protocol.HTTP


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "127.0.0.1:4646"}, "http://host:port"),
        ({"address": "http://nomad/v1"}, "http://host:port"),
        ({"address": "http://nomad:99999"}, "http://host:port"),
        ({"address": "http://[::1"}, "http://host:port"),
        ({"address": "ftp://nomad"}, "http://host:port"),
        ({"adress": "http://nomad"}, "adress"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"check_interval": 0}, "check_interval"),
        ({"check_rate": 0}, "check_rate"),
        ({"drain_limit": 0}, "drain_limit"),
        ({"max_connections": 3}, "max_connections"),
        ({"namespace": ""}, "namespace"),
        ({"default_protocol": "thrift"}, "thrift"),
        ({"default_port": 0}, "default_port"),
        ({"address": "https://nomad", "cert_file": "x"}, "both or none"),
        ({"ca_file": "ca.pem"}, "https://"),
        ({"token": "read-from-a-file\n"}, "token"),
        ({"token": "t", "token_file": "f"}, "one of them"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(options, NomadConfig)


def test_secrets_are_in_no_text() -> None:
    """Neither a token in the printed configuration, nor a password in the error that refuses it."""
    config = msgspec.convert({"token": "s3cret"}, NomadConfig)
    assert "s3cret" not in f"{config} {config!r}"
    with pytest.raises(msgspec.ValidationError, match="no user or password") as refused:
        msgspec.convert({"address": "http://user:s3cret@nomad:4646"}, NomadConfig)
    assert "s3cret" not in str(refused.value)
