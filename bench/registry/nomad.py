"""A Nomad that serves as many services as one likes: lists, blocking queries, and for each change an event with the object.

Each instance is an allocation of its service's job, without Nomad checks. A change of health is a verdict of the deployment:
without checks nothing else tells that an allocation that runs is not well.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

import msgspec

from bench.registry.blocking import Blocked
from bench.registry.population import NODES, PORT, Fleet, State
from bench.registry.web import Request

FIRST_INDEX = 1000
HEARTBEAT = 30.0


class ScriptedNomad:
    """One agent of a server. `put` changes an instance, `handle` answers."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._index = FIRST_INDEX
        self._services = Blocked(FIRST_INDEX, self._answer_services)
        self._allocations = Blocked(FIRST_INDEX, self._answer_allocations)
        self._namespaces = Blocked(FIRST_INDEX, self._answer_namespaces)
        self._numbers = {State(n, 0).name: n for n in range(fleet.size)}
        stubs = [{"ServiceName": name, "Tags": ["v1"]} for name in self._numbers]
        self._names = msgspec.json.encode([{"Namespace": "default", "Services": stubs}])
        self._modified: dict[tuple[str, int, int], int] = {}
        self._streams: list[Request] = []
        asyncio.get_running_loop().call_later(HEARTBEAT, self._beat)

    def put(self, state: State) -> None:
        """An instance is so from now on: one write, one event for each object that it changes."""
        before = self._fleet.put(state)
        self._index += 1
        events: list[dict[str, object]] = []
        if state.healthy != before.healthy:
            self._modified["allocation", state.service, state.instance] = self._index
            events.append(
                self._event("Allocation", "AllocationUpdated", _alloc(state), self._allocation(state, whole=True))
            )
        if (state.weight, state.place) != (before.weight, before.place):
            self._modified["service", state.service, state.instance] = self._index
            events.append(self._event("Service", "ServiceRegistration", _id(state), self._registration(state)))
            events[-1]["FilterKeys"] = [_job(state), state.name]
        line = msgspec.json.encode({"Index": self._index, "Events": events}) + b"\n"
        self._streams = [stream for stream in self._streams if not stream.gone]
        for stream in self._streams:
            stream.send(line)
        if state.healthy != before.healthy:
            self._allocations.move(self._index)
        else:
            self._services.move(self._index)

    def handle(self, request: Request) -> None:
        match request.path.split("/")[2:]:
            case ["services"]:
                self._services.ask(request)
            case ["service", name]:
                states = self._fleet.of(self._numbers[name]) if name in self._numbers else []
                self._answer(request, [self._registration(s) for s in states], self._services.index)
            case ["allocations"]:
                self._allocations.ask(request)
            case ["namespaces"]:
                self._namespaces.ask(request)
            case ["regions"]:
                request.answer(b'["global"]')
            case ["node", id_]:
                self._answer(request, _node(id_), FIRST_INDEX)
            case ["job", id_]:
                self._answer(request, _specification(id_), FIRST_INDEX)
            case ["event", "stream"]:
                request.begin()
                request.send(b"{}\n")
                self._streams.append(request)
            case _:
                request.answer(b"not found", status=404)

    def _beat(self) -> None:
        for stream in self._streams:
            stream.send(b"{}\n")
        asyncio.get_running_loop().call_later(HEARTBEAT, self._beat)

    def _answer_namespaces(self, request: Request) -> None:
        self._answer(request, [{"Name": "default"}], FIRST_INDEX)

    def _answer_services(self, request: Request) -> None:
        request.answer(self._names, _headers(self._services.index))

    def _answer_allocations(self, request: Request) -> None:
        stubs = [msgspec.json.encode(self._allocation(s, whole=False)) for s in self._fleet.states()]
        request.answer(b"[" + b",".join(stubs) + b"]", _headers(self._allocations.index))

    def _answer(self, request: Request, value: object, index: int) -> None:
        request.answer(msgspec.json.encode(value), _headers(index))

    def _event(self, topic: str, type_: str, key: str, payload: dict[str, object]) -> dict[str, object]:
        return {
            "Topic": topic,
            "Type": type_,
            "Key": key,
            "Namespace": "default",
            "FilterKeys": [],
            "Index": self._index,
            "Payload": {topic: payload},
        }

    def _registration(self, state: State) -> dict[str, object]:
        return {
            "ID": _id(state),
            "ServiceName": state.name,
            "Namespace": "default",
            "NodeID": _node_id(state),
            "Datacenter": "dc1",
            "JobID": _job(state),
            "AllocID": _alloc(state),
            "Tags": ["v1", f"weight={state.weight}"],
            "Address": state.address,
            "Port": PORT,
            "CreateIndex": FIRST_INDEX,
            "ModifyIndex": self._modified.get(("service", state.service, state.instance), FIRST_INDEX),
        }

    def _allocation(self, state: State, *, whole: bool) -> dict[str, object]:
        index = self._modified.get(("allocation", state.service, state.instance), FIRST_INDEX)
        said: dict[str, object] = {
            "ID": _alloc(state),
            "EvalID": _uuid(2, state.service),
            "Name": f"{_job(state)}.web[{state.instance}]",
            "Namespace": "default",
            "NodeID": _node_id(state),
            "NodeName": state.node,
            "JobID": _job(state),
            "JobType": "service",
            "JobVersion": 0,
            "TaskGroup": "web",
            "DesiredStatus": "run",
            "DesiredDescription": "",
            "DesiredTransition": {
                "Migrate": None,
                "Reschedule": None,
                "ForceReschedule": None,
                "NoShutdownDelay": None,
            },
            "ClientStatus": "running",
            "ClientDescription": "Tasks are running",
            "TaskStates": None,
            "DeploymentStatus": {
                "Healthy": state.healthy,
                "Timestamp": "2026-01-01T00:00:00Z",
                "Canary": False,
                "ModifyIndex": index,
            },
            "FollowupEvalID": "",
            "NextAllocation": "",
            "RescheduleTracker": None,
            "PreemptedAllocations": None,
            "PreemptedByAllocation": "",
            "CreateIndex": FIRST_INDEX,
            "ModifyIndex": index,
            "CreateTime": 1_760_000_000_000_000_000,
            "ModifyTime": 1_760_000_000_000_000_000,
        }
        return said | _RESOURCES if whole else said


