"""Services out of a text in their written form (`isthmus.registry.written`).

What is wrong with one service concerns that service alone: it becomes a problem with its line, and the others are taken.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from isthmus.registry.conventions import protocol_of_port_name
from isthmus.registry.marked_yaml import Marked, MarkedYAMLError, parse_marked_yaml
from isthmus.registry.model import Health, Instance, Locality, Port, Protocol, Service, ServiceKey
from isthmus.registry.written import WrittenInstance, WrittenPort, WrittenService

_HOST = re.compile(
    r"(?=.{1,253}\.?$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?", re.IGNORECASE
)
_NAME = re.compile(r"[a-z0-9]([a-z0-9_.-]*[a-z0-9])?", re.IGNORECASE)


class Entry(msgspec.Struct, frozen=True):
    """One service as one file has it, and the line where it stands."""

    service: Service
    line: int


class Problem(msgspec.Struct, frozen=True, order=True):
    """What could not be used: on which line and why. `key` is the service in question, None when the text does not tell."""

    line: int
    reason: str
    key: ServiceKey | None = None


class Document(msgspec.Struct, frozen=True):
    """What one text says. `broken` means that nothing of it could be used, for the one reason in `problems`."""

    entries: tuple[Entry, ...] = ()
    problems: tuple[Problem, ...] = ()
    broken: bool = False


class _InvalidError(Exception):
    """Something is wrong with one service, at a path inside it."""

    def __init__(self, path: list[str | int], reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def parse_document(text: bytes, origin: str, provenance: Mapping[str, str] | None = None) -> Document:
    """Read services; one that is wrong is a problem of its own, the others are taken.

    Args:
        text: YAML, or JSON where its first character is a brace; UTF-8.
        origin: name of the origin, given to the instances.
        provenance: given to the instances that are written without one.

    """
    try:
        root = _marked(text)
        services = _top(root)
    except MarkedYAMLError as e:
        return Document(problems=(Problem(e.line, e.reason),), broken=True)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for marked in services:
        try:
            entries.append(Entry(_service(marked.value, origin, provenance or {}), marked.line))
        except _InvalidError as e:
            name = _name(marked.value)
            called = f"service {name}: " if name else ""
            problems.append(Problem(marked.line_of(e.path), called + e.reason, name))
    return Document(tuple(entries), tuple(problems))


def _marked(text: bytes) -> Marked:
    """YAML reads nearly all JSON; what it does not (escaped surrogates, tabs) is normalised by a JSON parser first."""
    if not text.lstrip().startswith(b"{"):
        return parse_marked_yaml(text)
    try:
        return parse_marked_yaml(text)
    except MarkedYAMLError:
        try:
            decoded = msgspec.json.decode(text)
        except msgspec.DecodeError as e:
            position = re.search(r"\(byte (\d+)\)", str(e))
            line = text.count(b"\n", 0, int(position[1])) + 1 if position else 1
            raise MarkedYAMLError(line, f"not JSON: {e}") from None
        return parse_marked_yaml(msgspec.json.encode(decoded))


def _top(root: Marked) -> list[Marked]:
    if root.value is None:
        raise MarkedYAMLError(1, "the file is empty; `services: []` says that there are none")
    if not isinstance(root.value, dict):
        raise MarkedYAMLError(root.line, "a mapping with the key `services` is expected")
    for key in root.value:
        if key != "services":
            raise MarkedYAMLError(root.line_of([key]), f"unknown key {key!r}; only `services` is known here")
    services = root.inside.get("services")
    if services is None or not isinstance(services.value, list):
        raise MarkedYAMLError(root.line_of(["services"]), "`services` with a list is expected")
    return [services.inside[i] for i in range(len(services.value))]


def _name(value: Any) -> ServiceKey | None:
    if isinstance(value, dict):
        name, namespace = value.get("name"), value.get("namespace", "default")
        if isinstance(name, str) and isinstance(namespace, str):
            return ServiceKey(namespace, name)
    return None


_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_ACCEPTED: Mapping[str, str] = {
    "health": ", ".join(h.value for h in Health),
    "protocol": ", ".join(p.value for p in Protocol),
}


def _service(value: Any, origin: str, provenance: Mapping[str, str]) -> Service:
    try:
        written = msgspec.convert(value, WrittenService)
    except msgspec.ValidationError as e:
        raise _explained(e) from None
    key = ServiceKey(written.namespace, written.name)
    for field in ("name", "namespace"):
        if not _NAME.fullmatch(getattr(written, field)):
            raise _InvalidError(
                [field],
                f"{field}: letters, digits, and between them - _ . are accepted, not {getattr(written, field)!r}",
            )
    for i, hostname in enumerate(written.hostnames):
        if not _HOST.fullmatch(hostname):
            raise _InvalidError(["hostnames", i], f"{hostname!r} is not a host name")
    ports = _ports(written.ports)
    instances: dict[str, Instance] = {}
    for i, w in enumerate(written.instances):
        instance = _instance(w, i, ports, origin, provenance)
        if instance.id in instances:
            raise _InvalidError(["instances", i], f"the instance id {instance.id} stands twice")
        instances[instance.id] = instance
    return Service(
        key=key,
        ports=ports,
        instances=tuple(instances[i] for i in sorted(instances)),
        hostnames=frozenset(written.hostnames),
        external=written.external,
    )


def _explained(error: msgspec.ValidationError) -> _InvalidError:
    """msgspec's text and path, in the words of the file, with what would be accepted."""
    reason, _, where = str(error).partition(" - at `$")
    path: list[str | int] = [name or int(index) for name, index in _STEP.findall(where)]
    last = next((step for step in reversed(path) if isinstance(step, str)), "")
    if reason.startswith("Invalid enum value") and last in _ACCEPTED:
        reason = f"{reason[0].lower()}{reason[1:]}, accepted are {_ACCEPTED[last]}"
    elif reason.startswith("Expected `str`, got `"):
        reason = f"{reason[0].lower()}{reason[1:]} (quote it)"
    else:
        reason = f"{reason[0].lower()}{reason[1:]}"
    unknown = re.fullmatch(r"object contains unknown field `(.*)`", reason)
    shown = where.rstrip("`").lstrip(".")
    return _InvalidError([*path, unknown[1]] if unknown else path, f"{shown}: {reason}" if shown else reason)


