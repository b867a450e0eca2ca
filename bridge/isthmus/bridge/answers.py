"""What the HTTP side answers to operators' questions, as values that the bridge encodes and the commands decode.

Durations are in seconds. `service` is `name.namespace`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec


class RegistryState(msgspec.Struct, frozen=True):
    """One origin, as it is doing. `services` and `instances` are what it adds to the catalog."""

    name: str
    kind: str
    address: str
    """Where it is read: a URL, a path."""
    synced: bool
    """A complete listing has arrived since the bridge started."""
    cursor: str
    last_success: float | None
    """Seconds since the epoch."""
    stale_for_s: float | None
    """Since the last proof of life, None while it is current."""
    error: str
    doubt: str
    """Why what is absent from its last answer proves nothing."""
    unlisted: str
    """Why it may know services that its listings do not name."""
    reads_last_minute: int
    max_connections: int | None
    """The most that the bridge opens to it; None where no limit applies."""
    services: int
    instances: int
    quarantined: int
    held: int
    leaving: int
    removed: int
    """Instances that are left out of the catalog because doubt.remove says so."""
    feed: str
    """How it is with its pushing changes to the bridge: waiting, live, silent, refused, unavailable, closed; empty where it is
    not asked to."""
    audits: int
    drift: int
    max_reads_per_minute: int | None = None
    """Its budget; None where no limit applies."""
    read_waits: int = 0
    """How often reads began to wait for it."""


class Held(msgspec.Struct, frozen=True):
    """An instance that is served although its registry no longer lists it."""

    service: str
    instance: str
    origin: str
    address: str
    rule: str
    """What holds it: doubt, position, unlisted, guard.shrink, or `guard.services` and the name there."""
    reason: str
    held_for_s: float
    ends_in_s: float | None
    """None: for as long as the reason lasts."""


class Leaving(msgspec.Struct, frozen=True):
    """An instance that its registry has let go, and that finishes what it has."""

    service: str
    instance: str
    origin: str
    ends_in_s: float


class Released(msgspec.Struct, frozen=True):
    """Holds that were let go of: how many instances of which service."""

    service: str
    instances: int


class WorkloadState(msgspec.Struct, frozen=True):
    """A workload that is registered with the bridge."""

    id: str
    service: str
    address: str
    ports: Mapping[str, int]
    health: str
    weight: int
    labels: Mapping[str, str]
    epoch: int
    ttl: int
    bridge: str
    """The replica that watches over its heartbeats."""
    heard_s_ago: float
    """As far as the replica knows that answers: of what others hear it learns only when it has to."""
    held: bool
    """It is silent, and served all the same: too many are, or the replica that watches over it is silent."""


class Verdict(enum.Enum):
    """What became of an endpoint at one stage."""

    PASSED = "passed"
    CHANGED = "changed"
    """It goes on, but not as its registry lists it, or without getting requests."""
    DROPPED = "dropped"
    ABSENT = "absent"
    """This registry does not list it, which matters only if no other one does."""


class Stage(msgspec.Struct, frozen=True):
    """One stage, in one sentence. `where` is an origin, a resource or a proxy."""

    stage: str
    where: str
    verdict: Verdict
    text: str


class Walk(msgspec.Struct, frozen=True):
    """The whole way of one endpoint. `answer` names the first stage that dropped or changed it."""

    service: str
    endpoint: str
    serving: bool
    """Every connected proxy sends it requests, and there is one."""
    answer: str
    stages: tuple[Stage, ...]
