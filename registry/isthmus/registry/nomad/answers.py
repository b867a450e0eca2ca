"""Nomad's JSON as values: what is read of each answer and of each event. Pure.

Go writes an empty list or map as null, and what nobody reads may be anything.
"""

from __future__ import annotations

import sys
from typing import TypeVar

import msgspec

from isthmus.registry.reuse import once

T = TypeVar("T")

TERMINAL = frozenset({"complete", "failed", "lost"})
"""Client statuses of an allocation that runs no more."""


def _keep_once(value: msgspec.Struct, fields: tuple[str, ...]) -> None:
    """Texts that are the same in thousands of objects: half of what these would take in memory."""
    for field in fields:
        msgspec.structs.force_setattr(value, field, sys.intern(getattr(value, field)))


class Registration(msgspec.Struct, frozen=True, gc=False):
    """One registered instance."""

    id: str = msgspec.field(name="ID")
    service: str = msgspec.field(name="ServiceName")
    namespace: str = msgspec.field(name="Namespace", default="default")
    alloc: str = msgspec.field(name="AllocID", default="")
    node: str = msgspec.field(name="NodeID", default="")
    job: str = msgspec.field(name="JobID", default="")
    datacenter: str = msgspec.field(name="Datacenter", default="")
    tags: tuple[str, ...] | None = msgspec.field(name="Tags", default=None)
    address: str = msgspec.field(name="Address", default="")
    port: int = msgspec.field(name="Port", default=0)

    def __post_init__(self) -> None:
        _keep_once(self, ("service", "namespace", "node", "job", "datacenter"))
        msgspec.structs.force_setattr(self, "tags", once(self.tags))
        msgspec.structs.force_setattr(self, "port", once(self.port))

    @property
    def where(self) -> str:
        return f"service {self.service}, instance {self.id} in namespace {self.namespace}"


class DeploymentStatus(msgspec.Struct, rename="pascal", frozen=True, gc=False):
    """`healthy` is null until the deployment has judged; `canary` ends with the promotion."""

    healthy: bool | None = None
    canary: bool = False


class Allocation(msgspec.Struct, frozen=True, gc=False):
    """What the lists and the events have in common; only lists have the version of its job."""

    id: str = msgspec.field(name="ID")
    namespace: str = msgspec.field(name="Namespace", default="default")
    node: str = msgspec.field(name="NodeID", default="")
    node_name: str = msgspec.field(name="NodeName", default="")
    job: str = msgspec.field(name="JobID", default="")
    job_version: int | None = msgspec.field(name="JobVersion", default=None)
    group: str = msgspec.field(name="TaskGroup", default="")
    desired: str = msgspec.field(name="DesiredStatus", default="run")
    client: str = msgspec.field(name="ClientStatus", default="pending")
    deployment: DeploymentStatus | None = msgspec.field(name="DeploymentStatus", default=None)
    modify_index: int = msgspec.field(name="ModifyIndex", default=0)

    def __post_init__(self) -> None:
        _keep_once(self, ("namespace", "node", "node_name", "job", "group", "desired", "client"))
        msgspec.structs.force_setattr(self, "deployment", once(self.deployment))

    @property
    def terminal(self) -> bool:
        return self.client in TERMINAL


class DrainStrategy(msgspec.Struct, rename="pascal", frozen=True):
    ignore_system_jobs: bool = False


