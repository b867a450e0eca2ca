"""Interception as a transaction: nothing of others is touched, whatever fails or is killed is undone, and nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isthmus.agent.intercept.config import Backend
from isthmus.agent.intercept.programs import InterceptError
from tests.e2e.intercepted import (
    BACKENDS,
    Host,
    accept,
    changes,
    close_sockets,
    connect,
    forget_probes,
    listen,
    programs,
    rules,
    speaks,
)
from tests.servers.netns import Machine, network
from tests.wait import eventually

EVERYTHING = {
    "istio_inbound_interception_mode": "TPROXY",
    "istio_inbound_ports": "*",
    "istio_service_cidr": "*",
    "capture_all_dns": True,
    "drop_invalid": True,
}
ISTHMUS = Path(sys.executable).parent / "isthmus"

FOREIGN_IPTABLES = """
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
-A FORWARD -o docker0 -j DOCKER
-A INPUT -s 10.99.0.0/16 -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports 443
COMMIT
*mangle
-A PREROUTING -p tcp -m tcp --dport 81 -j MARK --set-xmark 0x4000/0x4000
COMMIT
*raw
-A PREROUTING -p udp -m udp --dport 4789 -j CT --notrack
COMMIT
"""
FOREIGN_NFT = """
table inet firewall {
    set blocked { type ipv4_addr; elements = { 198.51.100.1 } }
    chain input {
        type filter hook input priority filter; policy accept;
        ip saddr @blocked counter drop
    }
}
table ip nat_of_somebody {
    chain output {
        type nat hook output priority -100; policy accept;
        tcp dport 8444 redirect to :443
    }
}
"""


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Machine, Machine]]:
    """A host whose connections are captured, and another one."""
    programs(monkeypatch)
    with network("host", "peer") as (host, peer):
        yield host, peer
        close_sockets()


@pytest.fixture
def host(machines: tuple[Machine, Machine], backend: Backend, tmp_path: Path) -> Host:
    return Host(machines[0], backend, tmp_path / "state")


@pytest.fixture
def peer(machines: tuple[Machine, Machine]) -> Machine:
    return machines[1]


def with_foreign_rules(machine: Machine, backend: Backend) -> None:
    """Those of a firewall and of containers, in every table, and routes by mark."""
    kind = "iptables-legacy" if backend == "iptables-legacy" else "iptables-nft"
    for prefix in ("", "6"):
        text = FOREIGN_IPTABLES if not prefix else FOREIGN_IPTABLES.replace("10.99.0.0/16", "fd99::/64")
        text = text.replace("127.0.0.0/8", "::1").replace("172.17.0.0/16", "fd17::/64") if prefix else text
        put(machine, f"ip{prefix}{kind.removeprefix('ip')}-restore", text)
    put(machine, "nft", FOREIGN_NFT, "-f", "-")
    machine.run("ip", "rule", "add", "fwmark", "0x4000/0x4000", "lookup", "77")
    machine.run("ip", "route", "add", "blackhole", "198.51.100.0/24", "table", "77")


def put(machine: Machine, program: str, text: str, *arguments: str) -> None:
    done = subprocess.run(
        machine.command(program, *arguments), input=text, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr


def with_tables(machine: Machine) -> None:
    """The kernel's old tables stay once something was in them, empty; so they are there before."""
    for prefix in ("iptables", "ip6tables"):
        for table in ("nat", "mangle", "raw"):
            machine.run(f"{prefix}-legacy", "-t", table, "-S")


def in_any_order(shown: str) -> str:
    """What is replaced may come to stand behind what was not."""
    return "\n".join(sorted(shown.splitlines()))


