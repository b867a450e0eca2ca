"""The quick start, as a user runs it: Docker, the compose file of the repository, and images built from the checkout."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests import peers
from tests.servers.docker import Docker, docker_machine
from tests.servers.peers import peer_binary
from tests.servers.upstream import Load, constant_load
from tests.wait import eventually

pytestmark = pytest.mark.timeout(600)

GATEWAY, BRIDGE, PROMETHEUS = 8080, 15014, 9090
ALONE = ("--server.port=8761", "--eureka.client.register-with-eureka=false", "--eureka.client.fetch-registry=false")
"""A Eureka that is all of its cluster."""
STREAMS = 2
"""Requests that are under way at any time."""
NOTICED = 60
"""Seconds within which anything that Consul and the containers go through is over."""


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A daemon with the images that the compose file names."""
    with docker_machine(tmp_path_factory.mktemp("docker")) as docker:
        asyncio.run(docker.start())
        docker.import_base()
        docker.image_of("envoyproxy/envoy:v1.40.0", peer_binary("envoy", "1.40.0"), "/usr/local/bin/envoy")
        consul = peer_binary("consul", peers.CONSUL)
        docker.image_of("hashicorp/consul:1.21", consul, "/usr/local/bin/consul", "consul")
        prometheus = peer_binary("prometheus", peers.PROMETHEUS)
        docker.image_of(f"prom/prometheus:v{peers.PROMETHEUS}", prometheus, "/usr/local/bin/prometheus", "prometheus")
        docker.image_of("quay.io/coreos/etcd:v3.6.5", peer_binary("etcd", "3.6.5"), "/usr/local/bin/etcd")
        eureka = with_java(
            peer_binary("eureka", peers.EUREKA).with_name("eureka.jar"), tmp_path_factory.mktemp("eureka")
        )
        docker.image_of(
            "steeltoeoss/eureka-server:4.1.1",
            eureka,
            "/opt",
            "/opt/jre/bin/java",
            "-Xmx256m",
            "-jar",
            "/opt/eureka.jar",
            *ALONE,
        )
        docker.build("isthmus", "isthmus:dev", docker.sources)
        docker.build("agent", "isthmus-agent:dev", docker.sources)
        docker.build("intercept", "isthmus-intercept:dev", docker.sources)
        yield docker


@pytest.fixture(scope="module")
def stack(docker: Docker) -> Iterator[Docker]:
    """All of it up, and every health check passed: the first command of the README."""
    docker.compose("up", "--wait", "--no-build", "--quiet-pull", timeout=300)
    yield docker
    docker.compose("down", "--volumes", "--timeout", "5")


def with_java(jar: Path, into: Path) -> Path:
    """A folder with the jar and as much of this machine's Java as it takes: the base image has none."""
    modules = "--add-modules=java.se,jdk.unsupported,jdk.crypto.ec,jdk.management"
    small = ("--strip-debug", "--no-header-files", "--no-man-pages")
    subprocess.run(["jlink", modules, *small, f"--output={into}/jre"], check=True, capture_output=True)
    shutil.copy(jar, into)
    return into


def load(docker: Docker) -> AbstractAsyncContextManager[Load]:
    """Pages through the gateway."""
    return constant_load(GATEWAY, "productpage", STREAMS, machine=docker.machine)


async def get(docker: Docker, port: int, path: str) -> Any:
    """The JSON that a published port answers with."""
    connector = aiohttp.TCPConnector(socket_factory=docker.machine.socket)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as session,
        session.get(f"http://127.0.0.1:{port}{path}") as answer,
    ):
        answer.raise_for_status()
        return await answer.json()


def versions(load: Load) -> set[str]:
    """The versions of reviews that pages came with since the last call."""
    return {json.loads(page)["reviews"]["version"] for page in load.recent()}


def test_self_test(stack: Docker) -> None:
    """Whole pages come through the gateway, with reviews of all three versions."""
    assert "30 pages through front:8080, all whole" in stack.compose("run", "--rm", "--no-deps", "self-test")


def test_published_ports(stack: Docker) -> None:
    """Everything that is published is on loopback."""
    containers = stack.docker("ps", "--quiet").split()
    described = json.loads(stack.docker("inspect", *containers))
    addresses = {
        binding["HostIp"]
        for container in described
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or ()
    }

    assert addresses == {"127.0.0.1"}


def test_nobody_is_root(stack: Docker) -> None:
    """Our own images run as a user of their own, and nothing was given a capability."""
    described = json.loads(stack.docker("inspect", *stack.docker("ps", "--quiet").split()))
    own = [c for c in described if c["Config"]["Image"].startswith("isthmus")]

    assert own
    assert {c["Config"]["User"] for c in own} == {"isthmus"}
    assert [c["Name"] for c in own if c["HostConfig"]["CapAdd"] or c["HostConfig"]["Privileged"]] == []


