"""The DNS: questions over UDP and TCP on the configured addresses.

Over UDP, questions are read from the socket in batches, for as long as there are any. One that was asked before, byte for byte
but for its id, costs a look into a dict; `isthmus.agent.dns.answer` sees to others. What the mesh does not know becomes a task.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from isthmus.agent.dns import config as configs
from isthmus.agent.dns.answer import Answers, Result
from isthmus.agent.dns.config import Address, DnsConfig
from isthmus.agent.dns.forward import to_client
from isthmus.agent.dns.metrics import DnsMetrics
from isthmus.agent.dns.resolv import ResolvConf
from isthmus.agent.dns.table import NameTable
from isthmus.agent.dns.tcp import MAX_QUERY, Connections
from isthmus.agent.dns.upstream import OverloadedError, Upstreams
from isthmus.agent.dns.wire import MAX_MESSAGE, Body, MalformedError, Query, Rcode, to_answer, to_wire

log = structlog.get_logger()

BATCH = 64
"""Questions that are answered before other work has its turn."""
RECEIVE_BUFFER = 1 << 20
MAX_WAITING = 1024
"""Clients over UDP that wait for upstreams, all together."""
BACKLOG = 128


class ListenError(Exception):
    """The DNS cannot be where it is to be; one sentence for the operator."""


class DnsServer:
    """One DNS, from `start` to `stop`."""

    def __init__(
        self, config: DnsConfig, table: NameTable | None, resolv: ResolvConf, registry: CollectorRegistry
    ) -> None:
        self._config = config
        self._listen = configs.listening(config)
        self._metrics = DnsMetrics(registry)
        self._domains = frozenset(map(to_wire, config.domains))
        self._search = frozenset(map(to_wire, resolv.search if config.search is None else config.search))
        wanted = configs.upstreams(config) or resolv.nameservers
        for address in set(wanted) & set(self._listen):
            log.info("dns.upstream_left_out", upstream=str(address), reason="it is this DNS itself")
        # Nobody would get an answer from a DNS that asks itself.
        self._upstreams = Upstreams(
            [address for address in dict.fromkeys(wanted) if address not in self._listen],
            config.timeout,
            self._metrics,
        )
        self._synced = False
        self._answers = self._to_answers(None)
        if table is not None:
            self.replace(table)
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._waiting: set[asyncio.Task[None]] = set()
        self._connections = Connections(self._answer_tcp, self._refused_connection)
        self.addresses: tuple[Address, ...] = ()
        """Where it listens, once it does."""

    @property
    def metrics(self) -> DnsMetrics:
        """What is counted."""
        return self._metrics

    def replace(self, table: NameTable) -> None:
        """Answer from another table from now on."""
        self._answers = self._to_answers(table)
        self._metrics.names.set(len(table.exact) + len(table.wildcards))
        self._synced = True

    def problems(self) -> list[str]:
        """What is wrong, in sentences for an operator."""
        unknown = (
            [] if self._synced else ["DNS has no names of the mesh yet: neither the bridge nor a file has told any"]
        )
        return unknown + self._upstreams.problems()

    async def start(self) -> None:
        """Listen.

        Raises:
            ListenError: an address cannot be had.

        """
        self._loop = asyncio.get_running_loop()
        try:
            self.addresses = tuple([await self._start_one(address) for address in self._listen])
        except ListenError:
            await self.stop()
            raise
        self._upstreams.start()
        log.info("dns.listening", addresses=[str(a) for a in self.addresses])

    async def stop(self) -> None:
        """Stop listening; what is open ends without an answer."""
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        for server in self._servers:
            server.close()
        self._sockets, self._servers = [], []
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._connections.stop()
        await self._upstreams.stop()

    async def _start_one(self, address: Address) -> Address:
        for attempt in range(20):
            udp, bound = _bind(address)
            try:
                server = await asyncio.start_server(self._connections.open, *bound, backlog=BACKLOG)
            except OSError as e:
                udp.close()
                if address.port == 0 and attempt < 19:  # another program has that one for TCP
                    continue
                raise _listen_error(bound, "TCP", e) from None
            self._sockets.append(udp)
            self._servers.append(server)
            self._loop.add_reader(udp, partial(self._read, udp))
            return bound
        raise AssertionError

    def _to_answers(self, table: NameTable | None) -> Answers:
        return Answers(table, domains=self._domains, search=self._search, ttl=int(self._config.ttl))

    # UDP

    def _read(self, sock: socket.socket) -> None:
        kept, counts = self._answers.kept, self._metrics.udp
        receive, send = sock.recvfrom, sock.sendto
        for _ in range(BATCH):
            try:
                data, peer = receive(MAX_QUERY)  # what is longer is cut off, and then it is no question
            except BlockingIOError:
                return
            except OSError as e:  # memory, for instance: the socket is still there
                log.warning("dns.not_received", reason=e.strerror)
                return
            known = kept.get(data[2:])
            if known is None:
                self._answer(sock, data, peer)
                continue
            counts[known.result] += 1
            try:
                send(data[:2] + known.rest, peer)
            except OSError:
                counts[Result.DROPPED] += 1

    def _answer(self, sock: socket.socket, data: bytes, peer: Any) -> None:
        counts = self._metrics.udp
        try:
            found = self._answers.answer(data)
        except MalformedError as e:
            counts[Result.MALFORMED] += 1
            if e.answer is not None:
                self._send(sock, e.answer, peer)
            return
        if not isinstance(found, Query):
            counts[found.result] += 1
            self._send(sock, data[:2] + found.rest, peer)
        elif len(self._waiting) >= MAX_WAITING:
            counts[Result.OVERLOADED] += 1
            self._send(sock, _failure(found, found.payload), peer)
        else:
            task = asyncio.create_task(self._forward_udp(sock, found, peer), name="dns forward")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _forward_udp(self, sock: socket.socket, query: Query, peer: Any) -> None:
        answer, result = await self._forward(query, query.payload)
        self._metrics.udp[result] += 1
        self._send(sock, answer, peer)

    def _send(self, sock: socket.socket, answer: bytes, peer: Any) -> None:
        try:
            sock.sendto(answer, peer)
        except OSError:  # nobody waits, or not for so much: as if it were lost on its way
            self._metrics.udp[Result.DROPPED] += 1

    # TCP

    async def _answer_tcp(self, data: bytes) -> bytes:
        counts = self._metrics.tcp
        try:
            found = self._answers.answer(data, MAX_MESSAGE)
        except MalformedError as e:
            counts[Result.MALFORMED] += 1
            return e.answer or b""
        if isinstance(found, Query):
            answer, result = await self._forward(found, MAX_MESSAGE)
        else:
            answer, result = data[:2] + found.rest, found.result
        counts[result] += 1
        return answer

    def _refused_connection(self) -> None:
        self._metrics.tcp[Result.DROPPED] += 1

    # Both

    async def _forward(self, query: Query, limit: int) -> tuple[bytes, Result]:
        if self._upstreams.is_probe(query.name):
            return to_answer(query, Body(Rcode.NXDOMAIN, aa=False), limit), Result.REFUSED
        if self._upstreams.is_ours(query):
            return to_answer(query, Body(Rcode.NXDOMAIN, aa=False), limit), Result.NXDOMAIN
        try:
            answer = await self._upstreams.ask(query, limit)
        except OverloadedError:
            return _failure(query, limit), Result.OVERLOADED
        passed = None if answer is None else to_client(answer, query, limit)
        if passed is None:
            return _failure(query, limit), Result.UPSTREAM_FAILED
        return passed, Result.FORWARDED


def _failure(query: Query, limit: int) -> bytes:
    return to_answer(query, Body(Rcode.SERVFAIL, aa=False), limit)


def _bind(address: Address) -> tuple[socket.socket, Address]:
    """Make a socket for UDP, and say which port it has."""
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(
            *address, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        udp = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
    except OSError as e:
        raise _listen_error(address, "UDP", e) from None
    try:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        udp.bind(sockaddr)
    except OSError as e:
        udp.close()
        raise _listen_error(address, "UDP", e) from None
    return udp, Address(address.host, udp.getsockname()[1])


def _listen_error(address: Address, protocol: str, e: OSError) -> ListenError:
    remedy = ""
    if isinstance(e, PermissionError):
        remedy = ": ports below 1024 need the capability CAP_NET_BIND_SERVICE; use another port, such as 15053"
    elif e.errno == 98:
        remedy = ": another program has it; stop that, or listen elsewhere in 127.0.0.0/8"
    return ListenError(f"DNS cannot listen on {address} ({protocol}): {e.strerror}{remedy}")