_RESOURCES: dict[str, object] = {
    "AllocatedResources": {
        "Tasks": {
            "web": {"Cpu": {"CpuShares": 100, "ReservedCores": None}, "Memory": {"MemoryMB": 300}, "Networks": None}
        },
        "Shared": {"DiskMB": 300, "Ports": [{"Label": "http", "Value": PORT, "To": 0, "HostIP": "10.0.0.1"}]},
    },
    "TaskStates": {
        "web": {
            "State": "running",
            "Failed": False,
            "Restarts": 0,
            "StartedAt": "2026-01-01T00:00:00Z",
            "FinishedAt": None,
            "Events": [
                {"Type": type_, "Time": 1_760_000_000_000_000_000, "DisplayMessage": text, "Details": {}}
                for type_, text in (("Received", "Task received by client"), ("Started", "Task started by client"))
            ],
        }
    },
    "Metrics": {"NodesEvaluated": 10, "NodesFiltered": 0, "AllocationTime": 10_000, "ScoreMetaData": None},
}


def _headers(index: int) -> dict[str, str]:
    return {"X-Nomad-Index": str(index), "X-Nomad-KnownLeader": "true", "X-Nomad-LastContact": "0"}


def _uuid(kind: int, number: int) -> str:
    return str(uuid.UUID(int=kind << 96 | number))


def _alloc(state: State) -> str:
    return _uuid(1, state.service * 100 + state.instance)


def _node_id(state: State) -> str:
    return _uuid(3, int(state.node.removeprefix("node-")))


def _job(state: State) -> str:
    return f"job-{state.name}"


def _id(state: State) -> str:
    return f"_nomad-task-{_alloc(state)}-group-web-{state.name}-http"


def _node(id_: str) -> Mapping[str, object]:
    number = uuid.UUID(id_).int % (1 << 96)
    return {
        "ID": id_,
        "Name": f"node-{number % NODES}",
        "Datacenter": "dc1",
        "Status": "ready",
        "DrainStrategy": None,
        "SchedulingEligibility": "eligible",
        "Meta": {"rack": f"r{number % 20}"},
        "Attributes": {"kernel.name": "linux", "cpu.arch": "amd64"},
        "ModifyIndex": FIRST_INDEX,
    }


def _specification(job: str) -> Mapping[str, object]:
    service = {"Name": job.removeprefix("job-"), "Provider": "nomad", "PortLabel": "http", "Checks": None}
    return {
        "ID": job,
        "Name": job,
        "Namespace": "default",
        "Type": "service",
        "Version": 0,
        "Stop": False,
        "TaskGroups": [
            {
                "Name": "web",
                "Count": 10,
                "Services": [service],
                "Tasks": [{"Name": "web", "Driver": "exec", "Services": None}],
            }
        ],
        "ModifyIndex": FIRST_INDEX,
    }