async def test_a_killed_service(stack: Docker) -> None:
    """One of three reviews is killed under load, machine and all: what was in flight to it is lost with it, and nothing else."""
    async with load(stack) as pages:
        await eventually(lambda: versions(pages) == {"v1", "v2", "v3"}, "all versions answer", NOTICED, every=0.5)
        await asyncio.to_thread(stack.compose, "kill", "reviews-v3")
        await eventually(lambda: versions(pages) == {"v1", "v2"}, "the others answer alone", NOTICED, every=0.5)
        await asyncio.to_thread(stack.compose, "up", "--wait", "--no-build", "--no-deps", "reviews-v3")
        await asyncio.to_thread(
            stack.compose, "up", "--wait", "--no-build", "--no-deps", "--force-recreate", "reviews-v3-sidecar"
        )
        await eventually(lambda: "v3" in versions(pages), "it is back", NOTICED, every=0.5)
    assert len(pages.failures) <= STREAMS, pages.failures


async def test_a_killed_bridge(stack: Docker) -> None:
    """Without the bridge everything goes on; when it is back, changes arrive again."""
    async with load(stack) as pages:
        await eventually(lambda: pages.answers, "pages come", NOTICED)
        await asyncio.to_thread(stack.compose, "kill", "isthmus")
        pages.recent()
        await eventually(lambda: pages.answers.total() > 100, "pages come without the bridge", NOTICED)
        await asyncio.to_thread(stack.compose, "up", "--wait", "--no-build", "--no-deps", "isthmus")
        await asyncio.to_thread(stack.compose, "stop", "reviews-v1-sidecar")
        await eventually(lambda: versions(pages) == {"v2", "v3"}, "the change has arrived", NOTICED, every=0.5)
        await asyncio.to_thread(stack.compose, "up", "--wait", "--no-build", "--no-deps", "reviews-v1-sidecar")
        await eventually(lambda: "v1" in versions(pages), "and the next one", NOTICED, every=0.5)
    assert pages.failures == []


async def test_prometheus(stack: Docker) -> None:
    """Prometheus reads the bridge, the gateway and every sidecar."""

    async def all_read() -> bool:
        targets = (await get(stack, PROMETHEUS, "/api/v1/targets"))["data"]["activeTargets"]
        return len(targets) == 8 and all(target["health"] == "up" for target in targets)

    await eventually(all_read, "all eight targets are up", NOTICED)


@pytest.mark.parametrize("registry", ["etcd", "eureka"])
async def test_other_registries(stack: Docker, registry: str) -> None:
    """With an overlay the sidecars register elsewhere, and pages come as before."""
    files = ("-f", "compose.yaml", "-f", f"compose.{registry}.yaml")
    up = ("up", "--wait", "--no-build", "--remove-orphans")

    async def moved() -> bool:
        services = (await get(stack, BRIDGE, "/debug/catalog"))["services"]
        origins = {s["key"]["name"]: {i["origin"] for i in s["instances"]} for s in services}
        return all(origins.get(name) == {registry} for name in ("productpage", "details", "reviews", "ratings"))

    try:
        await asyncio.to_thread(stack.compose, *files, *up)
        await eventually(moved, f"everything is known from {registry} alone", 120, every=0.5)
        said = await asyncio.to_thread(stack.compose, *files, "run", "--rm", "--no-deps", "self-test")
        assert "all whole" in said
    finally:
        await asyncio.to_thread(stack.compose, *up)


async def test_interception(stack: Docker) -> None:
    """With rules in the kernel, services that know of no proxy call each other by name."""
    files = ("-f", "compose.yaml", "-f", "compose.intercept.yaml")
    up = ("up", "--wait", "--no-build", "--remove-orphans")
    try:
        await asyncio.to_thread(stack.compose, *files, *up)
        said = await asyncio.to_thread(stack.compose, *files, "run", "--rm", "--no-deps", "self-test")
        assert "all whole" in said
    finally:
        await asyncio.to_thread(stack.compose, *up)


async def test_a_bad_address_is_named(docker: Docker, tmp_path: Path) -> None:
    """A configuration that cannot be used is one sentence and a status that is not zero."""
    config = docker.sources / "compose" / "config" / "bad.yaml"
    config.write_text("registries: [{name: consul, type: consul, address: consul:8500}]\n")
    done = docker.docker(
        *("run", "--rm", "--volume", f"{config}:/etc/isthmus.yaml:ro", "--entrypoint", "sh", "isthmus:dev"),
        *("-c", "isthmus serve -c /etc/isthmus.yaml 2>&1; echo status $?"),
    )
    config.unlink()

    assert "address" in done
    assert "status 1" in done
    assert "Traceback" not in done
