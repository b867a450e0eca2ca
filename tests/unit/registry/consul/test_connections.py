"""How many connections the adapter has at any one time."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from bench.registry.consul import ScriptedConsul
from bench.registry.population import Fleet, State
from bench.registry.web import Web
from isthmus.registry.connection import keepalive_socket
from isthmus.registry.consul.adapter import ConsulAdapter
from isthmus.registry.consul.config import LEAST_CONNECTIONS, ConsulConfig
from isthmus.registry.model import Health, Origin
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.wait import eventually

SERVICES = 90
WATCHED = 15
MOST = LEAST_CONNECTIONS + WATCHED


def are(seen: Following, states: list[State]) -> bool:
    """Whether the latest snapshot shows these instances as healthy as they are."""
    shown = {(s.key.name, i.address): i.health for s in seen.latest.services.values() for i in s.instances}
    return all((shown[s.name, s.address] is Health.HEALTHY) == s.healthy for s in states)


class Sockets:
    """Makes sockets; `most` were open at once. The server may hear of an end before it hears of a beginning that came first."""

    def __init__(self) -> None:
        self.most = 0
        self._open: list[socket.socket] = []

    def make(self, address: tuple[Any, ...]) -> socket.socket:
        made = keepalive_socket(address)
        self._open = [*(s for s in self._open if s.fileno() != -1), made]
        self.most = max(self.most, len(self._open))
        return made


async def test_there_are_never_more_connections_than_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when other services are watched than before, which closes one and opens another for each, nor with an audit beside."""
    sockets = Sockets()
    monkeypatch.setattr("isthmus.registry.consul.api.keepalive_socket", sockets.make)
    fleet = Fleet(SERVICES)
    consul = ScriptedConsul(Fleet(SERVICES))
    web = Web(consul.handle)
    port = await web.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(web.close)
        stats = OriginStatus(Origin("consul", "consul"))
        config = ConsulConfig(address=f"http://127.0.0.1:{port}", max_connections=MOST)
        adapter = ConsulAdapter(stats.origin, config, stats)
        seen = await stack.enter_async_context(following(adapter))
        await eventually(lambda: seen.snapshots, "a first snapshot")
        await eventually(lambda: len(web.connections) > WATCHED, "queries of their own")
        # Those that are watched never changed, so the first ones that change a second time take their places: while all readers
        # are busy with the others, so that no connection is idle.
        for _ in range(2):
            states = [fleet.change(service, 3, "health") for service in range(SERVICES - WATCHED)]
            for state in states:
                consul.put(state)
            await eventually(lambda: are(seen, states), "the changes")  # noqa: B023 - awaited at once
        await adapter.listing()
        assert WATCHED < sockets.most <= MOST
        assert stats.errors == 0
