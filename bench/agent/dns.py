"""Answers per second of the agent's DNS, beside Debian's dnsmasq with the same names and the same callers.

The two run side by side and take turns of a second; the callers are a compiled program. Callers, server and everything else share
the machine: where the callers need as much of it as a server, both would be faster alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec

from bench import machine
from bench.push.lines import Program
from bench.rows import Row, figure, say
from tests import peers
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

SERVICES = 1_000
TURNS = 7
SECONDS = 1.0
CROWD = {"sockets": 8, "open": 16}
ALONE = {"sockets": 1, "open": 1}


class Turn(msgspec.Struct, frozen=True):
    """What the callers saw in one turn, and the CPU time that the server took meanwhile."""

    answers: int
    lost: int
    wrong: int
    seconds: float
    p50_us: float
    p99_us: float
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Answers."""
        return self.answers / self.seconds

    @property
    def cpu_us(self) -> float:
        """Of the server, for one answer."""
        return self.cpu_seconds / self.answers * 1e6


async def rows() -> list[Row]:
    """Measure, in half a minute."""
    names = [f"service-{i}.default.mesh" for i in range(SERVICES)]
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        async with _servers(names, Path(directory)) as (ours, theirs, callers):
            crowd = await _turns(callers, [ours, theirs], names, CROWD)
            alone = await _turns(callers, [ours, theirs], names, ALONE)
    mine, other = (statistics.median(t.per_second for t in turns) for turns in crowd)
    # Turns that followed each other saw the same machine.
    ratio = statistics.median(a.per_second / b.per_second for a, b in zip(*crowd, strict=True))
    my_cpu, other_cpu = (statistics.median(t.cpu_us for t in turns) for turns in crowd)
    my_wait, other_wait = (statistics.median(t.p50_us for t in turns) for turns in alone)
    peer = f"dnsmasq {other:,.0f}/s, measured in the same run"
    what = f"{SERVICES} names, {CROWD['sockets']} sockets with {CROWD['open']} questions open each"
    return [
        figure("agent.dns_qps_over_dnsmasq", ratio, f"times the answers per second, {what}", peer),
        figure("agent.dns_qps", mine, f"answers per second, {what}", peer),
        figure("agent.dns_cpu_us", my_cpu, "us of CPU per answer", f"dnsmasq {other_cpu:.1f}"),
        figure("agent.dns_p50_us", my_wait, "us until the answer, one caller", f"dnsmasq {other_wait:.0f}"),
    ]


class _Server(msgspec.Struct, frozen=True):
    label: str
    address: str
    pid: int


@contextlib.asynccontextmanager
async def _servers(names: Sequence[str], directory: Path) -> AsyncIterator[tuple[_Server, _Server, Program]]:
    """Both servers with addresses for the names, and the callers."""
    hosts = directory / "hosts"
    hosts.write_text("".join(f"127.64.{i // 250}.{i % 250 + 1} {name}\n" for i, name in enumerate(names)))
    port = free_port()
    dnsmasq = Process(
        [
            peer_binary("debian", "dnsmasq"),
            *("--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root", "--group=root"),
            *("--no-resolv", "--no-hosts", f"--addn-hosts={hosts}", "--local=/mesh/", "--local-ttl=30"),
            *(f"--port={port}", "--listen-address=127.0.0.1", "--bind-interfaces"),
        ],
        directory / "dnsmasq.log",
    )
    dnsmasq.start()
    try:
        async with (
            Program([sys.executable, "-m", "bench.agent.dns_server", hosts], directory / "ours.log") as ours,
            Program([peer_binary("push", peers.PUSH), "dns"], directory / "callers.log") as callers,
        ):
            address = (await ours.answer())["address"]
            theirs = f"127.0.0.1:{port}"

            async def answers() -> bool:
                return (await _turn(callers, theirs, names[:1], ALONE, 0.05)).answers > 0

            await eventually(answers, f"dnsmasq answers: {dnsmasq.output()}")
            yield _Server("isthmus", address, ours.pid), _Server("dnsmasq", theirs, dnsmasq.pid), callers
    finally:
        dnsmasq.stop()


async def _turns(
    callers: Program, servers: Sequence[_Server], names: Sequence[str], crowd: dict[str, int]
) -> list[list[Turn]]:
    found: list[list[Turn]] = [[] for _ in servers]
    for number in range(TURNS + 1):
        for server, turns in zip(servers, found, strict=True):
            before = machine.cpu_seconds(server.pid)
            turn = await _turn(callers, server.address, names, crowd, SECONDS)
            turn = msgspec.structs.replace(turn, cpu_seconds=machine.cpu_seconds(server.pid) - before)
            if turn.wrong or turn.lost > turn.answers / 1000:
                raise RuntimeError(f"{server.label} gave {turn.wrong} wrong answers and lost {turn.lost}")
            if number:  # the first is for warming up
                turns.append(turn)
                say(
                    f"  {server.label}: {turn.per_second:,.0f}/s, {turn.cpu_us:.1f} us of CPU, p50 {turn.p50_us:.0f} us"
                )
    return found


async def _turn(callers: Program, address: str, names: Sequence[str], crowd: dict[str, int], seconds: float) -> Turn:
    order = {"address": address, "names": list(names), "seconds": seconds, **crowd}
    return msgspec.convert(await callers.order(order), Turn)


if __name__ == "__main__":
    for row in asyncio.run(rows()):
        print(row)