async def isthmus(host: Host, *words: str, start: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Runs the command on the host; its exit status and what it says."""
    process = await asyncio.create_subprocess_exec(
        *host.machine.command(*start, ISTHMUS, "intercept", *words, "--state-dir", host.directory),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def test_rules_of_others_are_the_same_meanwhile_and_afterwards(host: Host) -> None:
    with_foreign_rules(host.machine, host.backend)
    with_tables(host.machine)
    before = rules(host.machine)

    await host.apply(**EVERYTHING)
    meanwhile = rules(host.machine)
    await host.apply(istio_inbound_ports="9080", istio_service_cidr="*")
    assert await host.clean()

    assert changes(before, rules(host.machine)) == []
    kept = iter(meanwhile.splitlines())
    assert all(line in kept for line in before.splitlines()), "in the same order"
    assert meanwhile != before


async def test_a_host_without_any_rule_has_none_afterwards(host: Host) -> None:
    """Not even the empty tables that iptables-nft makes."""
    if host.backend == "iptables-legacy":
        with_tables(host.machine)
    before = rules(host.machine)

    await host.apply(**EVERYTHING)
    assert await host.clean()

    assert changes(before, rules(host.machine)) == []
    assert not await host.clean()


async def test_applying_twice_is_applying_once(host: Host) -> None:
    await host.apply(**EVERYTHING)
    once = rules(host.machine)

    await host.apply(**EVERYTHING)

    assert changes(once, rules(host.machine)) == []


async def test_a_changed_plan_takes_the_place_of_the_one_before(host: Host, tmp_path: Path) -> None:
    """As if the first had never been."""
    with_tables(host.machine)
    await host.apply(istio_inbound_ports="9080", istio_service_cidr="10.0.0.0/8")
    alone = rules(host.machine)
    await host.clean()

    await host.apply(**EVERYTHING)
    await host.apply(istio_inbound_ports="9080", istio_service_cidr="10.0.0.0/8")

    assert changes(in_any_order(alone), in_any_order(rules(host.machine))) == []


async def test_another_back_end_takes_over(host: Host) -> None:
    """What the one before had put in place is removed."""
    with_tables(host.machine)
    before = rules(host.machine)
    other: Backend = "iptables-nft" if host.backend == "nft" else "nft"
    await Host(host.machine, other, host.directory).apply(istio_service_cidr="*")
    alone = rules(host.machine)
    await host.clean()

    await host.apply(**EVERYTHING)
    await Host(host.machine, other, host.directory).apply(istio_service_cidr="*")

    assert changes(in_any_order(alone), in_any_order(rules(host.machine))) == []
    await host.clean()
    assert changes(before, rules(host.machine)) == []


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
async def test_what_is_connected_goes_on(host: Host, peer: Machine, mode: str) -> None:
    """In both directions, when rules come and when they go, on a host that tracks connections only because of them."""
    outward, inward = listen(peer, 8080), listen(host.machine, 9080)
    pairs = [
        (await connect(host.machine, (peer.address, 8080)), (await accept(outward)).connection),
        (await connect(host.machine, (peer.address6, 8080)), (await accept(outward)).connection),
        (await connect(peer, (host.machine.address, 9080)), (await accept(inward)).connection),
        (await connect(peer, (host.machine.address6, 9080)), (await accept(inward)).connection),
    ]

    await host.apply(**{**EVERYTHING, "istio_inbound_interception_mode": mode})
    assert [await speaks(*pair) for pair in pairs] == [True] * 4

    await host.clean()
    assert [await speaks(*pair) for pair in pairs] == [True] * 4


@pytest.mark.parametrize("mode", ["REDIRECT", "TPROXY"])
async def test_what_was_captured_goes_on_without_rules_where_others_translate_addresses(
    host: Host, peer: Machine, mode: str
) -> None:
    """The kernel goes on translating for a connection as long as anybody's rules make it translate at all."""
    with_foreign_rules(host.machine, host.backend)
    await host.apply(**{**EVERYTHING, "istio_inbound_interception_mode": mode})
    outward, inward = listen(host.machine, 15001), listen(host.machine, 15006, transparent=True)
    pairs = [
        (await connect(host.machine, (peer.address, 8080)), (await accept(outward)).connection),
        (await connect(peer, (host.machine.address, 9080)), (await accept(inward)).connection),
    ]

    await host.clean()

    assert [await speaks(*pair) for pair in pairs] == [True] * 2
    application = listen(host.machine, 9080)
    await connect(peer, (host.machine.address, 9080))
    await accept(application)


async def test_what_nobody_confirms_is_rolled_back(host: Host) -> None:
    """By a process of its own, whatever becomes of the one that applied it."""
    with_tables(host.machine)
    before = rules(host.machine)

    status, _, said = await isthmus(
        host, "-u", "4002", "-b", "*", "-i", "*", "--backend", host.backend, "--rollback-after", "1500ms"
    )
    assert status == 0, said
    assert "rolled back in 1500ms" in said
    assert rules(host.machine) != before

    await eventually(lambda: not host.watched(), "the watchdog has ended", 20)
    assert changes(before, rules(host.machine)) == []
    status, _, said = await isthmus(host, "confirm")
    assert (status, said) == (
        1,
        "isthmus: nothing waits for confirmation: nothing was applied, or it has been rolled back\n",
    )


async def test_a_roll_back_leads_to_what_was_confirmed(host: Host) -> None:
    with_tables(host.machine)
    await host.apply(istio_inbound_ports="9080")
    confirmed = rules(host.machine)
    interceptor = host.interceptor(**EVERYTHING, rollback_after=1)

    with host.machine.entered():
        await interceptor.apply()
    assert rules(host.machine) != confirmed

    await eventually(lambda: not host.watched(), "the watchdog has ended", 20)
    assert changes(in_any_order(confirmed), in_any_order(rules(host.machine))) == []


async def test_what_is_confirmed_stays(host: Host) -> None:
    """And the watchdog ends."""
    proxies = [listen(host.machine, port) for port in (15001, 15006)]
    status, _, said = await isthmus(
        host, "-u", "4002", "-b", "*", "-i", "*", "--backend", host.backend, "--rollback-after", "60s"
    )
    assert status == 0, said
    assert (await isthmus(host, "status"))[0] == 3
    applied = rules(host.machine)

    assert (await isthmus(host, "confirm"))[0] == 0

    await eventually(lambda: not host.watched(), "the watchdog has ended")
    assert changes(applied, rules(host.machine)) == []
    status, said, _ = await isthmus(host, "status")
    assert status == 0
    assert f"by {host.backend}\n" in said

    proxies[0].close()
    status, _, said = await isthmus(host, "status")
    assert (status, said) == (
        3,
        "isthmus: outbound: what is captured fails, for nothing listens on tcp port 15001\n",
    )


def hanging(monkeypatch: pytest.MonkeyPatch, directory: Path, program: str) -> Path:
    """On PATH, a program that hangs instead of doing its work; returns the file that it writes its process's number to."""
    directory.mkdir()
    started = directory / "started"
    script = directory / program
    script.write_text(f"#!/bin/sh\necho $$ > {started}.new; mv {started}.new {started}\nexec sleep 600\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return started


async def test_a_run_that_is_killed_in_the_middle_is_cleaned_up(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has changed routes and one family, and not the other."""
    with_tables(host.machine)
    before = rules(host.machine)
    with monkeypatch.context() as broken:
        program = "nft" if host.backend == "nft" else f"{host.backend}-restore"
        started = hanging(broken, tmp_path / "bin", program)
        process = subprocess.Popen(  # noqa: ASYNC220 - it is killed, not waited for
            host.machine.command(
                ISTHMUS, "intercept", "-u", "4002", "-m", "TPROXY", "-b", "*", "-i", "*", "--backend", host.backend,
                "--rollback-after", "10m", "--state-dir", str(host.directory),
            ),
            stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            await eventually(started.exists, "it is in the middle", 30)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=10)
            if started.exists():
                os.kill(int(started.read_text()), signal.SIGKILL)
    assert rules(host.machine) != before

    status, _, said = await isthmus(host, "clean")

    assert (status, said) == (0, "isthmus: removed all rules of ours\n")
    assert changes(before, rules(host.machine)) == []


async def test_rules_are_found_without_the_memory_of_them(host: Host, tmp_path: Path) -> None:
    """What is ours is seen in the kernel; only empty chains cannot be told from another program's."""
    with_foreign_rules(host.machine, host.backend)
    with_tables(host.machine)
    before = rules(host.machine, empty=host.backend != "iptables-nft")
    await host.apply(**EVERYTHING)

    assert await Host(host.machine, host.backend, tmp_path / "elsewhere").clean()

    assert changes(before, rules(host.machine, empty=host.backend != "iptables-nft")) == []


async def test_a_rule_of_somebody_else_that_decides_first_is_noticed(host: Host) -> None:
    """And everything is undone."""
    if host.backend == "nft":
        put(host.machine, "nft", "add table ip a; add chain ip a o { type nat hook output priority -100; }", "-f", "-")
        put(host.machine, "nft", "add rule ip a o meta l4proto tcp redirect to :9", "-f", "-")
    else:
        host.machine.run(host.backend, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    with_tables(host.machine)
    before = rules(host.machine)

    status, _, said = await isthmus(
        host, "-u", "4002", "-i", "*", "--backend", host.backend, "--probe-timeout", "300ms"
    )

    assert status == 1
    assert "an earlier rule of another program decides otherwise" in said
    assert said.count("\n") == 1
    assert changes(before, rules(host.machine)) == []


async def test_without_the_right_to_it_nothing_is_changed(host: Host) -> None:
    before = rules(host.machine)

    for words in (("-u", "4002", "-i", "*"), ("clean",)):
        status, _, said = await isthmus(host, *words, start=("setpriv", "--bounding-set=-net_admin"))
        assert (status, said) == (
            1,
            "isthmus: this process may not change the rules of this host (CAP_NET_ADMIN): run it as root\n",
        )

    assert changes(before, rules(host.machine)) == []


async def test_two_at_once_do_not_mix(host: Host) -> None:
    """Each waits for the other; what is there afterwards is one of the two plans, whole."""
    plans = (("-b", "9080,9081"), ("-m", "TPROXY", "-b", "9090"))

    done = await asyncio.gather(
        *(isthmus(host, "-u", "4002", "-i", "*", "--backend", host.backend, *p) for p in plans * 2)
    )

    assert [d[0] for d in done] == [0] * 4, done
    with host.machine.entered():
        problems = await host.interceptor().check()
    assert [p for p in problems if "nothing listens" not in p] == []


async def test_another_program_that_removes_rules_is_noticed(host: Host) -> None:
    listen(host.machine, 15001)
    interceptor = await host.apply(istio_service_cidr="*")
    with host.machine.entered():
        assert await interceptor.check() == []
    if host.backend == "nft":
        host.machine.run("nft", "flush", "ruleset")
    else:
        host.machine.run(host.backend, "-t", "nat", "-F")

    with host.machine.entered():
        (problem,) = await interceptor.check()
        assert problem.startswith("another program has removed rules: ")
        await interceptor.apply()
        assert await interceptor.check() == []


async def test_a_host_without_ipv6(host: Host, peer: Machine) -> None:
    """IPv4 is captured all the same, and it is said that IPv6 is not; where it was asked for, nothing is done."""
    host.machine.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    with_tables(host.machine)
    before = rules(host.machine)

    proxy = listen(host.machine, 15001, "127.0.0.1")
    interceptor = await host.apply(istio_service_cidr="*")
    forget_probes(proxy)

    await connect(host.machine, (peer.address, 8080))
    assert (await accept(proxy)).destination == (peer.address, 8080)
    assert interceptor.problems() == ["IPv6 is not captured: the loopback interface has no ::1"]
    await host.clean()
    assert changes(before, rules(host.machine)) == []
    with pytest.raises(ValueError, match="dualStack: IPv6 cannot be captured here"):
        await host.apply(istio_service_cidr="*", dual_stack=True)
    assert changes(before, rules(host.machine)) == []


async def test_a_routing_table_that_is_in_use_is_refused(host: Host) -> None:
    host.machine.run("ip", "route", "add", "blackhole", "198.51.100.0/24", "table", "133")
    with_tables(host.machine)
    before = rules(host.machine)

    with pytest.raises(InterceptError, match="the routing table 133 is in use by another program: choose one by -r"):
        await host.apply(**EVERYTHING)

    assert changes(before, rules(host.machine)) == []
    await host.apply(**EVERYTHING, istio_inbound_tproxy_route_table=134)


async def test_nothing_that_shows_whether_it_works(host: Host) -> None:
    """With no route there is nothing to see; that is said, or, where it must be seen, everything is undone."""
    host.machine.run("ip", "address", "flush", "dev", "eth0")
    with_tables(host.machine)
    before = rules(host.machine)
    words = ("-u", "4002", "-i", "*", "--backend", host.backend)

    status, _, said = await isthmus(host, *words, "--run-validation")
    assert status == 1
    assert "no route of this host leads to an address that is captured" in said
    assert changes(before, rules(host.machine)) == []

    status, _, said = await isthmus(host, *words)
    assert status == 0
    assert "isthmus: ipv4 could not be verified: no route of this host" in said
    assert "OUTPUT" in rules(host.machine)


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda machine: None, "nft"),
        (lambda machine: machine.run("iptables-nft", "-A", "INPUT", "-j", "ACCEPT"), "iptables-nft"),
        (lambda machine: machine.run("ip6tables-legacy", "-A", "INPUT", "-j", "ACCEPT"), "iptables-legacy"),
    ],
    ids=["nothing", "nft", "legacy"],
)
async def test_the_back_end_is_the_one_in_use(
    machines: tuple[Machine, Machine], tmp_path: Path, prepare: Callable[[Machine], object], expected: str
) -> None:
    prepare(machines[0])

    interceptor = await Host(machines[0], "nft", tmp_path / "state").apply(istio_service_cidr="*", backend="auto")

    applied = interceptor.applied()
    assert applied is not None
    assert applied.backend == expected


async def test_a_plan_is_shown_without_rights(host: Host) -> None:
    before = rules(host.machine)
    words = ("-u", "4002", "-b", "9080", "-i", "10.0.0.0/8", "-x", "10.9.0.0/16", "--dry-run")
    nobody = ("setpriv", "--bounding-set=-net_admin")

    _, sentences, _ = await isthmus(host, *words, start=nobody)
    _, document, _ = await isthmus(host, *words, "--output", "json", start=nobody)
    _, text, _ = await isthmus(host, *words, "--output", "iptables", start=nobody)
    _, table, _ = await isthmus(host, *words, "--output", "nft", start=nobody)

    assert "outbound to 10.0.0.0/8 -> 15001\nnot outbound to 10.9.0.0/16\n" in sentences
    assert json.loads(document)["plan"]["inbound"] == [9080]
    assert changes(before, rules(host.machine)) == []
    put(host.machine, "nft", table, "-c", "-f", "-")
    for kind in ("legacy", "nft"):
        put(host.machine, f"iptables-{kind}-restore", text.partition("# ipv6")[0], "--noflush", "--test")
