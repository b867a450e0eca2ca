"""The etcd adapter against real etcd, of the oldest and the newest version that is supported."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.registry.etcd import EtcdAdapter, EtcdConfig
from isthmus.registry.etcd import session as etcd_session
from isthmus.registry.etcd.api import Member
from isthmus.registry.etcd.config import Prefix
from isthmus.registry.etcd.proto import rpc_pb2 as rpc
from isthmus.registry.etcd.session import range_of
from isthmus.registry.model import Health, Origin, Protocol
from isthmus.registry.origin import OriginStatus
from tests.contract.adapter_contract import Following, following
from tests.servers.etcd import LATEST, OLDEST, Etcd
from tests.servers.relay import Relay
from tests.wait import eventually

HEARTBEAT = 0.5
SERVICES = Prefix("/services/", layout="grpc")
PASSWORD = "b1gs3cret"  # noqa: S105 - of a server that lives for one test


@pytest.fixture(scope="module", params=[OLDEST, LATEST])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    etcd = asyncio.run(Etcd.start_one(tmp_path_factory.mktemp("etcd"), request.param))
    try:
        yield etcd
    finally:
        etcd.stop()


@pytest.fixture
async def etcd(shared: Etcd) -> AsyncIterator[Etcd]:
    """One member that has no keys."""
    yield shared
    await shared.wipe()


def make_adapter(*endpoints: str, **options: Any) -> tuple[EtcdAdapter, OriginStatus]:
    origin = Origin("keys", "etcd")
    stats = OriginStatus(origin)
    settings: dict[str, Any] = {"prefixes": (SERVICES,), "endpoints": endpoints, "heartbeat": HEARTBEAT}
    config = EtcdConfig(**settings | options)
    return EtcdAdapter(origin, config, stats), stats


@contextlib.asynccontextmanager
async def reading(etcd: Etcd, **options: Any) -> AsyncIterator[tuple[Following, OriginStatus]]:
    """An adapter under way, after its first snapshot."""
    adapter, stats = make_adapter(etcd.address, **options)
    async with following(adapter) as seen:
        await eventually(lambda: seen.snapshots or seen.error, "a first snapshot")
        assert seen.error is None
        yield seen, stats


def grpc_value(address: str, **metadata: Any) -> str:
    return json.dumps({"Op": 0, "Addr": address, "Metadata": metadata})


async def fill(etcd: Etcd, services: int, instances: int) -> None:
    for n in range(services):
        await etcd.transaction(
            {
                f"/services/svc-{n:03}/i{i}": grpc_value(f"10.{n // 250}.{n % 250}.{i + 1}:8080")
                for i in range(instances)
            }
        )


async def test_a_listing_of_many_pages_is_whole(etcd: Etcd) -> None:
    """Five pages of keys, and not one is missed or read twice."""
    await fill(etcd, 25, 100)
    async with reading(etcd) as (seen, stats):
        assert {len(s.instances) for s in seen.latest.services.values()} == {100}
        assert len(seen.latest.services) == 25
        assert stats.reads == 1 + 5
        assert int(seen.latest.cursor) == await etcd.revision()


async def test_pages_are_of_one_revision(etcd: Etcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while a listing is under way is in none of its pages, and arrives by the watch."""
    monkeypatch.setattr(etcd_session, "PAGE", 10)
    await fill(etcd, 20, 50)
    adapter, _ = make_adapter(etcd.address)
    async with following(adapter) as seen:
        moves = {f"/services/svc-{n:03}/i{i}": grpc_value(f"10.9.{n}.{i + 1}:8080") for n in (0, 19) for i in range(50)}
        await etcd.transaction(moves)
        await eventually(
            lambda: {a for n in (0, 19) for a in seen.addresses(f"svc-{n:03}")} == _hosts(moves), "the moved ones"
        )
    for snapshot in seen.snapshots:
        moved = {k.name: s.instances[0].address.startswith("10.9.") for k, s in snapshot.services.items()}
        assert moved["svc-000"] == moved["svc-019"]


def _hosts(values: dict[str, str]) -> set[str]:
    return {json.loads(value)["Addr"].rpartition(":")[0] for value in values.values()}


async def test_a_revision_is_applied_at_once(etcd: Etcd) -> None:
    """A transaction that swaps a service's instances is never half seen."""
    old, new = (
        {f"/services/web/{i}": grpc_value(f"10.0.0.{i}:80") for i in (1, 2, 3)},
        {f"/services/web/{i}": grpc_value(f"10.0.0.{i}:80") for i in (4, 5, 6)},
    )
    await etcd.transaction(old)
    async with reading(etcd) as (seen, _):
        for _ in range(10):
            await etcd.transaction(new, list(old))
            await etcd.transaction(old, list(new))
        await etcd.transaction(new, list(old))
        await eventually(lambda: set(seen.addresses("web")) == _hosts(new), "the last swap")
    shown = {
        frozenset(i.address for s in snapshot.services.values() for i in s.instances) for snapshot in seen.snapshots
    }
    assert shown <= {frozenset(_hosts(old)), frozenset(_hosts(new))}


