"""How others write services into etcd: one function per layout, from a key and its value to what they say. Pure.

A layout is given the key's part after the prefix, the prefix, and the value. It returns what the key announces, nothing for a key
that announces nothing on purpose, or raises UnreadableError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec

T = TypeVar("T")


class UnreadableError(ValueError):
    """The key or its value is not what the layout says; the text is the reason."""


class Endpoint(msgspec.Struct, frozen=True, gc=False):
    """One place where an instance listens. Port 0: not said. `host` may be `unix:///path`."""

    host: str
    port: int = 0
    protocol: str = ""
    """As written, lower case; empty: not said."""


class Found(msgspec.Struct, frozen=True):
    """One instance as a key announces it. `name` tells several of one key apart; `hostname` is what its own DNS calls it."""

    service: str
    endpoints: tuple[Endpoint, ...]
    name: str = ""
    labels: Mapping[str, str] = {}
    weight: int = 1
    hostname: str = ""
    tags: tuple[str, ...] = ()


Layout = Callable[[str, str, bytes], tuple[Found, ...]]


class _Grpc(msgspec.Struct, frozen=True):
    addr: str = msgspec.field(name="Addr")
    op: int = msgspec.field(name="Op", default=0)
    metadata: object = msgspec.field(name="Metadata", default=None)


class _MicroNode(msgspec.Struct, frozen=True):
    address: str
    id: str = ""
    metadata: dict[str, str] | None = None


class _Micro(msgspec.Struct, frozen=True):
    name: str
    nodes: list[_MicroNode]
    version: str = ""
    metadata: dict[str, str] | None = None


class _Kratos(msgspec.Struct, frozen=True):
    endpoints: list[str]
    id: str
    name: str
    version: str = ""
    metadata: dict[str, str] | None = None


class _Kitex(msgspec.Struct, frozen=True):
    network: str
    address: str
    weight: int = 0
    tags: dict[str, str] | None = None


class _SkyDns(msgspec.Struct, frozen=True):
    host: str = ""
    port: int = 0
    priority: int = 0
    weight: int = 0
    text: str = ""
    group: str = ""


_grpc = msgspec.json.Decoder(_Grpc)
_micro = msgspec.json.Decoder(_Micro)
_kratos = msgspec.json.Decoder(_Kratos)
_kitex = msgspec.json.Decoder(_Kitex)
_skydns = msgspec.json.Decoder(_SkyDns)

KITEX_WEIGHT = 10
"""What Kitex takes for an instance that names no weight."""


def grpc_naming(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
    """`<target>/<anything>`: `{"Op":0,"Addr":"10.0.0.1:8080","Metadata":...}` (go.etcd.io/etcd/client/v3/naming)."""
    said = decode(_grpc, value)
    if said.op == 1:
        return ()  # the record of a removal, of the old resolver
    if said.op != 0:
        raise UnreadableError(f"Op {said.op}: expected 0 (add) or 1 (delete)")
    labels = scalars(said.metadata)
    endpoint = _with_protocol(split_address(said.addr), labels)
    return (Found(service_of(path, prefix), (endpoint,), labels=labels, weight=whole(labels.get("weight"), 1)),)


def go_micro(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
    """`/micro/registry/<service>/<node>`: the service with its nodes, mostly one per key (go-micro.dev/registry/etcd)."""
    said = decode(_micro, value)
    found: list[Found] = []
    for node in said.nodes:
        labels = (said.metadata or {}) | (node.metadata or {})
        if said.version:
            labels["version"] = said.version
        endpoint = _with_protocol(split_address(node.address), labels)
        name = node.id if len(said.nodes) > 1 else ""
        found.append(Found(said.name or service_of(path, prefix), (endpoint,), name=name, labels=labels))
    return tuple(found)


def go_kratos(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
    """`/microservices/<name>/<id>`: `endpoints` are URLs, one per protocol (kratos/contrib/registry/etcd)."""
    said = decode(_kratos, value)
    labels = dict(said.metadata or {})
    if said.version:
        labels["version"] = said.version
    if not said.endpoints:
        raise UnreadableError("endpoints is empty")
    endpoints = tuple(split_url(url) for url in said.endpoints)
    service, weight = said.name or service_of(path, prefix), whole(labels.get("weight"), 1)
    return (Found(service, endpoints, labels=labels, weight=weight),)


def plain(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
    """`<service>/<anything>`: the value is `host:port` (go-zero's zRPC)."""
    return (Found(service_of(path, prefix), (split_address(text(value)),)),)


def registrator(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
    """`<service>/<host>:<container>:<port>[:udp]`: the value is `host:port` (gliderlabs/registrator's etcd backend)."""
    return () if path.endswith(":udp") else plain(path, prefix, value)


def kitex(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
    """`kitex/registry-etcd/<service>/<address>`: `{"network","address","weight","tags"}` (kitex-contrib/registry-etcd)."""
    said = decode(_kitex, value)
    labels = said.tags or {}
    if said.network == "unix":
        endpoint = Endpoint(f"unix://{said.address}")
    elif said.network.startswith("tcp"):
        endpoint = split_address(said.address)
    else:
        raise UnreadableError(f"network {said.network!r}: expected tcp or unix")
    service = service_of(path, prefix)
    return (Found(service, (_with_protocol(endpoint, labels),), labels=labels, weight=said.weight or KITEX_WEIGHT),)


def skydns(path: str, prefix: str, value: bytes) -> tuple[Found, ...]:
    """`/skydns/<domain, reversed>/<service>/<anything>`: `{"host","port","weight",...}` (CoreDNS' etcd plugin).

    What stands right below the prefix is a service by itself, since DNS answers to it as well.
    """
    said = decode(_skydns, value)
    if not said.host:
        if said.text:
            return ()  # a TXT record
        raise UnreadableError("host is empty")
    below, above = segments(path), segments(prefix)
    if not below:
        raise UnreadableError("the key names no service")
    name = below[:-1] or below
    domain = [s for s in above if s != "skydns"] + name
    labels = {k: v for k, v in (("group", said.group), ("priority", str(said.priority or ""))) if v}
    endpoint = _with_port(Endpoint(said.host.strip("[]")), said.port)
    service, hostname = ".".join(reversed(name)), ".".join(reversed(domain))
    return (Found(service, (endpoint,), labels=labels, weight=said.weight or 1, hostname=hostname.lower()),)


LAYOUTS: Mapping[str, Layout] = {
    "grpc": grpc_naming,
    "go-micro": go_micro,
    "go-kratos": go_kratos,
    "kitex": kitex,
    "skydns": skydns,
    "go-zero": plain,
    "registrator": registrator,
}


# What layouts share.


def decode(decoder: msgspec.json.Decoder[T], value: bytes) -> T:
    """JSON of a known shape.

    Raises:
        UnreadableError: it is something else.

    """
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise UnreadableError(f"the value is not what the layout says: {e}") from e


def text(value: bytes) -> str:
    """The value as text, without white space around it."""
    try:
        return value.decode().strip()
    except UnicodeDecodeError as e:
        raise UnreadableError("the value is neither text nor JSON") from e


def segments(path: str) -> list[str]:
    return [s for s in path.split("/") if s]


def service_of(path: str, prefix: str) -> str:
    """All of the path but its last segment; the end of the prefix, when the path is nothing else."""
    below = segments(path)
    above = segments(prefix)
    if len(below) > 1:
        return "/".join(below[:-1])
    if below and above:
        return above[-1]
    raise UnreadableError("the key names no service: expected <service>/<instance> after the prefix")


def split_address(address: str) -> Endpoint:
    """`10.0.0.1:80`, `[::1]:80`, `host:80` or `unix:///path`."""
    if address.startswith("unix:"):
        return Endpoint("unix://" + address.removeprefix("unix:").removeprefix("//"))
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    number = _digits(port)
    if not colon or not host or number is None:
        raise UnreadableError(f"address {clip(address)!r}: expected host:port")
    return _with_port(Endpoint(host), number)


def split_url(url: str) -> Endpoint:
    """`grpc://10.0.0.1:9000?isSecure=false`. A secure endpoint speaks TLS, whatever is inside."""
    try:
        parts = urlsplit(url)
        port, secure = parts.port, parse_qs(parts.query, max_num_fields=20).get("isSecure", ["false"])[-1].lower()
    except ValueError as e:
        raise UnreadableError(f"endpoint {clip(url)!r}: {e}") from e
    if not parts.scheme or not parts.hostname or not port:
        raise UnreadableError(f"endpoint {clip(url)!r}: expected scheme://host:port")
    protocol = parts.scheme.lower()
    if secure == "true":
        protocol = "https" if protocol in ("http", "https") else "tls"
    return Endpoint(parts.hostname, port, protocol)


def scalars(value: object) -> dict[str, str]:
    """The entries of a JSON object that are text, numbers or truth values, as text."""
    if not isinstance(value, dict):
        return {}
    out: dict[str, str] = {}
    for key, entry in value.items():
        if isinstance(entry, bool):
            out[str(key)] = str(entry).lower()
        elif isinstance(entry, str | int | float):
            out[str(key)] = str(entry)
    return out


def whole(said: str | None, default: int) -> int:
    """A whole number from text; the default where there is none."""
    number = _digits(said) if said else None
    return default if number is None else number


def clip(said: str) -> str:
    """At most 100 characters of it, for an error text."""
    return said if len(said) <= 100 else said[:100] + "…"


def _digits(said: str) -> int | None:
    return int(said) if said.isascii() and said.isdigit() and len(said) <= 9 else None


def _with_port(endpoint: Endpoint, port: int) -> Endpoint:
    if not 0 <= port <= 65535:
        raise UnreadableError(f"port {port}: expected 1 to 65535")
    return msgspec.structs.replace(endpoint, port=port)


def _with_protocol(endpoint: Endpoint, labels: Mapping[str, str]) -> Endpoint:
    protocol = labels.get("protocol", "").lower()
    return msgspec.structs.replace(endpoint, protocol=protocol) if protocol else endpoint
