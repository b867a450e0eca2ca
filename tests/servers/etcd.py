"""Real etcd: one member or a cluster, with a client of its own for what a test does to it (the JSON gateway)."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from tests import peers
from tests.servers.peers import peer_binary
from tests.servers.process import Process, free_port
from tests.wait import eventually

OLDEST, LATEST = peers.ETCDS


class Etcd(Process):
    """One member with its ports on loopback, and its data in a directory that outlives a restart."""

    def __init__(
        self,
        directory: Path,
        version: str = LATEST,
        *,
        name: str = "m1",
        options: Sequence[str] = (),
        scheme: str = "http",
    ) -> None:
        self.name = name
        self.version = version
        self.scheme = scheme
        self.port = free_port()
        self.peer_port = free_port()
        self.address = f"{scheme}://127.0.0.1:{self.port}"
        self.peer_address = f"http://127.0.0.1:{self.peer_port}"
        self.token = ""
        self.tls: ssl.SSLContext | None = None
        directory.mkdir(parents=True, exist_ok=True)
        self.data = directory / f"{name}.etcd"
        self._backup = directory / f"{name}.backup"
        argv: list[str | Path] = [peer_binary("etcd", version), "--name", name, "--data-dir", self.data]
        argv += ["--listen-client-urls", self.address, "--advertise-client-urls", self.address]
        argv += ["--listen-peer-urls", self.peer_address, "--initial-advertise-peer-urls", self.peer_address]
        argv += ["--logger=zap", "--log-level=warn", *options]
        super().__init__(argv, directory / f"{name}.log", env={"HOME": str(directory)})

    @classmethod
    async def start_one(cls, directory: Path, version: str = LATEST, options: Sequence[str] = ()) -> Etcd:
        """Start a cluster of one member and wait until it answers."""
        etcd = cls(directory, version, options=options)
        etcd.argv += ["--initial-cluster", f"{etcd.name}={etcd.peer_address}"]
        etcd.start()
        await etcd.ready()
        return etcd

    @classmethod
    async def start_cluster(cls, directory: Path, version: str = LATEST, size: int = 3) -> list[Etcd]:
        """Start several members of one cluster, which elect quickly, and wait until each answers."""
        quick = ["--heartbeat-interval=50", "--election-timeout=500"]
        members = [cls(directory, version, name=f"m{n}", options=quick) for n in range(1, size + 1)]
        initial = ",".join(f"{m.name}={m.peer_address}" for m in members)
        for member in members:
            member.argv += ["--initial-cluster", initial]
            member.start()
        for member in members:
            await member.ready()
        return members

    async def ready(self) -> None:
        """Wait until it answers a linearizable read."""

        async def answers() -> bool:
            assert self.running, "etcd ended"
            await self.get_keys("")
            return True

        try:
            await eventually(answers, "etcd answers", timeout=20)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.output()[-3000:]}") from e

    async def put(self, key: str, value: str | bytes | Mapping[str, Any], lease: int = 0) -> int:
        """Write one key; a mapping as JSON. Returns the revision."""
        if isinstance(value, Mapping):
            value = json.dumps(value)
        body = {"key": _base64(key), "value": _base64(value), "lease": str(lease)}
        return int((await self.call("/v3/kv/put", body))["header"]["revision"])

    async def delete(self, key: str) -> None:
        """Delete one key."""
        await self.call("/v3/kv/deleterange", {"key": _base64(key)})

    async def transaction(self, puts: Mapping[str, str | bytes], deletes: Sequence[str] = ()) -> None:
        """Write and delete several keys in one revision."""
        operations: list[dict[str, Any]] = [
            {"requestPut": {"key": _base64(key), "value": _base64(value)}} for key, value in puts.items()
        ]
        operations += [{"requestDeleteRange": {"key": _base64(key)}} for key in deletes]
        await self.call("/v3/kv/txn", {"success": operations})

    async def get_keys(self, prefix: str) -> dict[str, str]:
        """All keys with a prefix, and their values."""
        answer = await self.call("/v3/kv/range", {"key": _base64(prefix or "\0"), "range_end": _base64(_end(prefix))})
        return {
            base64.b64decode(kv["key"]).decode(): base64.b64decode(kv.get("value", "")).decode(errors="replace")
            for kv in answer.get("kvs", ())
        }

    async def revision(self) -> int:
        """The revision of the whole cluster."""
        answer = await self.call("/v3/kv/range", {"key": _base64("revision?")})
        return int(answer["header"]["revision"])

    async def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        await self.call("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    async def grant(self, ttl: int) -> int:
        """A lease of `ttl` seconds."""
        return int((await self.call("/v3/lease/grant", {"TTL": str(ttl)}))["ID"])

    async def revoke(self, lease: int) -> None:
        """End a lease, and with it its keys."""
        await self.call("/v3/lease/revoke", {"ID": str(lease)})

    async def wipe(self) -> None:
        """Delete every key."""
        await self.call("/v3/kv/deleterange", {"key": _base64("\0"), "range_end": _base64("\0")})

    async def add_user(self, user: str, password: str, prefix: str) -> None:
        """A user that may read one prefix."""
        await self.call("/v3/auth/user/add", {"name": user, "password": password})
        await self.call("/v3/auth/role/add", {"name": user})
        await self.allow(user, prefix)
        await self.call("/v3/auth/user/grant", {"user": user, "role": user})

    async def allow(self, role: str, prefix: str) -> None:
        """Let a role read a prefix."""
        permission = {"permType": "READ", "key": _base64(prefix), "range_end": _base64(_end(prefix))}
        await self.call("/v3/auth/role/grant", {"name": role, "perm": permission})

    async def enable_authentication(self, password: str) -> None:
        """Make the user root, switch authentication on, and act as root from here on."""
        await self.call("/v3/auth/user/add", {"name": "root", "password": password})
        await self.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
        await self.call("/v3/auth/enable", {})
        await self.sign_in(password)

    async def sign_in(self, password: str) -> None:
        """Get a new token for root."""
        self.token = ""
        self.token = (await self.call("/v3/auth/authenticate", {"name": "root", "password": password}))["token"]

    async def save(self) -> None:
        """Copy the data directory, at rest."""
        self.stop()
        shutil.rmtree(self._backup, ignore_errors=True)
        shutil.copytree(self.data, self._backup)
        self.start()
        await self.ready()

    async def restore(self) -> None:
        """Start again from the copy."""
        self.kill()
        shutil.rmtree(self.data)
        shutil.copytree(self._backup, self.data)
        self.start()
        await self.ready()

    async def start_twin(self, directory: Path) -> Etcd:
        """Start another process, at other ports, that goes on from the copy."""
        twin = Etcd(directory, self.version, name=self.name)
        twin.argv += ["--initial-cluster", f"{twin.name}={twin.peer_address}"]
        shutil.copytree(self._backup, twin.data)
        twin.start()
        await twin.ready()
        return twin

    async def replace(self, gone: Etcd, directory: Path) -> Etcd:
        """Remove a dead member from this one's cluster, and start a new one at its addresses, with an empty directory."""

        async def removed() -> bool:
            ids = [m["ID"] for m in await self._members() if m.get("name") == gone.name]
            for id_ in ids:
                await self.call("/v3/cluster/member/remove", {"ID": id_})
            return not ids

        async def added() -> bool:
            if all(gone.peer_address not in m["peerURLs"] for m in await self._members()):
                await self.call("/v3/cluster/member/add", {"peerURLs": [gone.peer_address]})
            return True

        # Not before the cluster has a leader and takes itself for healthy.
        await eventually(removed, f"{gone.name} is removed", timeout=60, every=0.2)
        await eventually(added, f"another {gone.name} may join", timeout=60, every=0.2)
        new = Etcd(directory, gone.version, name=gone.name)
        new.port, new.address = gone.port, gone.address
        new.peer_port, new.peer_address = gone.peer_port, gone.peer_address
        new.argv = [str(new.data) if word == str(gone.data) else word for word in gone.argv]
        cluster = ",".join(f"{m.get('name') or gone.name}={m['peerURLs'][0]}" for m in await self._members())
        new.argv += ["--initial-cluster", cluster, "--initial-cluster-state=existing"]
        new.start()
        return new

    async def _members(self) -> list[dict[str, Any]]:
        members: list[dict[str, Any]] = (await self.call("/v3/cluster/member/list", {}))["members"]
        return members

    async def call(self, path: str, body: Mapping[str, Any]) -> Any:
        """One request.

        Raises:
            OSError: it does not listen.
            ValueError: it refused; with its reason.

        """
        headers = {"Authorization": self.token} if self.token else {}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), headers=headers) as session,
            session.post(self.address + path, json=body, ssl=self.tls or True) as response,
        ):
            answer = await response.read()
            if response.status != 200:
                raise ValueError(f"{path}: {response.status} {answer[:300]!r}")
            return json.loads(answer)


def _base64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _end(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\0"