async def test_a_backlog_that_comes_in_fragments_is_applied(etcd: Etcd) -> None:
    """Four megabytes of changes while the connection was cut: etcd sends what is too much for one message in parts."""
    relay = Relay(etcd.port)
    await relay.start()
    adapter, stats = make_adapter(f"http://127.0.0.1:{relay.port}")
    try:
        async with following(adapter) as seen:
            await eventually(lambda: seen.snapshots, "a first snapshot")
            opened = asyncio.get_running_loop().time()
            await eventually(lambda: asyncio.get_running_loop().time() > opened + HEARTBEAT, "it is pursued again")
            relay.stall()
            for n in range(40):
                await etcd.put(f"/services/web/{n:02}", grpc_value(f"10.0.0.{n + 1}:80", fill="x" * 100_000))
            before = stats.wake_ups
            await relay.drop()
            relay.mend()
            await eventually(lambda: len(seen.addresses("web")) == 40, "all of it")
            assert seen.error is None
            assert 1 <= stats.wake_ups - before < 40
    finally:
        await relay.stop()


async def test_leases(etcd: Etcd) -> None:
    """A lease that ends takes the instance away; an instance that none holds is marked, for nothing ever will."""
    lease = await etcd.grant(60)
    short = await etcd.grant(1)
    await etcd.put("/services/web/1", grpc_value("10.0.0.1:80"), lease)
    await etcd.put("/services/web/2", grpc_value("10.0.0.2:80"), short)
    await etcd.put("/services/web/3", grpc_value("10.0.0.3:80"))
    async with reading(etcd) as (seen, _):
        (service,) = seen.snapshots[0].services.values()
        assert ["lease" in i.provenance for i in service.instances] == [False, False, True]
        await eventually(lambda: "10.0.0.2" not in seen.addresses("web"), "the short lease has ended")
        await etcd.revoke(lease)
        await eventually(lambda: seen.addresses("web") == {"10.0.0.3": 80}, "the lease was revoked")


async def test_writing_the_same_again_is_no_change(etcd: Etcd) -> None:
    """Registrars that refresh their keys wake nobody behind the adapter."""
    await etcd.put("/services/web/1", grpc_value("10.0.0.1:80"), await etcd.grant(60))
    async with reading(etcd) as (seen, stats):
        await etcd.put("/services/web/1", grpc_value("10.0.0.1:80"), await etcd.grant(60))
        await eventually(lambda: stats.wake_ups == 1, "the watch has told")
        await etcd.put("/services/api/1", grpc_value("10.0.1.1:80"))
        await eventually(lambda: seen.service("api"), "a real change")
        assert len(seen.snapshots) == 2


async def test_a_quiet_member_proves_its_life(etcd: Etcd) -> None:
    """Each time it is asked, and without another connection."""
    async with reading(etcd) as (seen, stats):
        for _ in range(3):
            last = stats.last_success
            await eventually(lambda last=last: stats.last_success != last, "a sign of life")  # type: ignore[misc]
        assert seen.error is None
        assert len(seen.snapshots) == 1
        assert stats.errors == 0
        assert stats.reads == 2


async def test_a_layout_is_detected_and_reported(etcd: Etcd) -> None:
    value = {"id": "u-1", "name": "shop", "version": "v2", "endpoints": ["grpc://10.0.0.1:9000?isSecure=false"]}
    await etcd.put("/microservices/shop/u-1", value)
    with capture_logs() as logs:
        async with reading(etcd, prefixes=(Prefix("/microservices/"),)) as (seen, _):
            pass
    service = seen.service("shop")
    assert service is not None
    assert [(p.number, p.protocol) for p in service.ports] == [(9000, Protocol.GRPC)]
    assert service.instances[0].labels == {"version": "v2"}
    assert service.instances[0].provenance["layout"] == "go-kratos, detected"
    (said,) = [entry for entry in logs if entry["event"] == "etcd.layout_detected"]
    assert (said["prefix"], said["layout"], said["sampled"]) == ("/microservices/", "go-kratos", 1)


