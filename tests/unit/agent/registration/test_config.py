"""What may be written about a registration, and what is said of what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from isthmus.agent.duration import Duration, decode
from isthmus.agent.registration import (
    BridgeRegistration,
    ConsulRegistration,
    EtcdRegistration,
    EurekaRegistration,
    NoRegistration,
    Registered,
    Registration,
    to_registrar,
)
from isthmus.registry.model import Protocol


def parse(said: dict[str, Any]) -> Any:
    return msgspec.convert(said, Registration, dec_hook=decode)


def mk_registered(**more: Any) -> Registered:
    said = {"id": "web-1", "service": "web", "namespace": "default", "address": "10.0.0.5", "ports": {"http": 80}}
    return Registered(**said | more)


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("consul", ConsulRegistration()),
        ("eureka", EurekaRegistration()),
        ("etcd", EtcdRegistration()),
        ("bridge", BridgeRegistration()),
        ("none", NoRegistration()),
    ],
)
def test_the_type_is_enough(type_: str, expected: object) -> None:
    assert parse({"type": type_}) == expected


def test_times_are_written_as_istio_writes_them() -> None:
    config = parse({"type": "consul", "ttl": "1m30s", "deregisterCriticalServiceAfter": "72h"})
    assert config.ttl == 90
    assert config.deregister_critical_service_after == 72 * 3600


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"type": "zookeeper"}, "zookeeper"),
        ({"type": "consul", "adress": "x"}, "unknown field `adress`"),
        ({"type": "consul", "address": "127.0.0.1:8500"}, "expected http://host:port"),
        ({"type": "consul", "address": "http://127.0.0.1:8500", "caFile": "/ca.pem"}, "TLS options need https://"),
        ({"type": "consul", "token": "abc\n"}, "a line's end"),
        ({"type": "consul", "ttl": "10ms"}, "ttl 10ms: expected 1s to 24h"),
        ({"type": "consul", "deregisterCriticalServiceAfter": "30s"}, "at least 1m"),
        ({"type": "eureka", "addresses": []}, "addresses"),
        ({"type": "eureka", "user": "me"}, "user and password: both or none"),
        ({"type": "eureka", "user": "a:b", "password": "c"}, "no colon"),
        ({"type": "etcd", "endpoints": ["http://a:1", "https://b:1"]}, "all http:// or all https://"),
        ({"type": "etcd", "endpoints": ["http://a:1/v3"]}, "without a path"),
        ({"type": "bridge", "addresses": ["https://a:1"], "certFile": "/c.pem"}, "certFile and keyFile: both or none"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(said: dict[str, Any], reason: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=reason):
        parse(said)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(msgspec.ValidationError, match="no user, password or token") as error:
        parse({"type": "eureka", "addresses": ["http://me:s3cret@127.0.0.1:8761/eureka"]})
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        ConsulRegistration(token="s3cret"),  # noqa: S106
        EurekaRegistration(user="me", password="s3cret"),  # noqa: S106
        EtcdRegistration(user="me", password="s3cret"),  # noqa: S106
        BridgeRegistration(token="s3cret"),  # noqa: S106
    ],
)
def test_secrets_are_not_shown(config: Registration) -> None:
    assert "s3cret" not in repr(config) + str(config)


def test_two_services_need_two_ids(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="web-1 is the id of two of them on vm-1"):
        to_registrar(ConsulRegistration(), [mk_registered(), mk_registered(service="api")], "vm-1", tmp_path)


@pytest.mark.parametrize("config", [ConsulRegistration(), EurekaRegistration(), EtcdRegistration()])
def test_a_namespace_that_the_registry_has_no_place_for_is_refused(config: Registration, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"namespace 'shop': .* of namespace 'default'"):
        to_registrar(config, [mk_registered(namespace="shop")], "vm-1", tmp_path)


def test_the_bridge_keeps_any_namespace_and_consul_enterprise_its_own(tmp_path: Path) -> None:
    to_registrar(BridgeRegistration(), [mk_registered(namespace="shop")], "vm-1", tmp_path)
    to_registrar(ConsulRegistration(namespace="shop"), [mk_registered(namespace="shop")], "vm-1", tmp_path)


async def test_registering_nowhere_does_nothing_and_has_no_problems(tmp_path: Path) -> None:
    registrar = to_registrar(NoRegistration(), [mk_registered()], "vm-1", tmp_path)
    registrar.report("web-1", False, "refused")
    await registrar.drain()
    await registrar.withdraw()
    await registrar.run()
    assert registrar.problems() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"ports": {}}, "service web: it has no port"),
        ({"protocols": {"grpc": Protocol.GRPC}}, "there is no port 'grpc'; there are http"),
        ({"numbers": {"admin": 1}}, "there is no port 'admin'; there are http"),
    ],
)
def test_a_service_whose_ports_contradict_each_other_is_refused(more: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        mk_registered(**more)


def test_a_ttl_is_told_to_consul_as_go_reads_it() -> None:
    assert str(Duration(90)) == "1m30s"
