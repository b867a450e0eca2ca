"""What Eureka's records mean for callers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from isthmus.registry.eureka.answers import Record
from isthmus.registry.eureka.parse import LEAST, Parsed, Rules, Sighting, parse_service
from isthmus.registry.model import Health, Instance, Locality, Origin, Port, Protocol, Service, ServiceKey

ORIGIN = Origin("spring", "eureka")


def mk_record(number: int = 1, **more: Any) -> Record:
    """Instance `web-<number>` at 10.0.0.<number>:8080."""
    said = {"app": "WEB", "id": f"web-{number}", "status": "UP", "ip": f"10.0.0.{number}", "port": 8080}
    return msgspec.convert(said | more, Record)


def parse(*records: Record, rules: Rules | None = None, **sighting: Any) -> Parsed:
    return parse_service(ORIGIN, "WEB", [Sighting(r, **sighting) for r in records], rules or Rules())


def service(*records: Record, rules: Rules | None = None, **sighting: Any) -> Service:
    found = parse(*records, rules=rules, **sighting).service
    assert found is not None
    return found


def instance(record: Record, rules: Rules | None = None, **sighting: Any) -> Instance:
    (found,) = service(record, rules=rules, **sighting).instances
    return found


def test_a_service() -> None:
    found = service(
        mk_record(2, vips=("web",), secure_vips=("web-tls.example:443",)),
        mk_record(1, vips=("web", "www.example"), host="one.example", metadata={"management.port": "9090", "v": "1"}),
    )
    assert found.key == ServiceKey("default", "web")
    assert found.ports == (Port("http", 8080, Protocol.HTTP),)
    assert found.hostnames == {"web", "www.example", "web-tls.example"}
    assert [i.id for i in found.instances] == ["web-1", "web-2"]
    first = found.instances[0]
    assert (first.address, first.ports, first.origin) == ("10.0.0.1", {"http": 8080}, "spring")
    assert first.labels == {"management.port": "9090", "v": "1"}
    assert first.provenance == {
        "application": "WEB",
        "host_name": "one.example",
        "status": "UP",
        "management_port": "9090",
    }


@pytest.mark.parametrize(
    ("status", "overridden", "health"),
    [
        ("UP", "UNKNOWN", Health.HEALTHY),
        ("UP", "OUT_OF_SERVICE", Health.DRAINING),
        ("OUT_OF_SERVICE", "OUT_OF_SERVICE", Health.DRAINING),
        ("OUT_OF_SERVICE", "UNKNOWN", Health.DRAINING),
        ("DOWN", "OUT_OF_SERVICE", Health.UNHEALTHY),
        ("DOWN", "UP", Health.UNHEALTHY),
        ("STARTING", "UNKNOWN", Health.UNHEALTHY),
        ("UNKNOWN", "UNKNOWN", Health.UNHEALTHY),
    ],
)
def test_health(status: str, overridden: str, health: Health) -> None:
    """The status is the outcome of what the server knows; an operator's word counts for an instance that is up."""
    assert instance(mk_record(status=status, overridden=overridden)).health is health


@pytest.mark.parametrize("status", ["DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"])
def test_renewals_change_nothing_about_an_instance_that_is_not_up(status: str) -> None:
    record = mk_record(status=status)
    assert instance(record, overdue=3.0).health is instance(record).health is instance(record, silent=True).health


def test_an_overdue_renewal_tapers() -> None:
    """Up to one duration of its lease an instance gets all of its traffic; beyond, less and less, and never nothing."""
    record = mk_record()
    assert [instance(record, overdue=o).taper for o in (0.0, 1.0, 1.5, 2.0, 9.0)] == [100, 100, 50, LEAST, LEAST]
    assert instance(record, overdue=9.0).health is Health.HEALTHY, "age alone makes nobody ill"
    assert instance(record, overdue=1.1).provenance["renewal"] == "overdue"


def test_missed_heartbeats_make_an_instance_unhealthy() -> None:
    assert instance(mk_record(), silent=True).health is Health.UNHEALTHY
    assert instance(mk_record(), silent=True).provenance["renewal"] == "missed"


@pytest.mark.parametrize(("said", "weight"), [("7", 7), ("0", 1), ("500", 128)])
def test_weight(said: str, weight: int) -> None:
    assert instance(mk_record(metadata={"weight": said})).weight == weight


def test_a_weight_that_is_none_is_named_and_not_followed() -> None:
    parsed = parse(mk_record(metadata={"weight": "heavy"}))
    assert parsed.service is not None
    assert [q.where for q in parsed.quarantined] == ["application WEB, instance web-1, metadata weight"]
    assert parsed.service.instances[0].weight == 1


