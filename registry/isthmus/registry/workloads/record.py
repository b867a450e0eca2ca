"""What a workload says of itself when it registers, and the record that the store has of it. Pure.

{"service": "reviews", "namespace": "default", "address": "10.0.0.5",
 "ports": {"http": 19080}, "numbers": {"http": 9080}, "protocols": {"http": "http"},
 "health": "healthy", "weight": 1, "labels": {"version": "v1"},
 "locality": {"region": "eu", "zone": "eu-1", "sub_zone": "rack7"}, "epoch": 1763697600, "ttl": 30}
"""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

import msgspec

from isthmus.registry.address import is_host_name, parse_address
from isthmus.registry.conventions.protocols import protocol_of_port_name
from isthmus.registry.model import Health, Protocol

FOLDER = "workloads"
"""In the store: a key for each workload, its id."""

MAX_BODY = 64 * 1024
"""Bytes of what a workload says."""
MAX_PORTS = 32
MAX_LABELS = 64
MAX_TTL = 3600

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~@-]{0,199}")
_PORT_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HEALTH = {h.value: h for h in (Health.HEALTHY, Health.UNHEALTHY, Health.DRAINING)}

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Label = Annotated[str, msgspec.Meta(max_length=1000)]
Word = Annotated[str, msgspec.Meta(max_length=253)]

T = TypeVar("T", bound="Registration")


class RecordError(ValueError):
    """What a workload says cannot be used; one sentence that names the field."""


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where it runs, as much of it as is known."""

    region: Word = ""
    zone: Word = ""
    sub_zone: Word = ""


class Registration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a workload says.

    `ports` has the numbers at `address`, by name; `numbers` those that callers name, where they are others. A port's protocol is
    by default what its name says (`grpc-api`), and otherwise TCP. Of two that register the same id, the one with the larger
    `epoch` has it. `ttl` is how many seconds it may be silent.
    """

    service: Word
    address: Word
    ports: Annotated[dict[Word, PortNumber], msgspec.Meta(min_length=1, max_length=MAX_PORTS)]
    epoch: Epoch
    namespace: Word = "default"
    numbers: dict[Word, PortNumber] = {}
    protocols: dict[Word, Protocol] = {}
    health: Word = "healthy"
    weight: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 1
    labels: Annotated[dict[Word, Label], msgspec.Meta(max_length=MAX_LABELS)] = {}
    locality: Place = Place()
    ttl: Annotated[int, msgspec.Meta(ge=1, le=MAX_TTL)] = 30

    @property
    def health_state(self) -> Health:
        """Its health, as the model has it."""
        return _HEALTH[self.health]

    def number(self, port: str) -> int:
        """The number that callers name."""
        return self.numbers.get(port, self.ports[port])

    def protocol(self, port: str) -> Protocol:
        """What is spoken there."""
        return self.protocols.get(port) or protocol_of_port_name(port) or Protocol.TCP


class Workload(Registration, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The record of one workload. `bridge` is the replica that watches over its heartbeats."""

    id: str
    bridge: str = ""


_registration = msgspec.json.Decoder(Registration)
_workload = msgspec.json.Decoder(Workload)
_encoder = msgspec.json.Encoder(order="deterministic")


def check_id(id_: str) -> None:
    """Refuse what is no id.

    Raises:
        RecordError: with the reason.

    """
    if not _ID.fullmatch(id_) or id_.endswith(".new"):
        raise RecordError(
            f"id {id_[:200]!r}: expected at most 200 letters, digits and . _ : ~ @ - (a letter or digit first)"
        )


def parse_registration(body: bytes) -> Registration:
    """What a workload sends.

    Raises:
        RecordError: something about it is wrong.

    """
    if len(body) > MAX_BODY:
        raise RecordError(f"{len(body)} bytes; at most {MAX_BODY} are taken")
    try:
        registration = _registration.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise RecordError(_sentence(e)) from None
    return _checked(registration)


def parse_workload(id_: str, value: bytes) -> Workload:
    """What the store has of a workload.

    Raises:
        RecordError: something about it is wrong.

    """
    try:
        workload = _workload.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise RecordError(_sentence(e)) from None
    if workload.id != id_:
        raise RecordError(f"it says that it is {workload.id[:200]!r}")
    return _checked(workload)


def to_record(workload: Workload) -> bytes:
    """What the store is to have; equal for equal workloads."""
    return _encoder.encode(workload)


def to_workload(registration: Registration, id_: str, bridge: str) -> Workload:
    """The record of a workload that registered."""
    return Workload(id=id_, bridge=bridge, **{f: getattr(registration, f) for f in Registration.__struct_fields__})


def _checked(said: T) -> T:
    for field, name in (("service", said.service), ("namespace", said.namespace)):
        if not is_host_name(name):
            raise RecordError(f"{field} {name!r}: expected a name of letters, digits, dashes and dots")
    try:
        address = parse_address(said.address)
    except ValueError as e:
        raise RecordError(str(e)) from None
    if said.health not in _HEALTH:
        raise RecordError(f"health {said.health!r}: expected one of {', '.join(_HEALTH)}")
    for name in said.ports:
        if not _PORT_NAME.fullmatch(name):
            raise RecordError(f"port {name!r}: expected a name of lower-case letters, digits and dashes, at most 63")
    for field, names in (("numbers", said.numbers), ("protocols", said.protocols)):
        for name in names:
            if name not in said.ports:
                raise RecordError(f"{field}: there is no port {name!r}, only {', '.join(sorted(said.ports))}")
    if len({said.number(name) for name in said.ports}) < len(said.ports):
        raise RecordError("numbers: two ports have the same number; callers could not tell them apart")
    return said if address == said.address else msgspec.structs.replace(said, address=address)


def _sentence(error: Exception) -> str:
    """msgspec's text with the field at its beginning. What was found is not in it."""
    reason, _, where = str(error).partition(" - at `$")
    at = where.rstrip("`").lstrip(".")
    if reason.startswith("Object missing required field"):
        return f"{reason.rpartition(' ')[2].strip('`')} is missing"
    if reason.startswith("Object contains unknown field"):
        accepted = ", ".join(Registration.__struct_fields__)
        return f"unknown field {reason.rpartition(' ')[2].strip('`')}; accepted are {accepted}"
    if reason.startswith("Invalid enum value"):
        reason = f"expected one of {', '.join(p.value for p in Protocol)}"
    return f"{at}: {reason[0].lower()}{reason[1:]}" if at else reason
