"""The services of this machine: their probes, and what the registry is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from isthmus.agent.answers import ServiceStatus
from isthmus.agent.bootstrap import registration_id
from isthmus.agent.config import AgentConfig, ServiceConfig
from isthmus.agent.probe import MAX_AT_ONCE, Probe, watch_probe
from isthmus.agent.registration import Registered, Registrar, Registration, to_registrar
from isthmus.registry.model import Locality


def to_registered(config: AgentConfig, service: ServiceConfig, address: str) -> Registered:
    """Make what is registered of a service: where callers reach it, which is the proxy where that takes its calls."""
    ports = {p.title: p.inbound_port or p.at().port for p in service.ports}
    return Registered(
        id=registration_id(config, service),
        service=service.name,
        namespace=service.namespace,
        address=address,
        ports=ports,
        protocols={p.title: p.protocol_spoken for p in service.ports},
        weight=service.weight,
        labels=service.labels,
        locality=config.locality_levels or Locality(),
        numbers={p.title: p.port for p in service.ports},
    )


class _Member:
    """One service, registered and probed by a task of its own, so that a change of one leaves the others alone."""

    def __init__(self, registered: Registered, probe: Probe | None, registration: Registration) -> None:
        self.registered = registered
        self.probe = probe
        self.registration = registration
        self.registrar: Registrar
        self.task: asyncio.Task[None] | None = None
        self.healthy: bool | None = None if probe else True
        self.why = "the first probe is to come" if probe else "it has no probe"

    def is_like(self, other: _Member) -> bool:
        return (self.registered, self.probe, self.registration) == (other.registered, other.probe, other.registration)


class Services:
    """From `start` on they are registered and probed. A service is well when its probe succeeds and the proxy takes its calls."""

    def __init__(self, config: AgentConfig, address: str) -> None:
        self._address = address
        self._down: str | None = None
        """Why the proxy takes no calls; None while that is not known: then nothing is said of any service."""
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._members = self._to_members(config)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Register, renew and probe until cancelled, which leaves what is registered as it is."""
        for member in self._members.values():
            self._start(member)
        try:
            while True:
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                tasks = [m.task for m in self._members.values() if m.task]
                try:
                    await asyncio.wait((changed, *tasks), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                for task in tasks:
                    if task.done() and not task.cancelled() and (error := task.exception()):
                        raise error
                for id_ in [id_ for id_, m in self._members.items() if m.task and m.task.done()]:
                    del self._members[id_]
        finally:
            await _cancel(list(self._members.values()))

    async def reload(self, config: AgentConfig) -> None:
        """Go on with another configuration: what is no more in it is withdrawn.

        Raises:
            ValueError: it cannot be registered so; then nothing has changed.

        """
        before, after = self._members, self._to_members(config)
        self._members = {}
        replaced, gone = [], []
        for id_, member in after.items():
            old = before.get(id_)
            if old is not None and old.is_like(member):
                self._members[id_] = old
                continue
            if old is not None and old.registration == member.registration:
                replaced.append(old)
            self._members[id_] = member
        gone = [m for m in before.values() if m not in self._members.values() and m not in replaced]
        await _cancel(replaced)
        await _withdraw(gone)
        for member in self._members.values():
            if member.task is None:
                self._start(member)
        self._changed.set()

    def proxy_is(self, down: str) -> None:
        """Say why the proxy takes no calls; empty when it does."""
        if down != self._down:
            self._down = down
            for member in self._members.values():
                self._tell(member)

    async def drain(self) -> None:
        """Tell the registry that callers shall go elsewhere."""
        await asyncio.gather(*(m.registrar.drain() for m in self._members.values()))

    async def withdraw(self) -> None:
        """Take what is registered away."""
        await _withdraw(list(self._members.values()))

    def problems(self) -> list[str]:
        """What the registry did not do, and which services are not well."""
        return [problem for m in self._members.values() for problem in m.registrar.problems()]

    def status(self) -> tuple[ServiceStatus, ...]:
        """How each of them is doing."""
        return tuple(self._status(m) for m in self._members.values())

    def _to_members(self, config: AgentConfig) -> dict[str, _Member]:
        members = {}
        for service in config.services:
            registered = to_registered(config, service, self._address)
            member = _Member(registered, service.probe, config.registration)
            member.registrar = to_registrar(config.registration, [registered], config.node, Path(config.config_path))
            members[registered.id] = member
        return members

    def _start(self, member: _Member) -> None:
        self._tell(member)
        member.task = asyncio.create_task(self._keep(member), name=f"service {member.registered.id}")

    async def _keep(self, member: _Member) -> None:
        """Until withdrawn."""
        probing = None
        if member.probe is not None:
            probing = asyncio.create_task(self._probe(member, member.probe))
        try:
            await member.registrar.run()
        finally:
            if probing is not None:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)

    async def _probe(self, member: _Member, probe: Probe) -> None:
        def changed(healthy: bool, why: str) -> None:
            member.healthy, member.why = healthy, why
            self._tell(member)

        await watch_probe(probe, changed, self._slots)

    def _status(self, member: _Member) -> ServiceStatus:
        healthy, why = member.healthy, member.why
        if healthy and self._down != "":
            healthy, why = (None, "Envoy has not been asked yet") if self._down is None else (False, self._down)
        standing = next(iter(member.registrar.standings()), None)
        unregistered = "" if standing is None or standing.registered else standing.error or "it has not answered yet"
        return ServiceStatus(member.registered.id, member.registered.service, healthy, why, unregistered)

    def _tell(self, member: _Member) -> None:
        status = self._status(member)
        if status.healthy is not None:
            member.registrar.report(status.id, status.healthy, status.why)


async def _cancel(members: Sequence[_Member]) -> None:
    tasks = [m.task for m in members if m.task]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _withdraw(members: Sequence[_Member]) -> None:
    await asyncio.gather(*(m.registrar.withdraw() for m in members))
    await _cancel(members)
