"""What Eureka's servers tell each other: `peerreplication/batch`, and the single calls that mean the same. Pure.

Source: com.netflix.eureka.cluster.protocol.ReplicationList of https://github.com/Netflix/eureka, and what a Spring Cloud server
was seen to send (README.md).
"""

from __future__ import annotations

from typing import Any

import msgspec

from isthmus.registry.eureka.answers import STATUSES, Entry, decode, parse_bare_instance

REGISTER = "Register"
HEARTBEAT = "Heartbeat"
STATUS_UPDATE = "StatusUpdate"
DELETE_STATUS_OVERRIDE = "DeleteStatusOverride"
CANCEL = "Cancel"
ACTIONS = frozenset({REGISTER, HEARTBEAT, STATUS_UPDATE, DELETE_STATUS_OVERRIDE, CANCEL})

MAX_CHANGES = 5_000
"""Changes in one batch; servers put 250 into one."""


class Change(msgspec.Struct, frozen=True):
    """One thing that happened to one instance.

    `entry` is the whole instance, for a registration. `status` is the new one, for the two kinds of change to it; empty
    otherwise. `dirty` is when the instance itself last changed, in milliseconds of its clock.
    """

    action: str
    app: str
    id: str
    dirty: int = 0
    status: str = ""
    entry: Entry | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.app, self.id

    @property
    def overrides(self) -> bool:
        """Whether `status` is an operator's word."""
        return self.action == STATUS_UPDATE


class _Change(msgspec.Struct, rename="camel"):
    action: str
    app_name: str
    id: str
    last_dirty_timestamp: int | None = None
    status: str | None = None
    instance_info: msgspec.Raw = msgspec.Raw(b"null")


class _Batch(msgspec.Struct, rename="camel"):
    replication_list: list[msgspec.Raw] | None = None


_batch = msgspec.json.Decoder(_Batch)
_change = msgspec.json.Decoder(_Change, strict=False)
_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def parse_batch(body: bytes) -> list[Change | str]:
    """A batch: each change, or why it cannot be understood.

    Raises:
        msgspec.DecodeError: the body is something else, or holds too many.

    """
    raws = decode(_batch, body).replication_list or []
    if len(raws) > MAX_CHANGES:
        raise msgspec.DecodeError(f"{len(raws)} changes in one batch; at most {MAX_CHANGES} are taken")
    return [_read(raw) for raw in raws]


def _read(raw: msgspec.Raw) -> Change | str:
    try:
        said = decode(_change, raw)
        if said.action not in ACTIONS:
            return f"unknown action {said.action[:80]!r}"
        entry = None
        if said.action == REGISTER and bytes(said.instance_info) != b"null":
            entry = parse_bare_instance(said.instance_info, said.app_name)
        dirty = said.last_dirty_timestamp or 0
        return mk_change(said.action, said.app_name, said.id, dirty, status=said.status or "", entry=entry)
    except msgspec.DecodeError as e:
        return str(e)


def mk_change(action: str, app: str, id_: str, dirty: int, *, status: str = "", entry: Entry | None = None) -> Change:
    """A change, from what a batch or the path and query of a single call say.

    Raises:
        msgspec.DecodeError: it names no instance, or another than the one it carries.

    """
    app = app.upper()
    if not app or not id_:
        raise msgspec.DecodeError("no application's name or no instance's id")
    if entry is not None and entry.record.key != (app, id_):
        raise msgspec.DecodeError(f"it is about {app}/{id_} and carries {'/'.join(entry.record.key)}")
    if action not in (STATUS_UPDATE, DELETE_STATUS_OVERRIDE):
        status = ""
    else:
        status = status.upper() if status.upper() in STATUSES else "UNKNOWN"
    return Change(action, app, id_, dirty, status, entry)
