"""A Consul that shows less and less to the bridge's token: that is no reason to take anything from Envoy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.bridge.config import ConsulRegistry
from tests.fault.served import NOTICED, RECOVERED, served
from tests.servers.consul import Consul
from tests.wait import eventually

SECRET = "7c0f9a52-3b2f-4d0e-9a55-0d8e6f1f2b33"  # noqa: S105 - of a server that lives for one test
NODES, SERVICES, OTHERS = 'node_prefix ""', 'service_prefix ""', 'service_prefix "other"'


@pytest.fixture
async def consul(tmp_path: Path) -> AsyncIterator[Consul]:
    consul = await Consul.start_with_acls(tmp_path / "consul")
    yield consul
    consul.stop()


async def mk_policy(consul: Consul) -> str:
    """A policy without rights; its id."""
    return str((await consul.put("/v1/acl/policy", {"Name": "bridge", "Rules": ""}))["ID"])


async def allow(consul: Consul, policy: str, *what: str) -> None:
    """These may be read, and nothing else any more."""
    rules = " ".join(f'{w} {{ policy = "read" }}' for w in what)
    await consul.put(f"/v1/acl/policy/{policy}", {"Name": "bridge", "Rules": rules})


async def mk_token(consul: Consul) -> str:
    """The bridge's token; its accessor."""
    token = await consul.put("/v1/acl/token", {"SecretID": SECRET, "Policies": [{"Name": "bridge"}]})
    return str(token["AccessorID"])


async def test_a_token_loses_its_rights_and_is_deleted_and_comes_back(consul: Consul, tmp_path: Path) -> None:
    """First answers are filtered, with status 200, then refused with 403; requests through Envoy go on all the time."""
    policy = await mk_policy(consul)
    await allow(consul, policy, SERVICES, NODES)
    accessor = await mk_token(consul)
    registry = ConsulRegistry(name="consul", address=consul.address, token=SECRET, heartbeat=0.5)
    async with served(tmp_path, registry, hold=0.5) as world:
        one, two = await world.upstream("one"), await world.upstream("two")
        await consul.register("web", "one", port=one.port, meta={"port": "80"})
        await consul.register("api", "api", port=one.port, meta={"port": "80"})
        await eventually(lambda: world.ports("web") == {one.port}, "it is known", NOTICED)
        await world.start_envoy()
        async with world.load("web.default.mesh") as load, world.load("api.default.mesh"):
            await allow(consul, policy, OTHERS, NODES)
            await eventually(lambda: "web" in world.status.doubt, "absence proves nothing", NOTICED)
            assert len(world.bridge.hub.holds) == 2, "held for as long as the doubt lasts, which is longer than `hold`"
            assert world.ports("web") == {one.port}

            await consul.request("DELETE", f"/v1/acl/token/{accessor}")
            error = await world.until_stale("403")
            assert SECRET not in error
            assert world.ports("web") == {one.port}

            await allow(consul, policy, SERVICES, NODES)
            await consul.register("web", "two", port=two.port, meta={"port": "80"})
            await mk_token(consul)
            await world.until_current()
            await eventually(lambda: load.answers["two"], "the instance that came meanwhile serves", RECOVERED)
            await eventually(lambda: not world.bridge.hub.holds and not world.status.doubt, "nothing is in doubt")