async def test_what_no_layout_explains_is_quarantined_until_one_does(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.registry.etcd.reading.REDETECT", 0.1)
    await etcd.put("/services/notes", "remember the milk")
    async with reading(etcd, prefixes=(Prefix("/services/"),)) as (seen, _):
        (bad,) = seen.latest.quarantined
        assert "/services/" in bad.where
        assert "layout" in bad.reason
        await etcd.put("/services/web/1", "10.0.0.1:80")
        await etcd.delete("/services/notes")
        await etcd.put("/services/web/2", "10.0.0.2:80")
        await eventually(lambda: len(seen.addresses("web")) == 2, "the layout is found")
        assert seen.latest.quarantined == ()


async def test_prefixes_have_layouts_and_namespaces_of_their_own(etcd: Etcd) -> None:
    await etcd.put("user.rpc/7587", "10.0.0.1:8081")
    await etcd.put("kitex/registry-etcd/pay/10.0.0.2:8888", {"network": "tcp", "address": "10.0.0.2:8888", "weight": 5})
    await etcd.put("/skydns/local/cluster/db/a", {"host": "10.0.0.3", "port": 5432})
    await etcd.put("elsewhere", "10.0.0.9:1")
    prefixes = (
        Prefix("user.rpc", layout="go-zero", default_protocol=Protocol.GRPC),
        Prefix("kitex/registry-etcd/", layout="kitex", namespace="pay"),
        Prefix("/skydns/local/cluster/", layout="skydns", default_protocol=Protocol.TCP),
    )
    async with reading(etcd, prefixes=prefixes) as (seen, _):
        found = {str(k): s for k, s in seen.latest.services.items()}
        assert sorted(found) == ["db.default", "pay.pay", "user.rpc.default"]
        assert found["user.rpc.default"].ports[0].protocol is Protocol.GRPC
        assert found["pay.pay"].instances[0].weight == 5
        assert found["db.default"].hostnames == {"db.cluster.local"}
        await etcd.put("user.rpc/7588", "10.0.0.4:8081")
        await eventually(lambda: len(seen.addresses("user.rpc")) == 2, "a change below the first prefix")
        await etcd.delete("/skydns/local/cluster/db/a")
        await eventually(lambda: not seen.service("db"), "a change below the last prefix")


async def test_everything_may_be_read(etcd: Etcd) -> None:
    await etcd.put("user.rpc/7587", "10.0.0.1:8081")
    async with reading(etcd, prefixes=(Prefix("", layout="go-zero"),)) as (seen, _):
        assert seen.addresses("user.rpc") == {"10.0.0.1": 8081}
        await etcd.put("/order.rpc/1", "10.0.0.2:8082")
        await eventually(lambda: seen.addresses("order.rpc") == {"10.0.0.2": 8082}, "another key")


@pytest.fixture(params=[OLDEST, LATEST])
async def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Etcd]:
    """One member with authentication on, tokens of two seconds, and a user `bridge` who may read /services/."""
    etcd = await Etcd.start_one(tmp_path, request.param, ["--auth-token-ttl", "2", "--bcrypt-cost", "4"])
    try:
        await etcd.add_user("bridge", PASSWORD, "/services/")
        await etcd.enable_authentication("root")
        await etcd.put("/services/web/1", grpc_value("10.0.0.1:80"))
        yield etcd
    finally:
        etcd.stop()


async def test_a_user_reads_its_prefix_however_old_its_token_is(guarded: Etcd) -> None:
    """The token expires, the watch goes on; and when the connection breaks, a new token is got."""
    relay = Relay(guarded.port)
    await relay.start()
    adapter, stats = make_adapter(f"http://127.0.0.1:{relay.port}", user="bridge", password=PASSWORD)
    try:
        async with following(adapter) as seen:
            await eventually(lambda: seen.addresses("web") == {"10.0.0.1": 80}, "the first snapshot")
            loop = asyncio.get_running_loop()
            opened = loop.time()
            await eventually(lambda: loop.time() > opened + 3.5, "the token has expired")
            await guarded.sign_in("root")
            await guarded.put("/services/web/2", grpc_value("10.0.0.2:80"))
            await eventually(lambda: len(seen.addresses("web")) == 2, "a change after that")
            await relay.drop()
            await guarded.put("/services/web/3", grpc_value("10.0.0.3:80"))
            await eventually(lambda: len(seen.addresses("web")) == 3, "a change after the connection broke")
            assert seen.error is None
            assert stats.errors == 1
    finally:
        await relay.stop()


