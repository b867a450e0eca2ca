"""A DNS server in this process that answers as a test says, over UDP and TCP on one port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from dns.message import Message

from isthmus.agent.dns.config import Address
from tests.servers.netns import Machine

Script = Callable[[Message, str], Message | bytes | None]
"""What to answer to a question over `udp` or `tcp`; None: nothing."""


def reply(query: Message, *records: str) -> Message:
    """An answer with records of the name that was asked for: `A 192.0.2.1`; without any: the name does not exist."""
    answer = dns.message.make_response(query, recursion_available=True)
    (question,) = query.question
    for record in records:
        kind, _, text = record.partition(" ")
        answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, text))
    if not records:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    return answer


def knows(**addresses: str) -> Script:
    """A script that has addresses for some names, with `_` for dots, and says of others that they do not exist."""
    names = {name.replace("_", ".") + ".": address for name, address in addresses.items()}

    def script(query: Message, _protocol: str) -> Message:
        address = names.get(str(query.question[0].name).lower())
        return reply(query, *([f"A {address}"] if address else []))

    return script


class ScriptedDns(asyncio.DatagramProtocol):
    """From `async with` to its end, on a port of 127.0.0.1 or on port 53 of a machine; `silent` makes it read and not answer."""

    def __init__(self, script: Script, machine: Machine | None = None) -> None:
        self._machine = machine
        self.script = script
        self.silent = False
        self.asked: list[tuple[str, Message]] = []
        """Protocol and question, without those by which somebody finds out whether it is there."""
        self.peers: list[Any] = []
        """Where questions over UDP came from."""
        self.seen = 0

    async def __aenter__(self) -> Self:
        with self._machine.entered() if self._machine else contextlib.nullcontext():
            udp, tcp = _sockets(*((self._machine.address, 53) if self._machine else ("127.0.0.1", 0)))
        self.address = Address(*udp.getsockname())
        self._tcp = await asyncio.start_server(self._serve, sock=tcp)
        self._udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=udp)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._udp.close()
        self._tcp.close()
        await self._tcp.wait_closed()
        await asyncio.sleep(0)  # the socket is closed by a callback

    @property
    def names(self) -> list[str]:
        """What it was asked for."""
        return [str(query.question[0].name) for _, query in self.asked]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self._answer(data, "udp", addr)
        if answer is not None:
            self._udp.sendto(answer, addr)

    def send(self, data: bytes, peer: Any) -> None:
        """Send something that nobody has asked for."""
        self._udp.sendto(data, peer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
        answer = self._answer(data, "tcp", None)
        if answer is not None:
            writer.write(len(answer).to_bytes(2) + answer)
        writer.close()

    def _answer(self, data: bytes, protocol: str, peer: Any) -> bytes | None:
        query = dns.message.from_wire(data)
        self.seen += 1
        if "isthmus-loop" in str(query.question[0].name):
            return None if self.silent else reply(query).to_wire()
        self.asked.append((protocol, query))
        self.peers.append(peer)
        answer = None if self.silent else self.script(query, protocol)
        return answer.to_wire(max_size=65535) if isinstance(answer, Message) else answer


def _sockets(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """For UDP and TCP, on one port."""
    while True:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((host, port))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:
            udp.close()
            if port:
                raise
