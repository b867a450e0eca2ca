"""The written form of services: what the file adapter reads and `isthmus services -o yaml` prints.

services:
- name: reviews
  namespace: default                  # the default
  hostnames: [reviews.example.com]    # aliases, none by default
  external: false
  ports: [{name: http, number: 9080, protocol: http}]    # protocol: by default from the name, `http-api` is http
  instances:
  - id: reviews-1                     # by default the address and the first port
    address: 10.0.0.1                 # an IP address, a host name, or unix:///path
    ports: {http: 9081}               # by default the service's own numbers
    health: healthy
    weight: 1
    labels: {version: v1}
    locality: {region: eu, zone: eu-1, sub_zone: a}
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from isthmus.registry.model import Health, Instance, Protocol, Service

_Word = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Own = Annotated[int, msgspec.Meta(ge=0, le=65535)]
"""A port of an instance; 0 where it has none, as at a Unix domain socket."""
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Weight = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class WrittenPort(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A logical port, as written."""

    name: _Word
    number: _Number
    protocol: Protocol | None = None


class WrittenLocality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A locality, as written."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""


class WrittenInstance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An instance, as written."""

    address: _Word
    id: _Id | None = None
    ports: dict[str, _Own] | None = None
    health: Health = Health.HEALTHY
    weight: _Weight = 1
    labels: dict[str, str] = {}
    locality: WrittenLocality = WrittenLocality()
    network: str = ""
    identity: str = ""
    tls_mode: str = ""
    provenance: dict[str, str] = {}


class WrittenService(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A service, as written."""

    name: _Word
    ports: Annotated[list[WrittenPort], msgspec.Meta(min_length=1)]
    namespace: _Word = "default"
    hostnames: list[_Word] = []
    external: bool = False
    instances: list[WrittenInstance] = []


def to_document(services: Iterable[Service]) -> dict[str, Any]:
    """The plain value of services, sorted by key; `parse_document` of its YAML or JSON gives the same services again."""
    return {"services": [_written(s) for s in sorted(services, key=lambda s: s.key)]}


def _written(service: Service) -> dict[str, Any]:
    out: dict[str, Any] = {"name": service.key.name, "namespace": service.key.namespace}
    if service.hostnames:
        out["hostnames"] = sorted(service.hostnames)
    if service.external:
        out["external"] = True
    out["ports"] = [{"name": p.name, "number": p.number, "protocol": p.protocol.value} for p in service.ports]
    out["instances"] = [_written_instance(i) for i in service.instances]
    return out


def _written_instance(i: Instance) -> dict[str, Any]:
    out: dict[str, Any] = {"id": i.id, "address": i.address, "ports": dict(i.ports), "health": i.health.value}
    out["weight"] = i.weight
    locality = {f: v for f, v in msgspec.structs.asdict(i.locality).items() if v}
    optional: dict[str, Any] = {
        "locality": locality,
        "labels": dict(i.labels),
        "network": i.network,
        "identity": i.identity,
        "tls_mode": i.tls_mode,
        "provenance": dict(i.provenance),
    }
    return out | {name: value for name, value in optional.items() if value}
