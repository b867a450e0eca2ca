"""Programs on a machine that ask the agent's DNS as they ask any: through the C library, with resolv.conf or dnsmasq between."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncquery
import dns.message
import dns.rcode
import pytest
from dns.message import Message

from isthmus.agent.dns.saved import Held, Saved
from isthmus.cli.agent_dns import app
from tests.servers import dns_program
from tests.servers.bridge import BridgeProcess
from tests.servers.netns import Machine, network
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.servers.scripted_dns import ScriptedDns, knows
from tests.unit.agent.dns.test_names import mk_resource
from tests.unit.agent.dns.world import records
from tests.wait import eventually

SHARED = "127.64.0.1"
OURS = "127.0.0.15"
PROGRAM = Path(dns_program.__file__)
LOOKUP = """
import socket, sys
try:
    found = socket.getaddrinfo(sys.argv[1], None, type=socket.SOCK_STREAM)
except socket.gaierror as e:
    print(e.args[1])
else:
    print(*sorted({a[4][0] for a in found}))
"""


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    with network("vm", "upstream") as (vm, upstream):
        yield vm, upstream


@pytest.fixture
async def upstream(machines: tuple[Machine, Machine]) -> AsyncGenerator[ScriptedDns, None]:
    """The DNS that the machine had before, on another machine."""
    async with ScriptedDns(knows(www_example="198.18.2.80", other_corp_example="198.18.2.9"), machines[1]) as upstream:
        yield upstream


class Vm:
    """A machine with a resolv.conf of its own and the agent's DNS, which knows some names from its last run."""

    def __init__(self, machine: Machine, root: Path, upstream: str) -> None:
        self.machine = machine
        self.root = root
        self.resolv_conf = root / "etc/resolv.conf"
        self.resolv_conf.parent.mkdir(parents=True)
        self.resolv_conf.write_text(f"nameserver {upstream}\nsearch corp.example\noptions timeout:1 attempts:1\n")
        names = dict.fromkeys(("reviews.default.mesh", "reviews", "reviews.service.consul", "*.shop.example"), SHARED)
        Saved(root).save({"reviews.default.mesh": Held("1", mk_resource(names, {"http": 9080}))})

    def setup(self, mode: str, listen: str, *words: str) -> None:
        """`isthmus agent dns-setup`, for the file system of the machine."""
        options = ["--mode", mode, "--listen", listen, "--root", str(self.root), *words]
        app(options, exit_on_error=False, result_action="return_value")

    def mount(self) -> None:
        """What is in `root` now is what programs on the machine see."""
        self.machine.run("mount", "--bind", self.resolv_conf, "/etc/resolv.conf")

    @asynccontextmanager
    async def agent(self, bridge: str = "127.0.0.1:1", **section: object) -> AsyncGenerator[Process, None]:
        """The agent's DNS, by default with a bridge that is not there."""
        # -P: or the modules beside it are taken for libraries
        argv = (sys.executable, "-P", PROGRAM, self.root, bridge, json.dumps(section))
        agent = Process(self.machine.command(*argv), self.root / "agent.log")
        agent.start()
        try:
            await eventually(lambda: "ready" in agent.output(), "it answers", 20)
            yield agent
        finally:
            agent.kill()

    def lookup(self, name: str) -> str:
        """What a program is told, through getaddrinfo."""
        return self.machine.run(sys.executable, "-c", LOOKUP, name).strip()

    def getent(self, name: str) -> str:
        """The same, through another program; its address, or nothing."""
        argv = self.machine.command("getent", "ahostsv4", name)
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        return done.stdout.split()[0] if done.stdout else ""


@pytest.fixture
def vm(machines: tuple[Machine, Machine], tmp_path: Path) -> Vm:
    return Vm(machines[0], tmp_path, machines[1].address)


async def run(function: object, *arguments: str) -> str:
    """In a thread, for the upstream is in this process."""
    return await asyncio.to_thread(function, *arguments)  # type: ignore[arg-type]


async def test_resolv_conf(vm: Vm, upstream: ScriptedDns) -> None:
    """Names of the mesh and others, the upstream's death, the agent's death, and the machine as it was."""
    before = vm.resolv_conf.read_bytes()
    vm.setup("resolv.conf", f"{OURS}:53", "--write")
    vm.mount()
    async with vm.agent(listen=[f"{OURS}:53"], timeout="200ms"):
        for name in (
            "reviews",
            "reviews.default.mesh",
            "reviews.service.consul",
            "a.shop.example",
            "reviews.corp.example",
        ):
            assert await run(vm.lookup, name) == SHARED
            assert await run(vm.getent, name) == SHARED
        assert await run(vm.lookup, "www.example") == "198.18.2.80"
        assert await run(vm.lookup, "other") == "198.18.2.9"
        assert "not known" in await run(vm.lookup, "gone.default.mesh")
        assert not [n for n in upstream.names if n.endswith("mesh.")]

        upstream.silent = True
        assert await run(vm.lookup, "www.example") != "198.18.2.80"
        assert await run(vm.lookup, "reviews") == SHARED
        upstream.silent = False
        await eventually(lambda: run_is(vm, "www.example", "198.18.2.80"), "the upstream is asked again")

    assert await run(vm.lookup, "www.example") == "198.18.2.80"
    vm.setup("resolv.conf", f"{OURS}:53", "--undo")
    assert vm.resolv_conf.read_bytes() == before


