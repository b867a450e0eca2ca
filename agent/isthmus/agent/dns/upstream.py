"""Other names: asking the servers that know them.

Every question leaves from a socket of its own, connected to one server, so that its port is random and what comes from elsewhere
is not received; under a random id; and only what repeats id and question is an answer (RFC 5452). The same question is asked once
while it is open, which takes away what forgers need (many open questions) and what loops need (a question that comes back to us
joins itself, and ends).

A resolver on this machine may be set up to ask us for some names, and be the one that we ask for all others. So questions to it
carry a mark (an EDNS option for local use), and one that comes back with it is about a name that nobody has.

A server that fails twice in a row is not asked any more. It is tried once in a while with a name of ours, which tells two things:
that it is back, and, where the name arrives here, that it asks us in its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
import socket
import time
from collections.abc import Sequence
from ipaddress import ip_address

import structlog

from isthmus.agent.dns.config import Address
from isthmus.agent.dns.forward import is_answer, is_truncated, rcode_of, to_forwarded
from isthmus.agent.dns.metrics import DnsMetrics
from isthmus.agent.dns.wire import (
    AD,
    CD,
    IN,
    MAX_MESSAGE,
    OUR_PAYLOAD,
    RD,
    Edns,
    Query,
    Rcode,
    Type,
    to_wire,
)

log = structlog.get_logger()

MAX_OPEN = 512
"""Different questions that are open at once."""
DOWN_AFTER = 2
FIRST_RETRY, LAST_RETRY = 1.0, 15.0
LOOP_RETRY = 60.0
PROBE_DOMAIN = to_wire("isthmus-loop.test")
_PROBE_LABEL = 16


class State(enum.Enum):
    """What is known of an upstream."""

    UP = "up"
    DOWN = "down"
    LOOP = "loop"


class OverloadedError(Exception):
    """Too many questions are open."""


class Upstream:
    """One server."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.state = State.UP
        self.failures = 0
        self.why = ""
        self.is_local = ip_address(address.host.partition("%")[0]).is_loopback
        # A link-local IPv6 address needs the number of its interface, which only getaddrinfo knows.
        found = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
        self.family, self.sockaddr = found[0], found[4]

    @property
    def problem(self) -> str | None:
        """What is wrong with it."""
        if self.state is State.DOWN:
            return f"DNS upstream {self.address} does not answer: {self.why}; it is tried again every {LAST_RETRY:g} s"
        if self.state is State.LOOP:
            return (
                f"DNS upstream {self.address} asks this DNS in its turn, so it is not asked; configure another upstream"
            )
        return None


