"""A real Eureka: Spring Cloud's server, with an API of its own for what a test does to it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests import peers
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

QUICK = {
    # Changes are seen at once, and not up to 30 s later.
    "eureka.server.use-read-only-response-cache": "false",
    "eureka.server.eviction-interval-timer-in-ms": "500",
    "eureka.server.enable-self-preservation": "false",
}
PATIENT = {"eureka.server.eviction-interval-timer-in-ms": "3600000"}
"""Never gives an instance up, so that tests need not renew."""


def find_eureka() -> Path:
    """The `eureka` program; skips the test, or fails it with ISTHMUS_PEERS=required, when there is none."""
    return peer_binary("eureka", peers.EUREKA)


class Eureka(Process):
    """One server on loopback. What it knows is lost when it ends. `peers` are the addresses of others that it replicates to."""

    def __init__(
        self, directory: Path, settings: Mapping[str, str] | None = None, peers: Sequence[str] = (), port: int = 0
    ) -> None:
        self.port = port or free_port()
        self.address = f"http://127.0.0.1:{self.port}/eureka"
        directory.mkdir(parents=True, exist_ok=True)
        options = {
            "server.address": "127.0.0.1",
            "server.port": str(self.port),
            "server.tomcat.threads.max": "8",
            "eureka.client.register-with-eureka": "false",
            "eureka.client.fetch-registry": "false",
            # Without a peer a server takes itself for one.
            "eureka.client.service-url.defaultZone": ",".join(f"{p}/" for p in peers) or "http://127.0.0.1:1/eureka/",
            "eureka.instance.hostname": f"eureka-{self.port}",
            **QUICK,
            **PATIENT,
            **(settings or {}),
        }
        argv: list[str | Path] = [find_eureka(), *(f"--{key}={value}" for key, value in options.items())]
        super().__init__(argv, directory / f"eureka-{self.port}.log")

    async def ready(self, timeout: float = 90) -> None:
        """Wait until it answers."""

        async def answers() -> bool:
            assert self.running, "it ended"
            await self.get("/apps")
            return True

        try:
            await eventually(answers, "Eureka answers", timeout=timeout, every=0.1)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.output()[-3000:]}") from e

    async def register(self, app: str, id_: str = "", **more: Any) -> None:
        """Register an instance; fields are Eureka's, `port` and `securePort` may be numbers."""
        await self.request("POST", f"/apps/{app.upper()}", mk_instance(app, id_, **more))

    async def renew(self, app: str, id_: str) -> None:
        await self.request("PUT", f"/apps/{app.upper()}/{id_}")

    async def set_status(self, app: str, id_: str, status: str) -> None:
        """Override the status of an instance, as an operator does."""
        await self.request("PUT", f"/apps/{app.upper()}/{id_}/status?value={status}")

    async def clear_status(self, app: str, id_: str, status: str = "UP") -> None:
        """Take the override back."""
        await self.request("DELETE", f"/apps/{app.upper()}/{id_}/status?value={status}")

    async def cancel(self, app: str, id_: str) -> None:
        """Deregister an instance."""
        await self.request("DELETE", f"/apps/{app.upper()}/{id_}")

    async def instances(self) -> dict[str, dict[str, Any]]:
        """All instances by id."""
        applications = (await self.get("/apps"))["applications"]["application"]
        return {i["instanceId"]: i for a in applications for i in a["instance"]}

    async def wipe(self) -> None:
        """Deregister all, without telling peers: that would reach them only after the next test has begun."""
        for id_, instance in (await self.instances()).items():
            await self.request("DELETE", f"/apps/{instance['app']}/{id_}", replication=True)

    async def get(self, path: str) -> Any:
        """A GET of its API, decoded."""
        return json.loads(await self.request("GET", path))

    async def request(self, method: str, path: str, body: Any = None, *, replication: bool = False) -> bytes:
        """One request; `replication` says that it comes from a peer, and is not to be passed on.

        Before a change the server is asked for its deltas, so that it has them ready: what changes while it makes an answer may
        be missing from it (the adapter's README), and this is no test of that.

        Raises:
            OSError: it does not listen.
            ValueError: it refused; with its reason.

        """
        if method != "GET":
            await self.get("/apps/delta")
        headers = {"Accept": "application/json", "x-netflix-discovery-replication": str(replication).lower()}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20), headers=headers) as session,
            session.request(method, self.address + path, json=body) as response,
        ):
            answer = await response.read()
            if response.status not in (200, 204):
                raise ValueError(f"{method} {path}: {response.status} {answer[:300]!r}")
            return answer


def mk_instance(app: str, id_: str = "", **more: Any) -> dict[str, Any]:
    """An instance as its client registers it; fields are Eureka's, ports may be numbers (0: disabled)."""
    instance: dict[str, Any] = {
        "instanceId": id_ or app,
        "app": app.upper(),
        "hostName": f"{id_ or app}.example",
        "ipAddr": "10.0.0.1",
        "port": 8080,
        "securePort": 0,
        "status": "UP",
        "vipAddress": app,
        "secureVipAddress": app,
        "dataCenterInfo": {
            "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
            "name": "MyOwn",
        },
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90},
        "metadata": {},
        "lastDirtyTimestamp": str(int(time.time() * 1000)),
    } | more
    for name, default in (("port", 7001), ("securePort", 7002)):
        if isinstance(instance[name], int):
            instance[name] = {"$": instance[name] or default, "@enabled": str(bool(instance[name])).lower()}
    return {"instance": instance}