class Node(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID")
    name: str = msgspec.field(name="Name", default="")
    datacenter: str = msgspec.field(name="Datacenter", default="")
    status: str = msgspec.field(name="Status", default="ready")
    drain: DrainStrategy | None = msgspec.field(name="DrainStrategy", default=None)
    meta: dict[str, str] | None = msgspec.field(name="Meta", default=None)
    modify_index: int = msgspec.field(name="ModifyIndex", default=0)


class CheckSpec(msgspec.Struct, rename="pascal", frozen=True):
    name: str = ""


class ServiceSpec(msgspec.Struct, rename="pascal", frozen=True):
    name: str = ""
    provider: str = ""
    checks: list[CheckSpec] | None = None
    port_label: str = ""


class TaskSpec(msgspec.Struct, rename="pascal", frozen=True):
    services: list[ServiceSpec] | None = None


class GroupSpec(msgspec.Struct, rename="pascal", frozen=True):
    name: str = ""
    services: list[ServiceSpec] | None = None
    tasks: list[TaskSpec] | None = None


class Job(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="ID")
    namespace: str = msgspec.field(name="Namespace", default="default")
    type: str = msgspec.field(name="Type", default="service")
    version: int = msgspec.field(name="Version", default=0)
    stop: bool = msgspec.field(name="Stop", default=False)
    groups: list[GroupSpec] | None = msgspec.field(name="TaskGroups", default=None)
    modify_index: int = msgspec.field(name="ModifyIndex", default=0)


class CheckResult(msgspec.Struct, rename="pascal", frozen=True):
    """The last result of one check, as the client that runs it says: `success`, `failure` or `pending`."""

    check: str = ""
    service: str = ""
    status: str = "pending"


class ServiceName(msgspec.Struct, frozen=True, order=True, gc=False):
    """A service as the list of services names it; the same name in two namespaces is two services."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"service {self.name} in namespace {self.namespace}"


class Listing(msgspec.Struct, frozen=True):
    """The answer about one service: the registrations that can be read, and the others as (where, reason)."""

    registrations: tuple[Registration, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


class Event(msgspec.Struct, rename="pascal", frozen=True):
    """One event. `payload` is the object that changed, whole, under the name of its topic. `filter_keys` are other names that it
    goes by; a registration's are its job's and its service's.
    """

    topic: str
    type: str = ""
    key: str = ""
    namespace: str = ""
    filter_keys: list[str] | None = None
    index: int = 0
    payload: msgspec.Raw = msgspec.Raw(b"null")


class Batch(msgspec.Struct, rename="pascal", frozen=True):
    """One line of the event stream; a heartbeat has no events."""

    index: int = 0
    events: list[Event] | None = None


class _Stub(msgspec.Struct, rename="pascal", frozen=True):
    service_name: str


class _NamespaceStubs(msgspec.Struct, rename="pascal", frozen=True):
    namespace: str
    services: list[_Stub] | None = None


class _Named(msgspec.Struct, rename="pascal", frozen=True):
    name: str


class _ServicePayload(msgspec.Struct, rename="pascal", frozen=True):
    service: Registration


class _AllocationPayload(msgspec.Struct, rename="pascal", frozen=True):
    allocation: Allocation


class _NodePayload(msgspec.Struct, rename="pascal", frozen=True):
    node: Node


class _JobPayload(msgspec.Struct, rename="pascal", frozen=True):
    job: Job | None


_services = msgspec.json.Decoder(list[_NamespaceStubs] | None)
_namespaces = msgspec.json.Decoder(list[_Named] | None)
_regions = msgspec.json.Decoder(list[str] | None)
_registrations = msgspec.json.Decoder(list[Registration] | None)
_raw_list = msgspec.json.Decoder(list[msgspec.Raw] | None)
_registration = msgspec.json.Decoder(Registration)
_allocations = msgspec.json.Decoder(list[Allocation] | None)
_allocation = msgspec.json.Decoder(Allocation)
_nodes = msgspec.json.Decoder(list[Node] | None)
_node = msgspec.json.Decoder(Node)
_job = msgspec.json.Decoder(Job)
_checks = msgspec.json.Decoder(dict[str, CheckResult] | None)
_batch = msgspec.json.Decoder(Batch)
_service_payload = msgspec.json.Decoder(_ServicePayload)
_allocation_payload = msgspec.json.Decoder(_AllocationPayload)
_node_payload = msgspec.json.Decoder(_NodePayload)
_job_payload = msgspec.json.Decoder(_JobPayload)
_any = msgspec.json.Decoder(object)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as e:  # msgspec lets these two through
        raise msgspec.DecodeError(f"JSON is malformed: {e}") from e


# All of these raise msgspec.DecodeError when the body is something else.


def parse_services(body: bytes) -> frozenset[ServiceName]:
    """`/v1/services`: the services of one namespace, or of all that the token may read."""
    return frozenset(
        ServiceName(stubs.namespace, stub.service_name)
        for stubs in _decode(_services, body) or ()
        for stub in stubs.services or ()
    )


def parse_namespaces(body: bytes) -> frozenset[str]:
    """`/v1/namespaces`: those that the token may do anything in."""
    return frozenset(n.name for n in _decode(_namespaces, body) or ())


def parse_regions(body: bytes) -> tuple[str, ...]:
    """`/v1/regions`."""
    return tuple(_decode(_regions, body) or ())


def parse_listing(body: bytes) -> Listing:
    """`/v1/service/:name`. A registration that cannot be read does not spoil the others."""
    try:
        return Listing(tuple(_decode(_registrations, body) or ()))
    except msgspec.DecodeError:
        pass  # one by one, then
    good: list[Registration] = []
    bad: list[tuple[str, str]] = []
    for raw in _decode(_raw_list, body) or ():
        try:
            good.append(_decode(_registration, raw))
        except msgspec.DecodeError as e:
            bad.append((_name_of(raw), f"not what Nomad documents: {e}"))
    return Listing(tuple(good), tuple(bad))


def parse_allocations(body: bytes) -> tuple[Allocation, ...]:
    """`/v1/allocations`."""
    return tuple(_decode(_allocations, body) or ())


def parse_allocation(body: bytes) -> Allocation:
    """`/v1/allocation/:id`."""
    return _decode(_allocation, body)


def parse_nodes(body: bytes) -> tuple[Node, ...]:
    """`/v1/nodes`, which says neither the meta nor how a node drains: to be used for the indexes alone."""
    return tuple(_decode(_nodes, body) or ())


def parse_node(body: bytes) -> Node:
    """`/v1/node/:id`."""
    return _decode(_node, body)


def parse_job(body: bytes) -> Job:
    """`/v1/job/:id`."""
    return _decode(_job, body)


def parse_checks(body: bytes) -> tuple[CheckResult, ...]:
    """`/v1/client/allocation/:id/checks`, sorted."""
    return tuple(sorted((_decode(_checks, body) or {}).values(), key=lambda c: (c.service, c.check, c.status)))


def parse_batch(line: bytes) -> Batch:
    """One line of `/v1/event/stream`."""
    return _decode(_batch, line)


def parse_service_payload(event: Event) -> Registration:
    """What was registered or deregistered."""
    return _decode(_service_payload, event.payload).service


def parse_allocation_payload(event: Event) -> Allocation:
    """The allocation as the event has left it."""
    return _decode(_allocation_payload, event.payload).allocation


def parse_node_payload(event: Event) -> Node:
    """The node as the event has left it."""
    return _decode(_node_payload, event.payload).node


def parse_job_payload(event: Event) -> Job | None:
    """The job as the event has left it, None where it was purged."""
    return _decode(_job_payload, event.payload).job


def _name_of(raw: msgspec.Raw) -> str:
    """The best name for a registration that has not the right shape."""
    entry: object
    try:
        entry = _decode(_any, raw)
    except msgspec.DecodeError:
        entry = None

    def text(key: str) -> str:
        at = entry.get(key) if isinstance(entry, dict) else None
        return at if isinstance(at, str) and at else "?"

    return f"service {text('ServiceName')}, instance {text('ID')} in namespace {text('Namespace')}"
