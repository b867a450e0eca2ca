"""Eureka's JSON as values: what is read of each answer. Pure.

The servers write it with two codecs, and there are other servers beside Netflix's: one object may stand for a list of one,
numbers and booleans may be strings, `overriddenstatus` has two spellings. All of them are read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from isthmus.registry.reuse import once, once_mapping

T = TypeVar("T")

STATUSES = frozenset({"UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN"})


class Lease(msgspec.Struct, frozen=True, gc=False):
    """How an instance proves that it lives: every `interval` seconds, and it is given up some time after `duration` seconds.

    `registered` and `renewed` are milliseconds of the server's clock, 0 where it does not say. A server adds `duration` to
    `renewed` with each renewal, but not with the registration, so that it is good for comparisons only.
    """

    interval: int = 30
    duration: int = 90
    registered: int = 0
    renewed: int = 0


class Record(msgspec.Struct, frozen=True, gc=False):
    """One registered instance, without what every renewal changes.

    `status` is the outcome of all that the server knows, `overridden` what an operator asked for. A port is 0 where it is
    disabled. `updated` and `dirty` are milliseconds: of the server's clock when this came about, and of the instance's own.
    """

    app: str
    id: str
    status: str
    overridden: str = "UNKNOWN"
    host: str = ""
    ip: str = ""
    port: int = 0
    secure_port: int = 0
    vips: tuple[str, ...] = ()
    secure_vips: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    zone: str = ""
    updated: int = 0
    dirty: int = 0

    @property
    def key(self) -> tuple[str, str]:
        return self.app, self.id


class Entry(msgspec.Struct, frozen=True):
    """A record as one answer has it. `action` is ADDED, MODIFIED or DELETED in a delta."""

    record: Record
    lease: Lease
    action: str = ""


class Application(msgspec.Struct, frozen=True):
    """One application: the instances that can be read, and the others as (where, reason)."""

    name: str
    entries: tuple[Entry, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()


class Listing(msgspec.Struct, frozen=True):
    """The answer of `apps` or `apps/delta`, its applications not read yet (`parse_application`).

    `hashcode` says how many instances have which status, `UP_3_`, whatever part of them is listed. `version` counts the deltas
    that this server process has made.
    """

    hashcode: str
    version: int
    applications: tuple[msgspec.Raw, ...]


class _Port(msgspec.Struct):
    number: int = msgspec.field(name="$", default=0)
    enabled: bool = msgspec.field(name="@enabled", default=True)


class _DataCenter(msgspec.Struct):
    name: str | None = None
    metadata: Any = None


class _Lease(msgspec.Struct):
    interval: int | None = msgspec.field(name="renewalIntervalInSecs", default=None)
    duration: int | None = msgspec.field(name="durationInSecs", default=None)
    registered: int | None = msgspec.field(name="registrationTimestamp", default=None)
    renewed: int | None = msgspec.field(name="lastRenewalTimestamp", default=None)
    renewed_formerly: int | None = msgspec.field(name="renewalTimestamp", default=None)


class _Instance(msgspec.Struct, rename="camel"):
    instance_id: str | None = None
    app: str | None = None
    host_name: str | None = None
    ip_addr: str | None = None
    status: str | None = None
    overridden_status: str | None = None
    overridden_formerly: str | None = msgspec.field(name="overriddenstatus", default=None)
    port: _Port | int | str | None = None
    secure_port: _Port | int | str | None = None
    vip_address: str | None = None
    secure_vip_address: str | None = None
    metadata: Any = None
    data_center_info: _DataCenter | None = None
    lease_info: _Lease | None = None
    last_updated_timestamp: int | None = None
    last_dirty_timestamp: int | None = None
    action_type: str | None = None


class _Application(msgspec.Struct):
    name: str | None = None
    instance: msgspec.Raw = msgspec.Raw(b"[]")


class _Applications(msgspec.Struct):
    version: int | str | None = msgspec.field(name="versions__delta", default=None)
    hashcode: str | None = msgspec.field(name="apps__hashcode", default=None)
    application: msgspec.Raw = msgspec.Raw(b"[]")


class _Top(msgspec.Struct):
    applications: _Applications


class _One(msgspec.Struct):
    instance: msgspec.Raw


_top = msgspec.json.Decoder(_Top)
_application = msgspec.json.Decoder(_Application)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_instances = msgspec.json.Decoder(list[_Instance], strict=False)
_instance = msgspec.json.Decoder(_Instance, strict=False)
_one = msgspec.json.Decoder(_One)
_any = msgspec.json.Decoder(object)


def decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """Decode with every failure as DecodeError.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    try:
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as e:  # msgspec lets these two through
        raise msgspec.DecodeError(f"JSON is malformed: {e}") from e