async def run_is(vm: Vm, name: str, address: str) -> bool:
    return await run(vm.lookup, name) == address


async def test_dnsmasq(vm: Vm, upstream: ScriptedDns) -> None:
    """A dnsmasq asks the agent for the mesh's names, and the agent asks that dnsmasq for all others: no question goes round."""
    vm.setup("dnsmasq", "127.0.0.1:15053", "--domain", "service.consul", "--write")
    vm.resolv_conf.write_text("nameserver 127.0.0.1\nsearch corp.example\n")
    vm.mount()
    snippet = vm.root / "etc/dnsmasq.d/isthmus.conf"
    options = (
        *(
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            f"--conf-dir={snippet.parent}",
            "--pid-file=",
            "--user=root",
        ),
        *("--no-resolv", "--no-hosts", f"--server={upstream.address.host}", "--bind-interfaces", "--stop-dns-rebind"),
        *("--group=root", "--listen-address=127.0.0.1", "--log-facility=-"),
    )
    dnsmasq = Process(vm.machine.command(peer_binary("debian", "dnsmasq"), *options), vm.root / "dnsmasq.log")
    async with vm.agent() as agent:
        dnsmasq.start()
        try:
            await eventually(lambda: run_is(vm, "www.example", "198.18.2.80"), f"dnsmasq answers: {dnsmasq.output()}")
            for name in ("reviews", "reviews.default.mesh", "reviews.service.consul"):
                assert await run(vm.lookup, name) == SHARED
            began = time.monotonic()
            for name in ("typo", "gone.default.mesh", "gone.service.consul", "gone.example"):
                assert "not known" in await run(vm.lookup, name)
            assert time.monotonic() - began < 5
            assert "dns.upstream_down" not in agent.output()
            assert not [n for n in upstream.names if n.endswith("mesh.")]
        finally:
            dnsmasq.stop()


async def test_names_of_a_real_bridge(tmp_path: Path) -> None:
    """They come, change and go; without the bridge they stay, also over a restart of the agent."""
    services = tmp_path / "services.yaml"

    def write(*names: str) -> None:
        instance = {"address": "127.0.0.1", "ports": {"http": 9081}}
        port = {"name": "http", "number": 9080, "protocol": "http"}
        services.write_text(
            json.dumps({"services": [{"name": name, "ports": [port], "instances": [instance]} for name in names]})
        )

    write("reviews", "ratings")
    bridge = BridgeProcess(tmp_path / "bridge", [{"name": "local", "type": "file", "path": str(services)}], free_port())
    bridge.start()
    world = Asking(tmp_path, bridge.xds)
    try:
        await bridge.ready()
        async with world.agent():
            await eventually(lambda: world.addresses("reviews"), "names come")
            for name in ("reviews", "reviews.default", "reviews.default.mesh", "ratings"):
                assert await world.addresses(name) == [SHARED]
            assert await world.addresses("reviews.default.mesh", "AAAA") == []
            assert await world.addresses("_http._tcp.reviews", "SRV") == ["0 0 9080 reviews."]
            assert await world.addresses("details") == []

            write("reviews", "details")
            await eventually(lambda: world.addresses("details"), "a name comes")
            await eventually(lambda: world.is_gone("ratings"), "a name goes")

            bridge.kill()
            assert await world.addresses("details") == [SHARED]
        async with world.agent():
            assert await world.addresses("details") == [SHARED]
            assert await world.is_gone("ratings")
            write("ratings")
            bridge.start()
            await eventually(lambda: world.addresses("ratings"), "the bridge is followed again", 30)
            assert await world.is_gone("details")
    finally:
        bridge.stop()


class Asking:
    """The agent's DNS on loopback, and questions to it."""

    def __init__(self, directory: Path, bridge: str) -> None:
        self._directory = directory
        self._bridge = bridge
        self._port = free_port()

    @asynccontextmanager
    async def agent(self) -> AsyncGenerator[Process, None]:
        # It has no upstream, so that what it knows is the mesh's.
        section = json.dumps({"listen": [f"127.0.0.1:{self._port}"], "upstream": ["127.0.0.1:1"]})
        log = self._directory / f"agent-{time.monotonic_ns()}.log"
        agent = Process([sys.executable, "-P", PROGRAM, self._directory / "agent", self._bridge, section], log)
        agent.start()
        try:
            await eventually(lambda: "ready" in agent.output(), "it answers", 20)
            yield agent
        finally:
            agent.stop()

    async def ask(self, name: str, kind: str = "A") -> Message:
        return await dns.asyncquery.udp(dns.message.make_query(name, kind), "127.0.0.1", 5, self._port)

    async def addresses(self, name: str, kind: str = "A") -> list[str]:
        return records(await self.ask(name, kind))

    async def is_gone(self, service: str) -> bool:
        return (await self.ask(f"{service}.default.mesh")).rcode() == dns.rcode.NXDOMAIN
