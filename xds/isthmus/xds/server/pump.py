"""What is due goes out: shared bytes to all that are due the same, in slices, so that the loop is never held up for long.

A stream has an outbox that is refilled from its machine only when it is empty. So a client that reads slowly holds the pointers
of one round of responses, and then gets the newest state.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice

from isthmus.xds import encode
from isthmus.xds.protocol.response import Response
from isthmus.xds.server.accounts import Accounts
from isthmus.xds.server.calls import Call, Proxy
from isthmus.xds.server.transport import Transport

SLICE_SECONDS = 0.005
"""How long a fan-out holds the loop before others get their turn."""
_BATCH = 64
"""Streams at the most that are handed to the transport together."""
_KEPT_RESPONSES = 256
_KEPT_BYTES = 64 << 20


class Encoded:
    """Responses as bytes, made once for all the streams that are sent them; the machines share their responses."""

    def __init__(self, control_plane: bytes) -> None:
        self._control_plane = control_plane
        self._known: OrderedDict[int, tuple[Response, bytes]] = OrderedDict()
        self._size = 0

    def bytes_of(self, response: Response, *, delta: bool) -> bytes:
        """The response's bytes."""
        known = self._known.get(id(response))
        if known is not None:
            return known[1]
        to_bytes = encode.to_delta_discovery_response if delta else encode.to_discovery_response
        message = to_bytes(response, self._control_plane)
        # With the response itself, so that no other one gets its place in memory.
        self._known[id(response)] = response, message
        self._size += len(message)
        while len(self._known) > _KEPT_RESPONSES or (self._size > _KEPT_BYTES and len(self._known) > 1):
            self._size -= len(self._known.popitem(last=False)[1][1])
        return message

    def clear(self) -> None:
        """What was made for earlier generations is hardly sent again."""
        self._known.clear()
        self._size = 0


class Pump:
    """Carries responses from the machines to the transport."""

    def __init__(self, transport: Transport, accounts: Accounts, control_plane: bytes) -> None:
        self._transport = transport
        self._accounts = accounts
        self._encoded = Encoded(control_plane)
        self._queue: dict[int, Proxy] = {}
        self.idle = asyncio.Event()
        """Set unless a fan-out is under way."""
        self.idle.set()

    def fan_out(self, proxies: Iterable[Proxy]) -> None:
        """Bring streams up to date with their views: at once as far as one slice reaches, the rest in further ones.

        Views that change once more meanwhile are taken as they are when a stream's turn comes.
        """
        self._encoded.clear()
        for proxy in proxies:
            proxy.queued = True
            self._queue[proxy.id] = proxy
        if self.idle.is_set():
            self._turn()

    def push(self, calls: Iterable[Call]) -> None:
        """Send what is due to some."""
        now = time.monotonic()
        ready: list[Call] = []
        for call in calls:
            if call.ended:
                continue
            if not call.outbox and isinstance(call, Proxy):
                self._refill(call, now)
            if call.outbox and not call.blocked:
                ready.append(call)
        while ready:
            groups: dict[int, tuple[Response | None, bytes, list[Call]]] = {}
            for call in ready:
                response, message = call.outbox[0]
                groups.setdefault(id(message), (response, message, []))[2].append(call)
            ready = []
            for response, message, group in groups.values():
                refused = set(self._transport.send([c.id for c in group], message))
                self._accounts.sent(response, message, len(group) - len(refused))
                for call in group:
                    if call.id in refused:
                        call.blocked = True
                        continue
                    del call.outbox[0]
                    if isinstance(call, Proxy) and call.behind and not call.outbox:
                        self._refill(call, now)
                    if call.outbox:
                        ready.append(call)

    def _turn(self) -> None:
        queue, now, began = self._queue, time.monotonic(), time.thread_time()
        spent, may_go_on = 0.0, True
        # Whatever else keeps the machine busy, each turn gets somewhere: the clock is looked at after each batch.
        while queue and may_go_on:
            batch: list[Proxy] = []
            for number in list(islice(queue, _BATCH)):
                proxy = queue.pop(number)
                proxy.queued = False
                if proxy.machine is None or proxy.view is None or proxy.ended:
                    continue
                proxy.machine.update(proxy.view.snapshot)
                proxy.behind = bool(proxy.outbox)
                if not proxy.outbox:
                    self._refill(proxy, now)
                batch.append(proxy)
                # One that follows thousands of resources may take as long as a thousand others, and the next one as long again.
                before, spent = spent, time.thread_time() - began
                may_go_on = 2 * spent - before < SLICE_SECONDS
                if not may_go_on:
                    break
            self.push(batch)
            may_go_on &= time.monotonic() < now + SLICE_SECONDS
        if queue:
            self.idle.clear()
            asyncio.get_running_loop().call_soon(self._turn)
        else:
            self.idle.set()

    def _refill(self, proxy: Proxy, now: float) -> None:
        proxy.behind = False
        machine = proxy.machine
        if machine is None:
            return
        proxy.outbox += ((r, self._encoded.bytes_of(r, delta=proxy.delta)) for r in machine.responses(now))
        if proxy.waking is not None:
            proxy.waking.cancel()
            proxy.waking = None
        if machine.wake_at is not None:
            loop = asyncio.get_running_loop()
            proxy.waking = loop.call_later(max(0.0, machine.wake_at - now), self.push, [proxy])