def parse_listing(body: bytes) -> Listing:
    """`apps` or `apps/delta`.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    top = decode(_top, body).applications
    version = str(top.version or 0)
    return Listing(
        hashcode=top.hashcode or "",
        version=int(version) if version.isascii() and version.isdigit() and len(version) < 20 else 0,
        applications=tuple(_listed(top.application)),
    )


def parse_application(raw: msgspec.Raw) -> Application:
    """One application of a listing. An instance that cannot be read does not spoil the others."""
    try:
        application = decode(_application, raw)
        name = (application.name or "").upper()
        if not _is_list(application.instance):
            raws = _listed(application.instance)
            return _application_of(name, raws)
    except msgspec.DecodeError as e:
        return Application("", (), (("an application without a readable name", f"not what Eureka documents: {e}"),))
    try:
        return Application(name, tuple(_entry(name, i) for i in decode(_instances, application.instance)))
    except (msgspec.DecodeError, ValueError):
        pass  # one by one, then
    try:
        return _application_of(name, decode(_raws, application.instance))
    except msgspec.DecodeError as e:
        return Application(name, (), ((f"application {name}", f"not what Eureka documents: {e}"),))


def parse_instance(body: bytes | msgspec.Raw, app: str = "") -> Entry:
    """`apps/{APP}/{id}`, or the same object as servers post it to each other.

    Raises:
        msgspec.DecodeError: the body is something else.

    """
    return parse_bare_instance(decode(_one, body).instance, app)


def parse_bare_instance(raw: bytes | msgspec.Raw, app: str = "") -> Entry:
    """An instance without the object around it. `app` is the application's name where the instance does not say it.

    Raises:
        msgspec.DecodeError: it is something else.

    """
    try:
        return _entry(app.upper(), decode(_instance, raw))
    except msgspec.DecodeError:
        raise
    except ValueError as e:
        raise msgspec.DecodeError(str(e)) from None


def _listed(raw: msgspec.Raw) -> list[msgspec.Raw]:
    """Old codecs, and proxies, write a list of one as that one, and an empty list as null."""
    if _is_list(raw):
        return decode(_raws, raw)
    return [] if bytes(raw).strip() == b"null" else [raw]


def _is_list(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b"["


def _application_of(name: str, raws: list[msgspec.Raw]) -> Application:
    good: list[Entry] = []
    bad: list[tuple[str, str]] = []
    for raw in raws:
        try:
            good.append(parse_bare_instance(raw, name))
        except msgspec.DecodeError as e:
            bad.append((_name_of(name, raw), f"not what Eureka documents: {e}"))
    return Application(name, tuple(good), tuple(bad))


def _name_of(app: str, raw: msgspec.Raw) -> str:
    """The best name for an instance that has not the right shape."""
    try:
        entry = decode(_any, raw)
    except msgspec.DecodeError:
        entry = None
    said = entry if isinstance(entry, dict) else {}
    id_ = next((said[k] for k in ("instanceId", "hostName") if isinstance(said.get(k), str) and said[k]), "?")
    return f"application {app or '?'}, instance {id_}"


def _entry(app: str, i: _Instance) -> Entry:
    metadata = _metadata(i.metadata)
    datacenter = _metadata(i.data_center_info.metadata) if i.data_center_info else {}
    port, secure_port = _port(i.port, True), _port(i.secure_port, False)
    host, ip = (i.host_name or "").strip(), (i.ip_addr or "").strip()
    vips, secure_vips = _names(i.vip_address), _names(i.secure_vip_address)
    app = sys.intern((app or i.app or "").upper())
    id_ = i.instance_id or metadata.get("instanceId") or datacenter.get("instance-id")
    if not id_:
        if not host:
            raise ValueError("neither an instance id nor a host name")
        id_ = f"{host}:{port or secure_port}"
    if not app:
        raise ValueError("no application's name")
    status = (i.status or "UNKNOWN").upper()
    overridden = (i.overridden_status or i.overridden_formerly or "UNKNOWN").upper()
    lease = i.lease_info or _Lease()
    return Entry(
        Record(
            app=app,
            id=id_,
            status=sys.intern(status) if status in STATUSES else "UNKNOWN",
            overridden=sys.intern(overridden) if overridden in STATUSES else "UNKNOWN",
            host=ip if host == ip else host,  # what is the same is kept once
            ip=ip,
            port=port,
            secure_port=secure_port,
            vips=vips,
            secure_vips=vips if secure_vips == vips else secure_vips,
            metadata=metadata,
            zone=metadata.get("zone") or datacenter.get("availability-zone", ""),
            updated=i.last_updated_timestamp or 0,
            dirty=i.last_dirty_timestamp or 0,
        ),
        Lease(
            interval=_positive(lease.interval, 30),
            duration=_positive(lease.duration, 90),
            registered=lease.registered or 0,
            renewed=lease.renewed or lease.renewed_formerly or 0,
        ),
        (i.action_type or "").upper(),
    )


def _positive(seconds: int | None, default: int) -> int:
    return seconds if seconds and 0 < seconds <= 86400 else default


def _port(port: _Port | int | str | None, enabled: bool) -> int:
    """The number of an enabled port; a number alone is enabled unless it is the secure one."""
    if isinstance(port, _Port):
        return port.number if port.enabled else 0
    text = str(port or 0)
    return int(text) if enabled and text.isascii() and text.isdigit() and len(text) <= 5 else 0


def _names(comma_separated: str | None) -> tuple[str, ...]:
    return once(tuple(name for name in (part.strip() for part in (comma_separated or "").split(",")) if name))


def _metadata(said: Any) -> Mapping[str, str]:
    """Texts by name, sorted; `@class` is the codec's, and a map that is empty may be a text.

    Most are the same for thousands of instances, and kept once.
    """
    if not isinstance(said, dict):
        return {}
    texts = {k: sys.intern(_text(v)) for k, v in said.items() if k != "@class" and v is not None}
    return once_mapping(dict(sorted(texts.items())))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