def _ports(written: list[WrittenPort]) -> tuple[Port, ...]:
    names: set[str] = set()
    numbers: set[int] = set()
    for i, port in enumerate(written):
        if port.name in names:
            raise _InvalidError(["ports", i], f"the port name {port.name} stands twice")
        if port.number in numbers:
            raise _InvalidError(["ports", i], f"the port number {port.number} stands twice")
        names.add(port.name)
        numbers.add(port.number)
    ports = [Port(p.name, p.number, p.protocol or protocol_of_port_name(p.name) or Protocol.TCP) for p in written]
    return tuple(sorted(ports, key=lambda p: p.number))


def _instance(
    w: WrittenInstance, index: int, ports: tuple[Port, ...], origin: str, provenance: Mapping[str, str]
) -> Instance:
    numbers = {p.name: p.number for p in ports} if w.ports is None else w.ports
    for name in numbers:
        if all(name != p.name for p in ports):
            known = ", ".join(p.name for p in ports)
            raise _InvalidError(["instances", index, "ports", name], f"the service has no port {name}, only {known}")
    address = _address(w.address, index)
    first = next((numbers[p.name] for p in ports if p.name in numbers), None)
    return Instance(
        id=w.id or (address if first is None else f"{address}:{first}"),
        origin=origin,
        address=address,
        ports=dict(sorted(numbers.items())),
        health=w.health,
        weight=w.weight,
        locality=Locality(w.locality.region, w.locality.zone, w.locality.sub_zone),
        labels=dict(sorted(w.labels.items())),
        network=w.network,
        identity=w.identity,
        tls_mode=w.tls_mode,
        provenance=dict(sorted((w.provenance or provenance).items())),
    )


def _address(address: str, index: int) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        if (address.startswith("unix:///") and "\0" not in address) or _is_host(address):
            return address
    accepted = "an IP address, a host name, or unix:///path"
    raise _InvalidError(["instances", index, "address"], f"{address!r} is not {accepted}")


def _is_host(address: str) -> bool:
    """A mistyped IP address is not a host name: the last label of those is never a number (RFC 3696 §2)."""
    return _HOST.fullmatch(address) is not None and not address.rstrip(".").rpartition(".")[2].isdigit()