@pytest.mark.parametrize(
    ("ports", "number"),
    [([8080, 8080], 8080), ([8080, 8081], 80), ([32768, 32768], 80), ([20000, 20000], 80)],
)
def test_the_port_that_callers_name(ports: list[int], number: int) -> None:
    """The one all instances share, unless it is random."""
    found = service(*(mk_record(n, port=port) for n, port in enumerate(ports, 1)))
    assert [p.number for p in found.ports] == [number]
    assert [i.ports["http"] for i in found.instances] == ports


def test_the_port_and_protocol_that_metadata_name() -> None:
    found = service(mk_record(1, metadata={"port": "9000", "protocol": "GRPC"}), mk_record(2, port=8081))
    assert found.ports == (Port("grpc", 9000, Protocol.GRPC),)


def test_metadata_that_disagree_or_make_no_sense_are_named() -> None:
    parsed = parse(
        mk_record(1, metadata={"port": "9000", "protocol": "grpc"}),
        mk_record(2, metadata={"port": "9001", "protocol": "http"}),
        mk_record(3, metadata={"port": "70000", "protocol": "carrier-pigeon"}),
    )
    assert parsed.service is not None
    assert parsed.service.ports == (Port("grpc", 9000, Protocol.GRPC),)
    assert [q.where for q in parsed.quarantined] == [
        "application WEB, instance web-3, metadata port",
        "application WEB, instance web-3, metadata protocol",
        "application WEB, metadata port",
        "application WEB, metadata protocol",
    ]


def test_secure_ports_are_a_port_of_their_own() -> None:
    """An instance that has only one of the two serves only that."""
    found = service(mk_record(1, secure_port=8443), mk_record(2), mk_record(3, port=0, secure_port=8443))
    assert found.ports == (Port("http", 8080, Protocol.HTTP), Port("https", 8443, Protocol.HTTPS))
    assert [dict(i.ports) for i in found.instances] == [{"http": 8080, "https": 8443}, {"http": 8080}, {"https": 8443}]


def test_a_service_with_secure_ports_only() -> None:
    found = service(mk_record(1, port=0, secure_port=8443), mk_record(2, port=0, secure_port=9443))
    assert found.ports == (Port("https", 443, Protocol.HTTPS),)


def test_the_same_number_for_both_ports() -> None:
    """Clients that enable both with one number exist; callers can name it once."""
    assert service(mk_record(port=8443, secure_port=8443)).ports == (
        Port("https", 443, Protocol.HTTPS),
        Port("http", 8443, Protocol.HTTP),
    )


@pytest.mark.parametrize(
    ("ip", "host", "prefer", "address"),
    [
        ("10.0.0.1", "one.example", "ip", "10.0.0.1"),
        ("10.0.0.1", "one.example", "hostname", "one.example"),
        ("", "one.example", "ip", "one.example"),
        ("10.0.0.1", "", "hostname", "10.0.0.1"),
        ("2001:DB8::1", "", "ip", "2001:db8::1"),
    ],
)
def test_the_address(ip: str, host: str, prefer: str, address: str) -> None:
    rules = msgspec.convert({"prefer": prefer}, Rules)
    assert instance(mk_record(ip=ip, host=host), rules).address == address


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"port": 0}, "neither the port nor the secure port is enabled"),
        ({"port": 70000}, "expected 1 to 65535"),
        ({"ip": "", "host": ""}, "neither an IP address nor a host name"),
        ({"ip": "0.0.0.0"}, "cannot be called"),
        ({"ip": "10.0.0.300"}, "neither an IP address nor a host name"),
        ({"ip": "${spring.cloud.client.ip-address}"}, "neither an IP address nor a host name"),
    ],
)
def test_what_cannot_be_called_is_quarantined_by_name(more: dict[str, Any], reason: str) -> None:
    parsed = parse(mk_record(1), mk_record(2, **more))
    assert parsed.service is not None
    assert [i.id for i in parsed.service.instances] == ["web-1"]
    (bad,) = parsed.quarantined
    assert bad.where == "application WEB, instance web-2"
    assert reason in bad.reason
    assert parse(mk_record(2, **more)).service is None


def test_locality() -> None:
    assert instance(mk_record(zone="eu-west-1c"), Rules(region="eu-west-1")).locality == Locality(
        "eu-west-1", "eu-west-1c"
    )


def test_names_that_are_no_host_names_are_no_aliases() -> None:
    found = service(mk_record(vips=("${vip}", "10.0.0.1", "WEB", "a b")))
    assert found.hostnames == {"web"}
