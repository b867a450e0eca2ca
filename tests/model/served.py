"""What a model run serves: small resources that refer to each other, published as real generations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from isthmus.xds.resource import Resource, ResourceSnapshot, TypeUrl
from isthmus.xds.store import EMPTY, publish

CDS, EDS, LDS, RDS = TypeUrl.CLUSTER, TypeUrl.ENDPOINT, TypeUrl.LISTENER, TypeUrl.ROUTE
ORDER = (CDS, EDS, LDS, RDS)


def mk_resource(type_url: TypeUrl, name: str, content: object = 0, uses: Iterable[str] = ()) -> Resource:
    """A resource whose body is its content and the names that it refers to: `1|a,b`."""
    return Resource.of_bytes(type_url, name, f"{content}|{','.join(sorted(uses))}".encode())


def uses(resource: Resource) -> frozenset[str]:
    """The names that a resource refers to."""
    names = resource.body.decode().partition("|")[2]
    return frozenset(names.split(",")) if names else frozenset()


class World:
    """Resources by type and name, and the snapshot of their present generation."""

    def __init__(self) -> None:
        self.resources: dict[TypeUrl, dict[str, Resource]] = {t: {} for t in ORDER}
        self.snapshot = publish(EMPTY, {})

    def put(self, type_url: TypeUrl, name: str, content: object = 0) -> None:
        self.resources[type_url][name] = mk_resource(type_url, name, content)

    def remove(self, type_url: TypeUrl, name: str) -> None:
        self.resources[type_url].pop(name, None)

    def replace(self, resources: Mapping[TypeUrl, Mapping[str, Resource]]) -> None:
        self.resources = {t: dict(resources.get(t, {})) for t in ORDER}

    def publish(self) -> ResourceSnapshot:
        """The next generation, or the same when nothing differs."""
        self.snapshot = publish(self.snapshot, {t: dict(r) for t, r in self.resources.items()})
        return self.snapshot

    def restart(self) -> ResourceSnapshot:
        """The server begins again: generations count from the start, contents are the same."""
        self.snapshot = publish(EMPTY, {t: dict(r) for t, r in self.resources.items()})
        return self.snapshot

    def forget_log(self) -> None:
        """Generations so far can no longer be told apart by the log."""
        self.snapshot = msgspec.structs.replace(self.snapshot, log=())


class Backend(msgspec.Struct, frozen=True):
    """What one service of the mesh below is made of."""

    cluster: int = 0
    endpoints: int = 0
    kind: Literal["http-0", "http-1", "tcp"] = "http-0"


def mesh(backends: Mapping[str, Backend]) -> dict[TypeUrl, dict[str, Resource]]:
    """Consistent resources as translation makes them: each route or listener refers to clusters and routes that exist."""
    out: dict[TypeUrl, dict[str, Resource]] = {t: {} for t in ORDER}
    for name, backend in backends.items():
        out[CDS][name] = mk_resource(CDS, name, backend.cluster)
        out[EDS][name] = mk_resource(EDS, name, backend.endpoints)
        if backend.kind == "tcp":
            out[LDS][f"tcp-{name}"] = mk_resource(LDS, f"tcp-{name}", "cluster", [name])
    for kind in ("http-0", "http-1"):
        if members := [n for n, b in backends.items() if b.kind == kind]:
            out[LDS][kind] = mk_resource(LDS, kind, "route", [kind])
            out[RDS][kind] = mk_resource(RDS, kind, 0, members)
    return out
