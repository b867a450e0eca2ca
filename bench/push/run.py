"""What a push costs, beside go-control-plane and a plain grpc.aio server, with compiled proxies that acknowledge everything.

The servers run side by side and are measured in turns, each with the resources that Isthmus makes of what a real etcd holds. A
change of Isthmus begins with a write to etcd, and its CPU time contains reading and translating; a change of the others begins
with a line on standard input. Everything shares the machine.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
from envoy.config.core.v3.base_pb2 import Node

from bench.push import churn, crowd, loop
from bench.push.catalog import Keys, Population
from bench.push.lines import Program
from bench.push.matrix import Cell, compare
from bench.push.servers import ISTHMUS, LINEAR, PLAIN, SNAPSHOT, SNAPSHOT_NODE, Place, Shape, go_program, start
from bench.rows import Row, at_most, figure, say
from isthmus.xds.resource import TypeUrl
from tests.servers.etcd import Etcd

BLOCKS = 3
"""Times that each server has its turn in cells that have a target; else two."""
CONNECTS = 3

ALL = (ISTHMUS, LINEAR, SNAPSHOT, PLAIN)
EVERY = (*ALL[:3], SNAPSHOT_NODE, PLAIN)

_EDS = {size: Shape(f"eds{size}", TypeUrl.ENDPOINT, Population(1, size)) for size in (10, 1_000, 10_000)}
_CDS = {size: Shape(f"cds{size}", TypeUrl.CLUSTER, Population(size, 1)) for size in (1_000, 10_000)}
_DELTA = {size: Shape(f"cds{size}_delta", TypeUrl.CLUSTER, Population(size, 1), delta=True) for size in (1_000, 10_000)}
_TLS = Shape("eds1000_tls", TypeUrl.ENDPOINT, Population(1, 1_000), tls=True)


class Part(msgspec.Struct, frozen=True):
    """A line of the matrix: one shape, some numbers of proxies, some servers."""

    shape: Shape
    numbers: Sequence[int]
    servers: Sequence[str] = ALL
    blocks: int = 2


SOME = (
    Part(_EDS[1_000], (500,), blocks=BLOCKS),
    Part(_CDS[1_000], (500,), blocks=BLOCKS),
    Part(_EDS[1_000], (1, 10, 100)),
    Part(_EDS[10], (1, 500, 5_000), (ISTHMUS, LINEAR)),
    Part(_DELTA[1_000], (500,)),
    Part(_EDS[10_000], (100,), (ISTHMUS, LINEAR)),
    Part(_TLS, (500,), (ISTHMUS, LINEAR)),
)
"""What is measured by default."""

FULL = (
    Part(_EDS[1_000], (1, 10, 100, 500, 5_000), EVERY, BLOCKS),
    Part(_CDS[1_000], (1, 10, 100, 500), EVERY, BLOCKS),
    *(Part(shape, (1, 10, 100, 500, 5_000), EVERY) for shape in (_EDS[10], _DELTA[1_000])),
    *(Part(shape, (1, 10, 100, 500), EVERY) for shape in (_EDS[10_000], _DELTA[10_000])),
    Part(_CDS[1_000], (5_000,), (ISTHMUS, LINEAR)),
    Part(_CDS[10_000], (1, 10, 100), EVERY),
    Part(_CDS[10_000], (500,), (ISTHMUS, LINEAR)),
    Part(_TLS, (1, 10, 100, 500), (ISTHMUS, LINEAR)),
)
"""The whole matrix (`BENCH_LONG=1`). Not in it: what would take minutes per change or tens of GB."""

CPU = "us of CPU per push, acknowledgement included"


async def run() -> list[Row]:
    """All of it, in about eight minutes (`BENCH_LONG=1`: the whole matrix, in 40); the rows."""
    parts = FULL if os.environ.get("BENCH_LONG") == "1" else SOME
    async with open_place() as place:
        rows = await connects(place)
        cells: dict[tuple[str, int], dict[str, Cell]] = {}
        for part in parts:
            cells |= await measure(part, place)
        rows += ratios(cells)
        rows += await loop.costs(place)
        rows += await churn.churn(place)
        for (shape, number), found in cells.items():
            rows += [row for label, cell in found.items() for row in to_rows(label, shape, number, cell)]
    return rows


@asynccontextmanager
async def open_place() -> AsyncGenerator[Place, None]:
    """A real etcd, the proxies, and what else all shapes share."""
    # Thousands of connections; children inherit it.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-bench-")))
        node = directory / "small"
        node.write_bytes(Node(cluster="bench", user_agent_name="envoy").SerializeToString())
        program = go_program()
        # Without it, the disk is measured.
        etcd = await Etcd.start_one(directory / "etcd", options=["--unsafe-no-fsync"])
        stack.callback(etcd.stop)
        keys = await stack.enter_async_context(Keys(etcd.address))
        load = await stack.enter_async_context(Program([program, "load"], directory / "load.log"))
        yield Place(directory, etcd.address, keys, load, node, make_certificate(directory))


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    certificate, key = directory / "tls.pem", directory / "tls.key"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    argv = ["openssl", "req", "-x509", *options, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
    return certificate, key


async def measure(part: Part, place: Place) -> dict[tuple[str, int], dict[str, Cell]]:
    """The cells of one line, by shape and number of proxies, and then by server."""
    cells: dict[tuple[str, int], dict[str, Cell]] = {}
    directory = place.directory / f"{part.shape.name}-{part.numbers[0]}"
    async with start(part.servers, part.shape, place, directory) as servers:
        for number in part.numbers:
            found = await compare(part.shape, servers, place, number, part.blocks)
            cells[part.shape.name, number] = found
            for label, cell in found.items():
                text = f"{cell.cpu:.1f} us, p50 {cell.p50:.1f}, p99 {cell.p99:.1f} ms, {cell.bytes_per_push:.0f} bytes"
                say(f"  {part.shape.name} x {number} {label}: {text} ({len(cell.last_ms)} changes)")
    return cells


async def connects(place: Place) -> list[Row]:
    """All proxies at once, and what an idle one costs."""
    shape = _EDS[10]
    real = msgspec.structs.replace(place, node=await crowd.real_node(shape, place))
    size = real.node.stat().st_size
    say(f"{crowd.CROWD} proxies at once; then the same with Envoy's own node, {size} bytes")
    found = await crowd.connect((ISTHMUS, LINEAR), shape, place, CONNECTS)
    with_node = await crowd.connect((ISTHMUS, LINEAR, PLAIN), shape, real, 1)
    isthmus, linear = (statistics.median(found[label].seconds) for label in (ISTHMUS, LINEAR))
    kb = {label: with_node[label].kb[0] for label in with_node}
    say(f"  {isthmus:.1f} s, go-control-plane {linear:.1f} s; {with_node}")
    envoy = f"node of a real Envoy, {size} bytes"
    idle = f"KiB per idle stream, {crowd.CROWD} of them, {envoy}"
    peer = f"go-control-plane LinearCache: {linear:.2f} s, measured in the same run"
    others = (
        f"grpc.aio with a server that keeps nothing: {kb[PLAIN]:.1f}; go-control-plane LinearCache: {kb[LINEAR]:.1f}"
    )
    slower = with_node[ISTHMUS].seconds[0] / with_node[LINEAR].seconds[0]
    small = "KiB per idle stream, node of 20 bytes"
    return [
        at_most("push.kb_per_stream", kb[ISTHMUS], idle, 48, others),
        at_most("push.connect_5000_over_linear", isthmus / linear, "times", 2.2, peer),
        figure("push.connect_5000_s", isthmus, "s until all are connected and configured", peer),
        figure("push.connect_5000_real_node_over_linear", slower, f"times, {envoy}"),
        *(figure(f"push.{label}.kb_per_stream", kb[label], idle) for label in kb),
        *(
            figure(f"push.{label}.kb_per_stream_small_node", statistics.median(found[label].kb), small)
            for label in found
        ),
    ]


def ratios(cells: dict[tuple[str, int], dict[str, Cell]]) -> list[Row]:
    """Those that have a target; medians of turns that the servers took one after the other."""
    eds, cds = cells["eds1000", 500], cells["cds1000", 500]
    return [
        _ratio("push.eds1000_cpu_over_linear", eds, LINEAR, 1.7),
        _ratio("push.eds1000_cpu_over_snapshot", eds, SNAPSHOT, 0.35),
        _ratio("push.cds1000_cpu_over_linear", cds, LINEAR, 0.3),
    ]


def _ratio(name: str, cells: dict[str, Cell], other: str, target: float) -> Row:
    ours, theirs = cells[ISTHMUS].cpu, cells[other].cpu
    peer = f"go-control-plane {other}: {theirs:.1f} us per push, Isthmus {ours:.1f}"
    return at_most(name, ours / theirs, "times the CPU per push, 500 proxies", target, peer)


def to_rows(label: str, shape: str, number: int, cell: Cell) -> list[Row]:
    """The rows of one cell."""
    name = f"push.{label}.{shape}.n{number}"
    last = f"ms until the last proxy has it, {len(cell.last_ms)} changes"
    return [
        figure(f"{name}.cpu_us", cell.cpu, CPU),
        figure(f"{name}.p50_ms", cell.p50, last),
        figure(f"{name}.p99_ms", cell.p99, last),
        figure(f"{name}.per_s", cell.per_s, "pushes/s, one change after another"),
        figure(f"{name}.bytes", cell.bytes_per_push, "bytes per push"),
    ]
