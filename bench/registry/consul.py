"""A Consul that serves as many services as one likes: answers, indexes, and what wakes which query, as measured on the real one.

A check that turns wakes `health/state/any` and its service; another address or weight wakes `catalog/services` and its service,
and moves the index of its node.
What it costs Consul to answer is not imitated.
"""

from __future__ import annotations

import msgspec

from bench.registry.blocking import Blocked
from bench.registry.population import NODES, PORT, Fleet, State
from bench.registry.web import Request

FIRST_INDEX = 1000
NODES_INDEX = 10
"""When the nodes were registered, which do not change."""


class ScriptedConsul:
    """One agent of a server. `put` changes an instance, `handle` answers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._index = FIRST_INDEX
        self._list = Blocked(self._index, self._answer_list)
        self._checks = Blocked(self._index, self._answer_checks)
        self._nodes = Blocked(NODES_INDEX, self._answer_nodes)
        self._services: dict[str, Blocked] = {}
        self._numbers = {State(n, 0).name: n for n in range(fleet.size)}
        self._names = msgspec.json.encode({"consul": []} | {name: ["v1"] for name in self._numbers})
        self._check_of: dict[tuple[int, int], bytes] = {}
        self._modified: dict[tuple[int, int], int] = {}
        self._failing: dict[tuple[int, int], bytes] = {}
        self._registered: dict[tuple[int, int], int] = {}
        self._node_indexes: dict[str, int] = {}
        self._on_node: dict[str, list[tuple[int, int]]] = {}
        for state in fleet.states():
            self._on_node.setdefault(state.node, []).append((state.service, state.instance))

    def put(self, state: State) -> None:
        """An instance is so from now on: one write."""
        before = self._fleet.put(state)
        self._index += 1
        at = (state.service, state.instance)
        if state.healthy != before.healthy:
            self._modified[at] = self._index
            self._check_of.pop(at, None)
            self._failing.pop(at, None)
            if not state.healthy:
                self._failing[at] = msgspec.json.encode(self._check(state))
            self._checks.move(self._index)
        if (state.weight, state.place) != (before.weight, before.place):
            self._list.move(self._index)
            self._registered[at] = self._node_indexes[state.node] = self._index
        self._service(state.name).move(self._index)

    def handle(self, request: Request) -> None:
        match request.path.split("/")[2:]:
            case ["catalog", "services"]:
                self._list.ask(request)
            case ["catalog", "nodes"]:
                self._nodes.ask(request)
            case ["catalog", "node-services", node]:
                self._answer_node(request, node)
            case ["agent", "self"]:
                request.answer(msgspec.json.encode({"Config": {"Datacenter": "dc1", "NodeName": "agent"}}))
            case ["health", "state", "any"]:
                self._checks.ask(request)
            case ["health", "service", name]:
                self._service(name).ask(request)
            case _:
                request.answer(b"", status=404)

    def _service(self, name: str) -> Blocked:
        if name not in self._services:

            def answer(request: Request) -> None:
                # With a tag that none has, the adapter asks for the index alone.
                known = name in self._numbers and "tag" not in request.query
                states = self._fleet.of(self._numbers[name]) if known else []
                body = msgspec.json.encode([self._entry(state) for state in states])
                request.answer(body, self._headers(self._services[name].index))

            self._services[name] = Blocked(FIRST_INDEX, answer)
        return self._services[name]

    def _answer_list(self, request: Request) -> None:
        request.answer(self._names, self._headers(self._list.index))

    def _answer_nodes(self, request: Request) -> None:
        nodes = [_node(f"node-{n}") for n in range(NODES)]
        request.answer(msgspec.json.encode(nodes), self._headers(NODES_INDEX))

    def _answer_node(self, request: Request, node: str) -> None:
        # With an id that none has, the adapter asks for the index alone.
        on_it = [] if "filter" in request.query else self._on_node[node]
        services = [self._service_of(self._fleet.state(*at)) for at in on_it]
        index = self._node_indexes.get(node, FIRST_INDEX)
        request.answer(msgspec.json.encode({"Node": _node(node), "Services": services}), self._headers(index))

    def _answer_checks(self, request: Request) -> None:
        if request.query.get("filter") == 'Status != "passing"':
            checks = list(self._failing.values())
        else:
            checks = [self._check_text(state) for state in self._fleet.states()]
            checks += [msgspec.json.encode(_alive(f"node-{n}")) for n in range(NODES)]
        request.answer(b"[" + b",".join(checks) + b"]", self._headers(self._checks.index))

    def _check_text(self, state: State) -> bytes:
        at = (state.service, state.instance)
        if at not in self._check_of:
            self._check_of[at] = msgspec.json.encode(self._check(state))
        return self._check_of[at]

    def _check(self, state: State) -> dict[str, object]:
        status = "passing" if state.healthy else "critical"
        index = self._modified.get((state.service, state.instance), FIRST_INDEX)
        return _check(state.node, f"service:{state.id}", status, index) | {
            "ServiceID": state.id,
            "ServiceName": state.name,
            "ServiceTags": ["v1"],
            "Output": "HTTP GET /health: 200 OK",
            "Type": "http",
        }

    def _entry(self, state: State) -> dict[str, object]:
        return {
            "Node": _node(state.node),
            "Service": self._service_of(state),
            "Checks": [_alive(state.node), self._check(state)],
        }

    def _service_of(self, state: State) -> dict[str, object]:
        return {
            "ID": state.id,
            "Service": state.name,
            "Tags": ["v1"],
            "Address": state.address,
            "TaggedAddresses": {"lan_ipv4": {"Address": state.address, "Port": PORT}},
            "Meta": {"version": "v1", "team": "bench"},
            "Port": PORT,
            "Weights": {"Passing": state.weight, "Warning": 1},
            "EnableTagOverride": False,
            "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
            "Connect": {},
            "PeerName": "",
            "CreateIndex": FIRST_INDEX,
            "ModifyIndex": self._registered.get((state.service, state.instance), FIRST_INDEX),
        }

    def _headers(self, index: int) -> dict[str, str]:
        return {
            "X-Consul-Index": str(index),
            "X-Consul-KnownLeader": "true",
            "X-Consul-LastContact": "0",
            "X-Consul-Effective-Consistency": "stale",
            "X-Consul-Default-Acl-Policy": "allow",
        }


def _node(name: str) -> dict[str, object]:
    return {
        "ID": f"00000000-0000-0000-0000-{int(name.removeprefix('node-')):012}",
        "Node": name,
        "Address": "10.0.0.1",
        "Datacenter": "dc1",
        "TaggedAddresses": {"lan": "10.0.0.1", "lan_ipv4": "10.0.0.1", "wan": "10.0.0.1", "wan_ipv4": "10.0.0.1"},
        "Meta": {"consul-network-segment": "", "consul-version": "1.21.0"},
        "CreateIndex": NODES_INDEX,
        "ModifyIndex": NODES_INDEX,
    }


def _alive(node: str) -> dict[str, object]:
    return _check(node, "serfHealth", "passing", NODES_INDEX) | {
        "Output": "Agent alive and reachable",
        "Name": "Serf Health Status",
    }


def _check(node: str, id_: str, status: str, index: int) -> dict[str, object]:
    return {
        "Node": node,
        "CheckID": id_,
        "Name": "alive",
        "Status": status,
        "Notes": "",
        "Output": "",
        "ServiceID": "",
        "ServiceName": "",
        "ServiceTags": [],
        "Type": "",
        "Interval": "10s",
        "Timeout": "1s",
        "ExposedPort": 0,
        "Definition": {},
        "CreateIndex": FIRST_INDEX,
        "ModifyIndex": index,
    }