class Upstreams:
    """All of them, in order of preference."""

    def __init__(self, addresses: Sequence[Address], timeout: float, metrics: DnsMetrics) -> None:
        self._upstreams: list[Upstream] = []
        for address in addresses:
            try:
                self._upstreams.append(Upstream(address))
            except OSError as e:  # fe80::1%eth7, and there is no eth7
                log.warning("dns.upstream_left_out", upstream=str(address), reason=e.strerror)
        self._timeout = timeout
        self._metrics = metrics
        self._open: dict[tuple[object, ...], asyncio.Task[bytes | None]] = {}
        self._probers: dict[Upstream, asyncio.Task[None]] = {}
        self._probes: dict[bytes, bool] = {}
        self._mark = secrets.token_bytes(8)
        for upstream in self._upstreams:
            metrics.upstream_up.labels(str(upstream.address)).set(1)

    def start(self) -> None:
        """Begin to find out whether one of them leads back here. Needs a running loop."""
        for upstream in self._upstreams:
            self._probe(upstream, 0)

    async def stop(self) -> None:
        """End all that is open."""
        tasks = [*self._open.values(), *self._probers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def problems(self) -> list[str]:
        """What is wrong, in sentences for an operator."""
        if not self._upstreams:
            return ["DNS has no upstream: only names of the mesh are answered; name one in `upstream`"]
        return [problem for upstream in self._upstreams if (problem := upstream.problem)]

    def is_ours(self, query: Query) -> bool:
        """Whether a question was put to an upstream from here: that one asks us in its turn."""
        return query.edns is not None and query.edns.mark == self._mark

    def is_probe(self, name: bytes) -> bool:
        """Whether a question is one that an upstream was asked from here: then it is noted."""
        if name[_PROBE_LABEL + 1 :] != PROBE_DOMAIN or name not in self._probes:
            return False
        self._probes[name] = True
        return True

    async def ask(self, query: Query, limit: int) -> bytes | None:
        """Get an answer, under an id of its own; None when nobody has one. `limit`: bytes that the client takes.

        Raises:
            OverloadedError: too many other questions are open.

        """
        whole = limit > OUR_PAYLOAD
        key = (query.name, query.question[-4:], query.flags & (RD | AD | CD), query.edns and query.edns.do, whole)
        task = self._open.get(key)
        if task is None:
            if len(self._open) >= MAX_OPEN:
                raise OverloadedError
            task = self._open[key] = asyncio.create_task(self._ask(query, whole), name="dns question")
            task.add_done_callback(lambda _: self._open.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, query: Query, whole: bool) -> bytes | None:
        began = time.perf_counter()
        refusal: bytes | None = None
        try:
            usable = [u for u in self._upstreams if u.state is State.UP]
            for upstream in usable * 2 if len(usable) == 1 else usable:
                if upstream.state is not State.UP:
                    continue
                answer = await self._once(upstream, query, whole)
                if answer is None:
                    continue
                if rcode_of(answer) not in _OTHERS_MAY_KNOW:
                    return answer
                refusal = refusal or answer
            return refusal
        finally:
            self._metrics.forwarded.observe(time.perf_counter() - began)

    async def _once(self, upstream: Upstream, query: Query, whole: bool) -> bytes | None:
        try:
            answer = await self._exchange(upstream, query)
        except (OSError, TimeoutError) as e:
            self._failed(upstream, _reason(e))
            return None
        upstream.failures = 0
        if whole and is_truncated(answer):
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                return await self._exchange_tcp(upstream, query)
        return answer

    async def _exchange(self, upstream: Upstream, query: Query) -> bytes:
        id_ = secrets.token_bytes(2)
        loop = asyncio.get_running_loop()
        with socket.socket(upstream.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(upstream.sockaddr)
            sock.send(self._to_message(upstream, query, id_))
            async with asyncio.timeout(self._timeout):
                while True:
                    data = await loop.sock_recv(sock, MAX_MESSAGE)
                    if is_answer(data, id_, query.question):
                        return data

    async def _exchange_tcp(self, upstream: Upstream, query: Query) -> bytes:
        id_ = secrets.token_bytes(2)
        async with asyncio.timeout(self._timeout):
            reader, writer = await asyncio.open_connection(*upstream.address)
            try:
                message = self._to_message(upstream, query, id_)
                writer.write(len(message).to_bytes(2) + message)
                data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            finally:
                writer.transport.abort()
        if not is_answer(data, id_, query.question):
            raise EOFError
        return data

    def _to_message(self, upstream: Upstream, query: Query, id_: bytes) -> bytes:
        return to_forwarded(query, id_, self._mark if upstream.is_local else b"")

    def _failed(self, upstream: Upstream, why: str) -> None:
        upstream.failures += 1
        if upstream.failures >= DOWN_AFTER and upstream.state is State.UP:
            self._turn(upstream, State.DOWN, why)
            self._probe(upstream, FIRST_RETRY)

    def _turn(self, upstream: Upstream, state: State, why: str = "") -> None:
        if upstream.state is state:
            return
        upstream.state, upstream.why = state, why
        self._metrics.upstream_up.labels(str(upstream.address)).set(state is State.UP)
        name = str(upstream.address)
        if state is State.UP:
            upstream.failures = 0
            log.info("dns.upstream_up", upstream=name)
        elif state is State.DOWN:
            log.warning("dns.upstream_down", upstream=name, reason=why)
        else:
            log.warning("dns.upstream_loop", upstream=name)

    def _probe(self, upstream: Upstream, delay: float) -> None:
        if (task := self._probers.get(upstream)) is None or task.done():
            self._probers[upstream] = asyncio.create_task(self._keep_probing(upstream, delay), name="dns probe")

    async def _keep_probing(self, upstream: Upstream, delay: float) -> None:
        """Try until it is known to be well."""
        while True:
            await asyncio.sleep(delay)
            delay = min(max(delay * 2, FIRST_RETRY), LAST_RETRY)
            name = bytes([_PROBE_LABEL]) + secrets.token_hex(_PROBE_LABEL // 2).encode() + PROBE_DOMAIN
            question = name + Type.A.to_bytes(2) + IN.to_bytes(2)
            self._probes[name] = False
            reason = ""
            try:
                await self._exchange(
                    upstream, Query(b"", RD, name, Type.A, IN, question, Edns(OUR_PAYLOAD, 0, do=False))
                )
            except (OSError, TimeoutError) as e:
                reason = _reason(e)
            finally:
                came_back = self._probes.pop(name)
            if came_back:
                self._turn(upstream, State.LOOP)
                delay = LOOP_RETRY
            elif reason and upstream.state is State.UP:
                self._failed(upstream, reason)
            elif reason:
                self._turn(upstream, State.DOWN, reason)
            else:
                self._turn(upstream, State.UP)
                return


_OTHERS_MAY_KNOW = frozenset({Rcode.SERVFAIL, Rcode.REFUSED, Rcode.NOTIMP, Rcode.FORMERR})


def _reason(e: OSError) -> str:
    """A TimeoutError is an OSError without words."""
    return e.strerror or "no answer in time"