async def test_a_token_that_expired_is_replaced(guarded: Etcd) -> None:
    """Also between two pages of one listing."""
    adapter, _ = make_adapter(guarded.address, user="bridge", password=PASSWORD)
    member = Member(adapter._config, guarded.address, OriginStatus(adapter.origin))
    try:
        await member.sign_in()
        token = member._token
        # Any change of users and roles makes the tokens of before too old.
        await guarded.allow("bridge", "/more/")
        key, end = range_of("/services/")
        answer = await member.range(rpc.RangeRequest(key=key, range_end=end))
        assert [kv.key for kv in answer.kvs] == [b"/services/web/1"]
        member._token = "no.such.token"  # noqa: S105
        answer = await member.range(rpc.RangeRequest(key=key, range_end=end))
        assert member._token not in ("no.such.token", token)
        assert len(answer.kvs) == 1
    finally:
        await member.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"user": "bridge", "password": "wr0ng-secret"}, "authentication failed"),
        ({}, "set user and password"),
        ({"user": "bridge", "password": PASSWORD, "prefixes": (Prefix("/"),)}, "user bridge needs a role with read"),
    ],
)
async def test_who_may_not_read_is_told_why(guarded: Etcd, options: dict[str, Any], said: str) -> None:
    adapter, _ = make_adapter(guarded.address, **options)
    async with following(adapter) as seen:
        await eventually(lambda: seen.error, "an AdapterError")
    assert said in str(seen.error)
    assert guarded.address in str(seen.error)
    assert PASSWORD not in str(seen.error)
    assert "wr0ng-secret" not in str(seen.error)


async def test_a_user_is_no_harm_while_authentication_is_off(etcd: Etcd) -> None:
    async with reading(etcd, user="bridge", password=PASSWORD) as (seen, _):
        await etcd.put("/services/web/1", grpc_value("10.0.0.1:80"))
        await eventually(lambda: seen.service("web"), "a change")


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=30)


def make_certificates(directory: Path) -> None:
    """An authority, a server's certificate for localhost, and one of a client with the common name `bridge`."""
    directory.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    openssl(directory, "req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test")
    for name, subject in (("server", "/CN=etcd"), ("client", "/CN=bridge")):
        openssl(directory, "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        (directory / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions"]
        openssl(directory, "x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")


@pytest.fixture(scope="module", params=[OLDEST, LATEST])
def secure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcd, Path]]:
    """A member that asks for client certificates, and the directory of all certificates."""
    directory = tmp_path_factory.mktemp("tls")
    certificates = directory / "certificates"
    make_certificates(certificates)
    options = [
        *("--client-cert-auth", "--trusted-ca-file", str(certificates / "ca.pem")),
        *("--cert-file", str(certificates / "server.pem"), "--key-file", str(certificates / "server.key")),
    ]
    etcd = Etcd(directory, request.param, options=options, scheme="https")
    etcd.argv += ["--initial-cluster", f"{etcd.name}={etcd.peer_address}"]
    etcd.tls = ssl.create_default_context(cafile=certificates / "ca.pem")
    etcd.tls.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    etcd.start()
    try:
        asyncio.run(etcd.ready())
        yield etcd, certificates
    finally:
        etcd.stop()


async def test_client_certificates(secure: tuple[Etcd, Path]) -> None:
    etcd, certificates = secure
    await etcd.put("/services/web/1", grpc_value("10.0.0.1:80"))
    tls = {"ca_file": f"{certificates}/ca.pem"}
    mine = {"cert_file": f"{certificates}/client.pem", "key_file": f"{certificates}/client.key"}
    async with reading(etcd, **tls, **mine) as (seen, _):
        assert seen.addresses("web") == {"10.0.0.1": 80}
    for options in (tls, mine, tls | mine | {"tls_server_name": "elsewhere.example"}):
        adapter, _ = make_adapter(etcd.address, **options)
        async with following(adapter) as refused:
            await eventually(lambda: refused.error, "an AdapterError")
        assert refused.snapshots == []


async def test_a_certificate_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    adapter, _ = make_adapter("https://127.0.0.1:2379", ca_file=f"{tmp_path}/nowhere.pem")
    async with following(adapter) as seen:
        await eventually(lambda: seen.error, "an AdapterError")
    assert f"ca_file {tmp_path}/nowhere.pem" in str(seen.error)


async def test_health_is_presence(etcd: Etcd) -> None:
    """A weight of 0 is the only way to say that an instance is there and gets nothing."""
    await etcd.put("/services/web/1", grpc_value("10.0.0.1:80", weight=0))
    await etcd.put("/services/web/2", grpc_value("10.0.0.2:80", weight=7))
    async with reading(etcd) as (seen, _):
        service = seen.service("web")
        assert service is not None
        assert [(i.health, i.weight) for i in service.instances] == [(Health.UNHEALTHY, 1), (Health.HEALTHY, 7)]
