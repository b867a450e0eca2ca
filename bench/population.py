"""The services of a benchmark: what Consul is told of them, and one change after another.

Each service has `INSTANCES` instances with weight 1 that stay, and an extra one with more weight, which goes through a cycle of
six changes. Every instance has one passing check, and an address of its own in 127.0.0.0/8.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from isthmus.registry.model import ServiceKey
from isthmus.xds import names

INSTANCES = 10
NODES = 100
PORT = 80
"""The logical port."""

CYCLE = ("register", "weigh", "fail", "recover", "move", "leave")
"""Changes of the extra instance, in turn. After `register`, `recover` and `move` there is a new endpoint that gets requests."""

_EXTRA, _MOVED = INSTANCES, INSTANCES + 1
_HEAVY, _LIGHTER = 100, 90


class Change(msgspec.Struct, frozen=True):
    """One write to Consul, and how to tell that it has arrived.

    `shows` is whether a load assignment of `cluster` holds it; `answers` is the address that begins to answer requests for
    `host` because of it, or empty. An instance that leaves is draining first, and gone after a grace: that is what `gone` tells.
    """

    kind: str
    path: str
    body: bytes
    cluster: str
    host: str
    shows: Callable[[ClusterLoadAssignment], bool]
    answers: str = ""
    gone: Callable[[ClusterLoadAssignment], bool] | None = None


class Population:
    """Services 0 to `size` - 1. `port` is where the instances listen."""

    def __init__(self, size: int, port: int) -> None:
        self.size = size
        self._port = port
        self._steps = [0] * size
        self._generation: dict[tuple[int, int], int] = {}

    def operations(self, first: int = 0) -> Iterator[dict[str, Any]]:
        """What makes up the services from `first` on, for `/v1/txn`."""
        for node in range(NODES):
            yield {"Node": {"Verb": "set", "Node": {"Node": f"node-{node}", "Address": "127.0.0.1"}}}
        for service in range(first, self.size):
            for instance in range(INSTANCES):
                entry = self._entry(service, _id(service, instance), instance, 1)
                yield {"Service": {"Verb": "set", "Node": entry["Node"], "Service": entry["Service"]}}
                yield {"Check": {"Verb": "set", "Check": entry["Check"]}}

    def addresses(self, service: int) -> list[str]:
        """Where the instances of a service may be, the extra one included."""
        return [_address(service, slot) for slot in range(_MOVED + 1)]

    def advance(self, service: int) -> Change:
        """The next change of the service's extra instance."""
        kind = CYCLE[self._steps[service] % len(CYCLE)]
        self._steps[service] += 1
        id_ = _id(service, _EXTRA)
        match kind:
            case "register":
                return self._placed(kind, service, id_, _EXTRA, _HEAVY)
            case "weigh":
                at = _address(service, _EXTRA)
                body = self._entry(service, id_, _EXTRA, _LIGHTER)
                return self._put(
                    kind, service, body, lambda a: _at(a, at, lambda e: e.load_balancing_weight.value == _LIGHTER)
                )
            case "fail":
                return self._checked(kind, service, id_, "critical", HealthStatus.UNHEALTHY)
            case "recover":
                return self._checked(kind, service, id_, "passing", HealthStatus.HEALTHY)
            case "move":
                return self._placed(kind, service, id_, _MOVED, _LIGHTER)
            case _:
                return self._gone(service, id_, _address(service, _MOVED), _address(service, _EXTRA))

    def replace(self, service: int, instance: int) -> tuple[Change, Change]:
        """A new instance in the place of one of those that stay, and the end of the old one, as a deployment does it."""
        old = self._generation.get((service, instance), 0)
        self._generation[service, instance] = old + 1
        slots = [instance + 20 * (generation % 10) for generation in (old, old + 1)]
        ids = [_id(service, instance) + (f"-g{generation}" if generation else "") for generation in (old, old + 1)]
        return self._placed("register", service, ids[1], slots[1], 1), self._gone(
            service, ids[0], _address(service, slots[0])
        )

    def _placed(self, kind: str, service: int, id_: str, slot: int, weight: int) -> Change:
        at = _address(service, slot)
        return self._put(kind, service, self._entry(service, id_, slot, weight), lambda a: _at(a, at), at)

    def _checked(self, kind: str, service: int, id_: str, status: str, health: int) -> Change:
        at = _address(service, _EXTRA)
        entry = self._entry(service, id_, _EXTRA, _LIGHTER, status)
        del entry["Service"]
        shows: Callable[[ClusterLoadAssignment], bool] = lambda a: _at(a, at, lambda e: e.health_status == health)  # noqa: E731
        return self._put(kind, service, entry, shows, at if status == "passing" else "")

    def _gone(self, service: int, id_: str, address: str, back_at: str = "") -> Change:
        """The end of an instance, which may come back at another address before it is gone."""
        body = {"Node": _node(service, id_), "ServiceID": id_}
        leaving = self._put(
            "leave", service, body, lambda a: not _at(a, address, lambda e: e.health_status != HealthStatus.DRAINING)
        )
        return msgspec.structs.replace(leaving, gone=lambda a: not _at(a, address) and not _at(a, back_at))

    def _put(
        self,
        kind: str,
        service: int,
        body: dict[str, Any],
        shows: Callable[[ClusterLoadAssignment], bool],
        answers: str = "",
    ) -> Change:
        host = names.hostname(ServiceKey("default", _name(service)), "mesh")
        path = "/v1/catalog/deregister" if kind == "leave" else "/v1/catalog/register"
        return Change(kind, path, json.dumps(body).encode(), names.outbound(PORT, host), host, shows, answers)

    def _entry(self, service: int, id_: str, slot: int, weight: int, status: str = "passing") -> dict[str, Any]:
        node = _node(service, id_)
        return {
            "Node": node,
            "Address": "127.0.0.1",
            "SkipNodeUpdate": True,
            "Service": {
                "ID": id_,
                "Service": _name(service),
                "Address": _address(service, slot),
                "Port": self._port,
                "Tags": ["v1"],
                "Meta": {"port": str(PORT), "version": "v1"},
                "Weights": {"Passing": weight, "Warning": 1},
            },
            "Check": {
                "Node": node,
                "CheckID": f"service:{id_}",
                "Name": "alive",
                "Status": status,
                "ServiceID": id_,
                "ServiceName": _name(service),
            },
        }


def _name(service: int) -> str:
    return f"bench-{service:04}"


def _id(service: int, instance: int) -> str:
    return f"{_name(service)}-{instance}"


def _node(service: int, id_: str) -> str:
    return f"node-{(service * 7 + sum(id_.encode())) % NODES}"


def _address(service: int, slot: int) -> str:
    return f"127.{10 + service // 200}.{service % 200 + 1}.{slot + 1}"


def _at(assignment: ClusterLoadAssignment, address: str, has: Callable[[LbEndpoint], bool] = lambda _: True) -> bool:
    return any(
        e.endpoint.address.socket_address.address == address and has(e)
        for locality in assignment.endpoints
        for e in locality.lb_endpoints
    )
