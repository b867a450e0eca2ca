"""The Debian packages, built from this checkout and installed as docs/vm.md says, on a Debian with a systemd of its own."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml

from tests.servers.consul import MANAGEMENT_TOKEN, Consul
from tests.servers.town import ISTHMUS, SHARED, Town, blocks, build_packages, open_town
from tests.servers.upstream import Upstream, constant_load, get
from tests.wait import eventually

pytestmark = pytest.mark.timeout(600)
"""The packages are built first."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the page's command builds."""
    return build_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    """The bridge runs, and the VM is booted."""
    async with open_town(tmp_path) as town:
        yield town


async def test_a_vm_joins_and_leaves_as_the_page_says(town: Town, packages: Path) -> None:
    """Calls in both directions by name, with no more rights than needed; after purge, everything is as it was before."""
    before, rules = town.files(), town.rules()

    town.copy(*packages.glob("*.deb"), *town.bundle().iterdir())
    join, use = blocks("On the VM")
    readme = (town.system.root / "root/vm-1/README.md").read_text()
    for line in join.splitlines()[:3]:
        assert line in readme
    install, rest = join.split("\n", 1)
    await town.do(install)
    states = town.system.run("systemctl", "is-active", "isthmus-agent", "isthmus-intercept", "isthmus", check=False)
    assert states.split() == ["inactive"] * 3

    await town.do(rest)
    status = dict(
        re.findall(r"^(\w+):\s+(.*)$", town.system.run("cat", f"/proc/{town.main_pid()}/status"), re.MULTILINE)
    )
    user = town.system.run("id", "-u", "isthmus-proxy").strip()
    assert status["Uid"].split() == [user] * 4
    assert {status[s] for s in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {f"{1 << 10:016x}"}
    (envoy,) = town.envoys()
    assert town.system.run("stat", "-c", "%u", f"/proc/{envoy}").strip() == user

    async def called() -> bool:
        return await town.call() == (200, "reviews")

    await eventually(called, "the VM's service is called through its proxy")
    assert "ratings" in (await town.do(use)).splitlines()

    await town.do(blocks("Back")[0])
    assert town.envoys() == []
    assert town.rules() == rules
    left = town.files()
    assert {path: (before.get(path), left.get(path)) for path in before.keys() ^ left.keys()} == {}
    assert {path: (before[path], left[path]) for path in before if before[path] != left[path]} == {}
    assert town.hub.run(ISTHMUS, "workloads", "-o", "json").strip() == "[]"


async def test_neither_a_crash_nor_an_upgrade_fails_a_request(town: Town, packages: Path) -> None:
    """In either direction: systemd starts the agent again, the new package another one, and Envoy is the same throughout."""
    newer = upgraded(packages, town.directory)
    await town.join(packages)
    (envoy,) = town.envoys()
    async with (
        constant_load(9080, "reviews:9080", address=town.vm.address, machine=town.hub) as inbound,
        constant_load(8080, "ratings:8080", address=SHARED, machine=town.vm) as outbound,
    ):
        first = town.main_pid()
        town.system.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "isthmus-agent")
        await eventually(lambda: inbound.recent()["reviews"] > 20, "Envoy goes on alone", every=0.2)
        await eventually(lambda: town.main_pid() not in (first, "0"), "systemd starts the agent again", 20, every=0.2)
        await town.do("isthmus agent wait --for ready,registered,dns --timeout 30s")

        second = town.main_pid()
        town.copy(newer)
        await town.do("rm isthmus_0*.deb\napt-get install ./isthmus_9.0.0_*.deb")
        await eventually(lambda: town.main_pid() not in (second, "0"), "the new one runs", 20, every=0.2)
        await town.do("isthmus agent wait --for ready,registered,dns --timeout 30s")
        inbound.recent()
        outbound.recent()
        await eventually(lambda: inbound.recent()["reviews"] and outbound.recent()["ratings"], "calls go on", every=0.3)
    assert (inbound.failures, outbound.failures) == ([], [])
    assert town.envoys() == [envoy]
    assert town.system.run("dpkg-query", "--show", "--showformat=${Version}", "isthmus") == "9.0.0"


def upgraded(packages: Path, directory: Path) -> Path:
    """The package once more, of a higher version."""
    (package,) = packages.glob("isthmus_*.deb")
    tree = directory / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(re.sub(r"^Version: .*$", "Version: 9.0.0", control.read_text(), flags=re.MULTILINE))
    made = directory / f"isthmus_9.0.0_{package.stem.rpartition('_')[2]}.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "--root-owner-group", "-b", tree, made], check=True, capture_output=True)
    shutil.rmtree(tree)
    return made


