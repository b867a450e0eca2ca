"""A real Nomad, or one of its clients, that is frozen, killed, restarted, or turns the token away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.registry.adapter import AdapterError
from isthmus.registry.model import Health, Instance, Origin
from isthmus.registry.nomad import NomadAdapter, NomadConfig
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.servers.nomad import Nomad, mk_job, mk_service
from tests.wait import eventually

HEARTBEAT = 0.5
NOTICED_WITHIN = HEARTBEAT * 17 / 16 + 2 + 1.5

READ_JOBS = 'namespace "default" { capabilities = ["read-job"] }'
READ_NODES = 'node { policy = "read" }'


@pytest.fixture
async def nomad(tmp_path: Path) -> AsyncIterator[Nomad]:
    nomad = await Nomad.start_one(tmp_path / "nomad")
    try:
        yield nomad
    finally:
        nomad.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nomad]:
    """A Nomad with ACLs that runs a job."""

    async def start() -> Nomad:
        nomad = await Nomad.start_with_acls(tmp_path_factory.mktemp("guarded"))
        await nomad.run(mk_job("web", mk_service("web", check=True)))
        return nomad

    nomad = asyncio.run(start())
    try:
        yield nomad
    finally:
        nomad.stop()


def mk_adapter(nomad: Nomad, **options: object) -> NomadAdapter:
    origin = Origin("global", "nomad")
    settings: dict[str, Any] = {"address": nomad.address, "heartbeat": HEARTBEAT, "token": nomad.token} | options
    return NomadAdapter(origin, NomadConfig(**settings), OriginStatus(origin))


def instances(seen: Following) -> dict[str, Instance]:
    found = seen.service("web") if seen.snapshots else None
    return {i.id: i for i in found.instances} if found else {}


def healths(seen: Following) -> list[Health]:
    return [i.health for i in instances(seen).values()]


async def until_healthy(seen: Following, count: int = 1) -> None:
    await eventually(lambda: healths(seen) == [Health.HEALTHY] * count, f"{count} healthy", timeout=30)


async def until_failed(seen: Following) -> str:
    """The error that ends the iteration, raised in time and without a further snapshot."""
    count, began = len(seen.snapshots), time.monotonic()
    await eventually(lambda: seen.error, "it is noticed")
    assert time.monotonic() - began < NOTICED_WITHIN
    assert len(seen.snapshots) == count
    return str(seen.error)


async def test_a_frozen_server_is_noticed_and_read_again_when_it_wakes(nomad: Nomad) -> None:
    """What it said last, health included, is what it says first afterwards."""
    await nomad.run(mk_job("web", mk_service("web", check=True), count=2))
    adapter = mk_adapter(nomad)
    async with following(adapter) as seen:
        await until_healthy(seen, 2)
        with nomad.outage():
            assert "no answer within" in await until_failed(seen)
            async with following(adapter) as meanwhile:
                await until_failed(meanwhile)
    async with following(adapter) as again:
        await eventually(lambda: again.snapshots, "it is read again")
        assert again.snapshots[0].services == seen.latest.services


async def test_a_killed_server_keeps_its_instances_over_a_restart(nomad: Nomad) -> None:
    """Tasks go on while Nomad is away, and are found again, healthy, at their old places."""
    await nomad.run(mk_job("web", mk_service("web", check=True), count=2))
    adapter = mk_adapter(nomad)
    async with following(adapter) as seen:
        await until_healthy(seen, 2)
        nomad.kill()
        await until_failed(seen)
    nomad.start()
    await nomad.ready()
    async with following(adapter) as again:
        await eventually(lambda: again.snapshots, "it is read again", timeout=20)
        ports = {id_: i.ports for id_, i in instances(seen).items()}
        assert {id_: i.ports for id_, i in instances(again).items()} == ports
        await until_healthy(again, 2)
    assert Health.HEALTHY in {i.health for i in again.snapshots[0].services[_key(again)].instances}


async def test_a_frozen_client_keeps_the_last_results_of_its_checks(nomad: Nomad, tmp_path: Path) -> None:
    """Until Nomad itself gives the node up; the instances of other nodes are not touched, nor later than before."""
    state = tmp_path / "state"
    state.mkdir()
    client = await nomad.add_client(tmp_path / "client", "node-1")
    job = mk_job("web", mk_service("web", check=True), count=2, state=state)
    job["TaskGroups"][0]["Constraints"] = [{"Operand": "distinct_hosts", "RTarget": "true"}]
    await nomad.run(job)
    async with following(mk_adapter(nomad)) as seen:
        await until_healthy(seen, 2)
        by_node = {i.provenance["node"]: i for i in instances(seen).values()}
        client.send_signal(signal.SIGSTOP)
        try:
            (state / by_node["node-0"].provenance["allocation"]).touch()
            here = by_node["node-0"].id
            await eventually(lambda: instances(seen)[here].health is Health.UNHEALTHY, "checks of the other are read")
            assert instances(seen)[by_node["node-1"].id].health is Health.HEALTHY
            (state / by_node["node-0"].provenance["allocation"]).unlink()
            await eventually(lambda: instances(seen)[here].health is Health.HEALTHY, "and again")
            there = by_node["node-1"].id
            await eventually(
                lambda: there not in instances(seen) or instances(seen)[there].health is not Health.HEALTHY,
                "Nomad gives the node up",
                timeout=60,
            )
            assert not seen.error
        finally:
            client.send_signal(signal.SIGCONT)
        await until_healthy(seen, 2)


async def mk_token(nomad: Nomad, *rules: str) -> str:
    """A token with a policy of these rules."""
    name = f"policy-{time.monotonic_ns()}"
    await nomad.put(f"/v1/acl/policy/{name}", {"Name": name, "Rules": "\n".join(rules)})
    token = await nomad.put("/v1/acl/token", {"Name": name, "Type": "client", "Policies": [name]})
    secret: str = token["SecretID"]
    return secret


async def revoke(nomad: Nomad, token: str) -> None:
    (accessor,) = [t["AccessorID"] for t in await _tokens(nomad) if t["SecretID"] == token]
    await nomad.request("DELETE", f"/v1/acl/token/{accessor}")


async def _tokens(nomad: Nomad) -> list[Any]:
    return [await nomad.get(f"/v1/acl/token/{t['AccessorID']}") for t in await nomad.get("/v1/acl/tokens")]


class TestTokens:
    async def test_read_job_and_node_read_suffice(self, guarded: Nomad) -> None:
        async with following(mk_adapter(guarded, token=await mk_token(guarded, READ_JOBS, READ_NODES))) as seen:
            await until_healthy(seen)
            assert seen.latest.quarantined == ()
            assert seen.latest.doubt == ""

    async def test_without_node_read_it_says_what_is_missing(self, guarded: Nomad) -> None:
        """Services and the health of their allocations are there nevertheless, followed by events."""
        async with following(mk_adapter(guarded, token=await mk_token(guarded, READ_JOBS))) as seen:
            await until_healthy(seen)
            assert [q.where for q in seen.latest.quarantined] == ["nodes"]

    async def test_a_token_without_rights_is_an_error_with_nomads_own_words(self, guarded: Nomad) -> None:
        async with following(mk_adapter(guarded, token=await mk_token(guarded, READ_NODES))) as seen:
            assert "403 Permission denied" in await until_failed(seen)
        assert seen.snapshots == []

    async def test_an_unknown_token_is_an_error_that_does_not_repeat_it(self, guarded: Nomad) -> None:
        secret = "6b0c1e1c-0d0f-4f0d-8f0a-0123456789ab"  # noqa: S105 - of nobody
        async with following(mk_adapter(guarded, token=secret)) as seen:
            error = await until_failed(seen)
        assert "403" in error
        assert secret not in error

    async def test_no_token_at_all_is_doubt_over_all_namespaces(self, guarded: Nomad) -> None:
        """Nomad answers 200 with nothing in it to those whom it does not know."""
        async with following(mk_adapter(guarded, token="", namespace="*")) as seen:
            await eventually(lambda: seen.snapshots, "an answer")
            assert "no namespace at all" in seen.latest.doubt

    async def test_a_token_that_is_revoked_under_way_is_an_error(self, guarded: Nomad) -> None:
        token = await mk_token(guarded, READ_JOBS, READ_NODES)
        async with following(mk_adapter(guarded, token=token)) as seen:
            await until_healthy(seen)
            await revoke(guarded, token)
            assert token not in await until_failed(seen)

    async def test_a_namespace_that_the_token_loses_is_doubt_not_absence(self, guarded: Nomad) -> None:
        """Over `*` Nomad shows less, and says nothing about it."""
        await guarded.put("/v1/namespace/team-a", {"Name": "team-a"})
        await guarded.put(
            "/v1/acl/policy/shrinking",
            {"Name": "shrinking", "Rules": f'{READ_JOBS}\nnamespace "team-a" {{ policy = "read" }}'},
        )
        token = (await guarded.put("/v1/acl/token", {"Name": "t", "Type": "client", "Policies": ["shrinking"]}))[
            "SecretID"
        ]
        adapter = mk_adapter(guarded, token=token, namespace="*")
        async with following(adapter) as seen:
            await until_healthy(seen)
            await guarded.put(
                "/v1/acl/policy/shrinking", {"Name": "shrinking", "Rules": 'namespace "team-a" { policy = "read" }'}
            )
            await eventually(lambda: seen.error or seen.latest.doubt, "it is noticed")
            # It may still be in the list of names that was read just before, with nothing behind it.
            found = seen.service("web")
            assert seen.error or found is None or not found.instances
        async with following(adapter) as again:
            await eventually(lambda: again.snapshots, "it is listed again")
            assert "default" in again.latest.doubt
            await guarded.put("/v1/acl/policy/shrinking", {"Name": "shrinking", "Rules": READ_JOBS})
            await eventually(lambda: again.error or not again.latest.doubt, "the doubt ends")
        async with following(adapter) as after:
            await until_healthy(after)
            assert after.latest.doubt == ""

    async def test_a_token_file_is_read_again_when_it_changes(self, guarded: Nomad, tmp_path: Path) -> None:
        """As a workload identity's is, before the old one expires."""
        old, new = await mk_token(guarded, READ_JOBS, READ_NODES), await mk_token(guarded, READ_JOBS, READ_NODES)
        file = tmp_path / "nomad_token"
        file.write_text(f"{old}\n")
        adapter = mk_adapter(guarded, token="", token_file=str(file))
        async with following(adapter) as seen:
            await until_healthy(seen)
            file.write_text(f"{new}\n")
            await revoke(guarded, old)
            await eventually(lambda: seen.error, "the stream of the old token ends")
        async with following(adapter) as again:
            await until_healthy(again)

    async def test_a_workload_identity_reads_services(self, guarded: Nomad, tmp_path: Path) -> None:
        """What it may not read, as long as no policy lets it, is remarked; the instances are there."""
        identity = {"Name": "default", "File": True, "Env": True}
        job = mk_job("bridge", mk_service("bridge"))
        task = job["TaskGroups"][0]["Tasks"][0]
        task["Identity"] = identity
        task["Config"]["args"] = ["-c", f"cp $NOMAD_SECRETS_DIR/nomad_token {tmp_path}/token; exec sleep 600"]
        task["Config"]["command"] = "/bin/sh"
        await guarded.run(job)
        file = tmp_path / "token"
        await eventually(lambda: file.exists() and file.read_text(), "the identity's token", timeout=20)
        try:
            async with following(mk_adapter(guarded, token="", token_file=str(file))) as seen:
                await eventually(lambda: seen.snapshots or seen.error, "an answer")
                assert seen.error is None
                assert {k.name for k in seen.latest.services} == {"web", "bridge"}
                assert healths(seen) == [Health.UNKNOWN]
                assert {q.where for q in seen.latest.quarantined} == {"allocations", "event stream", "jobs", "nodes"}
                assert seen.latest.doubt == ""
                await guarded.run(mk_job("api", mk_service("api")))
                await eventually(lambda: seen.service("api"), "a new service, without the event stream", timeout=20)
        finally:
            await guarded.stop_job("bridge")
            await guarded.stop_job("api")


async def test_an_agent_that_is_no_nomad_is_said_so() -> None:
    """Nothing listens there: the error names whom was asked what."""
    origin = Origin("global", "nomad")
    adapter = NomadAdapter(origin, NomadConfig(address="http://127.0.0.1:1"), OriginStatus(origin))
    with pytest.raises(AdapterError, match=r"nomad at http://127\.0\.0\.1:1: GET /v1/"):
        await anext(adapter.snapshots())


def _key(seen: Following) -> Any:
    return next(k for k in seen.latest.services if k.name == "web")
