"""Services for tests, in a few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from isthmus.registry.model import Health, Instance, Origin, Port, Protocol, Service, ServiceKey, Snapshot


def mk_key(name: str, namespace: str = "default") -> ServiceKey:
    return ServiceKey(namespace, name)


def mk_instance(
    number: int,
    *,
    origin: str = "consul",
    port: int = 8080,
    health: Health = Health.HEALTHY,
    weight: int = 1,
    name: str = "http",
    labels: Mapping[str, str] | None = None,
) -> Instance:
    """Instance `i<number>` at 10.0.0.<number>."""
    return Instance(
        f"i{number}", origin, f"10.0.{number // 250}.{number % 250}", {name: port}, health, weight, labels=labels or {}
    )


def mk_service(
    name: str,
    instances: Iterable[Instance] = (),
    *,
    port: int = 80,
    protocol: Protocol = Protocol.HTTP,
    namespace: str = "default",
) -> Service:
    return Service(
        mk_key(name, namespace),
        (Port(protocol.value, port, protocol),),
        tuple(sorted(instances, key=lambda i: i.id)),
        frozenset({f"{name}.service.consul"}),
    )


def mk_snapshot(
    *services: Service,
    origin: str = "consul",
    cursor: str = "1",
    changed: Iterable[str] | None = None,
    doubt: str = "",
    doubts: Mapping[str, str] | None = None,
    unlisted: str = "",
) -> Snapshot:
    return Snapshot(
        Origin(origin, "fake"),
        {s.key: s for s in services},
        cursor,
        None if changed is None else frozenset(mk_key(c) for c in changed),
        (),
        doubt,
        {mk_key(name): reason for name, reason in (doubts or {}).items()},
        unlisted,
    )