async def test_interception_by_its_unit(town: Town, packages: Path) -> None:
    """Its rules are there while the agent is meant to run, also while a crash is mended, and go before Envoy does."""
    before = town.rules()
    await town.join(packages)
    file = town.system.root / "etc/isthmus/agent.yaml"
    file.write_text("interceptionMode: REDIRECT\nterminationDrainDuration: 10s\n" + file.read_text())
    enable, disable = blocks("Interception")
    await town.do(enable)
    with_rules = town.rules()
    assert with_rules != before

    async def answered() -> bool:
        return await get(8080, "unknown.example", town.hub.address, machine=town.vm) == (200, "ratings")

    await eventually(answered, "a call that knows of no names passes")
    clusters = await town.do(
        "curl 'http://127.0.0.1:15000/stats?filter=PassthroughCluster.upstream_cx_total|virtualOutbound|cx_total'"
    )
    assert re.search(r"^cluster\.PassthroughCluster\.upstream_cx_total: [1-9]", clusters, re.MULTILINE), clusters
    assert await town.call() == (200, "reviews")

    async with constant_load(9080, "reviews:9080", address=town.vm.address, machine=town.hub) as load:
        first = town.main_pid()
        town.system.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "isthmus-agent")
        await eventually(lambda: town.main_pid() not in (first, "0"), "systemd starts the agent again", 20, every=0.2)
        await town.do("isthmus agent wait --timeout 30s")
        load.recent()
        await eventually(lambda: load.recent()["reviews"], "calls go on", every=0.2)
    assert load.failures == []
    assert town.rules() == with_rules

    async with constant_load(8080, "ratings:8080", address=SHARED, machine=town.vm) as load:
        stopping = asyncio.create_task(town.do("systemctl stop isthmus-agent"))
        await eventually(town.draining, "callers are asked away", 20, every=0.2)
        load.recent()
        await eventually(lambda: load.recent()["ratings"], "calls from here go on meanwhile", every=0.2)
        assert (load.failures, town.rules()) == ([], with_rules)
    await stopping
    assert town.rules() == before
    await town.do("systemctl start isthmus-agent")
    await eventually(lambda: town.rules() == with_rules, "the next start brings them back", 60, every=0.5)
    await town.do(disable)
    assert town.rules() == before


def _settings(**more: object) -> dict[str, object]:
    return {
        "discoveryAddress": "isthmus.example.com:15010",
        "configPath": "/tmp/state",
        "terminationDrainDuration": "10ms",
        "services": [{"name": "reviews", "ports": [{"name": "http", "port": 9070, "target": "127.0.0.1:9080"}]}],
    } | more


AGENT, CHECK = "isthmus agent --config FILE", "isthmus agent --config FILE --check"
REGISTERS = (
    f"systemd-run --quiet --unit=bad --collect {AGENT}; "
    "isthmus agent wait --timeout 60s && isthmus agent wait --for registered --timeout 2s"
)
INTERCEPT = "isthmus intercept --config FILE --proxy-uid isthmus-proxy"
AS_PROXY = f"setpriv --reuid isthmus-proxy --regid isthmus-proxy --clear-groups {INTERCEPT}"
BAD_TOKEN = "b1c4e5a0-0000-4000-8000-000000000000"  # noqa: S105 - one that no Consul has

BAD = {
    "unknown registry": (_settings(registration={"type": "zookeeper"}), CHECK, "zookeeper"),
    "registry that is not there": (
        _settings(registration={"type": "consul", "address": "http://HUB:1"}),
        REGISTERS,
        "reviews-vm: .*http://HUB:1.*Connect call failed",
    ),
    "bad token": (
        _settings(registration={"type": "consul", "address": "CONSUL", "token": BAD_TOKEN}),
        REGISTERS,
        "reviews-vm: .*(403|ACL|ermission)",
    ),
    "port taken": (
        _settings(services=[{"name": "reviews", "ports": [{"name": "http", "port": 9081}]}]),
        AGENT,
        "inbound_9081 cannot listen on VM port 9081: Address already in use",
    ),
    "no Envoy": (_settings(binaryPath="/opt/envoy"), AGENT, "/opt/envoy is no program: install Envoy"),
    "no rights": (_settings(interceptionMode="REDIRECT"), AS_PROXY, "CAP_NET_ADMIN.*: run it as root"),
    "half a bundle": (None, AGENT, "the last line.* is missing; copy the bundle again"),
}
"""The settings (none: a part of a bundle), what is run with them, and what is said."""


async def test_what_cannot_work_is_said_in_a_sentence(town: Town, packages: Path) -> None:
    """By the installed command, with an exit status that is not 0 and without a secret; the machine stays as it was."""
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": MANAGEMENT_TOKEN}}
    consul = Consul(town.directory / "consul", {"acl": acl}, MANAGEMENT_TOKEN, town.hub)
    taken = Upstream("other", 9081, town.vm, town.vm.address)
    async with AsyncExitStack() as stack:
        consul.start()
        stack.callback(consul.stop)
        await consul.ready()
        await taken.start()
        stack.push_async_callback(taken.stop)
        await town.join(packages)
        await town.do("systemctl stop isthmus-agent")
        before, rules = town.files(), town.rules()
        places = {"HUB": town.hub.address, "VM": town.vm.address, "CONSUL": consul.address, "FILE": "/tmp/agent.yaml"}
        said = {}
        for name, (settings, command, expected) in BAD.items():
            text = (
                yaml.safe_dump(settings) if settings else (town.system.root / "root/vm-1/agent.yaml").read_text()[:300]
            )
            town.system.write("/tmp/agent.yaml", _placed(text, places))
            output = await town.do(
                f"({_placed(command, places)}) 2>&1 || echo status $?\nsystemctl stop bad 2>&1 || true"
            )
            sentences = [line for line in output.splitlines() if line.startswith("isthmus: ")]
            as_expected = len(sentences) == 1 and re.search(_placed(expected, places), sentences[0])
            ended = re.search(r"^status [1-9]", output, re.MULTILINE)
            if not as_expected or not ended or BAD_TOKEN in output or town.envoys():
                said[name] = output
        assert said == {}
        assert town.files() == before
        assert town.rules() == rules


def _placed(text: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(name, value)
    return text
