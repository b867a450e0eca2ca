"""The servers of a registry, one of which answers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from isthmus.agent.registration.config import ConsulRegistration
from isthmus.agent.registration.http import MAX_BODY, Servers
from isthmus.agent.registration.place import RegistrationError
from tests.servers.authority import Authority
from tests.servers.process import free_port


class Server:
    """Answers everything alike."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b"{}"
        self.location = ""
        self.asked = 0
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def _answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(
            status=self.status, body=self.body, headers={"Location": self.location} if self.location else {}
        )


@pytest.fixture
async def two() -> AsyncIterator[tuple[Server, Server]]:
    both = Server(), Server()
    for one in both:
        await one.server.start_server()
    yield both
    for one in both:
        await one.server.close()


@pytest.fixture
async def servers(two: tuple[Server, Server]) -> AsyncIterator[Servers]:
    addresses = [two[0].address, two[1].address]
    servers = Servers("consul", addresses, ConsulRegistration(), {"X-Consul-Token": "s3cret"})
    yield servers
    await servers.close()


async def test_the_next_one_is_asked_when_one_has_an_error_of_its_own(
    servers: Servers, two: tuple[Server, Server]
) -> None:
    two[0].status = 500
    answer = await servers.ask("GET", "/x")
    assert answer.status == 200
    assert servers.name == f"consul at {two[1].address}"
    await servers.ask("GET", "/x")
    assert (two[0].asked, two[1].asked) == (1, 2)


async def test_a_refusal_is_everybodys(servers: Servers, two: tuple[Server, Server]) -> None:
    two[0].status, two[0].body = 403, b"Permission denied"
    with pytest.raises(RegistrationError, match="GET /x: 403 Permission denied") as error:
        await servers.ask("GET", "/x")
    assert two[1].asked == 0
    assert "s3cret" not in str(error.value)


async def test_a_redirection_is_not_followed(servers: Servers, two: tuple[Server, Server]) -> None:
    """The token would go with it."""
    two[0].status, two[0].location = 307, f"{two[1].address}/x"
    with pytest.raises(RegistrationError, match="a redirection"):
        await servers.ask("GET", "/x")
    assert two[1].asked == 0


async def test_an_answer_without_end_is_given_up(servers: Servers, two: tuple[Server, Server]) -> None:
    for one in two:
        one.body = b"x" * (MAX_BODY + 1)
    with pytest.raises(RegistrationError, match="larger than 1024 KiB"):
        await servers.ask("GET", "/x")


async def test_an_answer_of_another_kind_is_an_error(servers: Servers, two: tuple[Server, Server]) -> None:
    two[0].body = b"<html>"
    answer = await servers.ask("GET", "/x")
    with pytest.raises(RegistrationError, match="GET /x: 200, and the answer is not what is documented"):
        answer.read(msgspec.json.Decoder(dict[str, str]))


async def test_when_none_answers_each_is_named() -> None:
    ports = free_port(), free_port()
    servers = Servers("eureka", [f"http://127.0.0.1:{p}" for p in ports], ConsulRegistration(), {})
    try:
        with pytest.raises(RegistrationError) as error:
            await servers.ask("GET", "/x")
    finally:
        await servers.close()
    assert all(f"eureka at http://127.0.0.1:{port}: GET /x: " in str(error.value) for port in ports)


async def test_a_certificate_authority_that_is_not_there_is_named() -> None:
    config = ConsulRegistration(address="https://127.0.0.1:8501", ca_file="/nowhere/ca.pem")
    servers = Servers("consul", [config.address], config, {})
    with pytest.raises(RegistrationError, match=r"ca_file /nowhere/ca\.pem"):
        await servers.ask("GET", "/x")


async def test_a_server_is_known_by_its_certificate_and_knows_us_by_ours(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "another")
    certificate, key = ours.issue("server", "DNS:consul.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ours.file))
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    one = Server()
    await one.server.start_server(ssl=context)
    try:
        cert_file, key_file = map(str, ours.issue("agent"))
        base = ConsulRegistration(
            address=f"https://127.0.0.1:{one.server.port}",
            ca_file=str(ours.file),
            cert_file=cert_file,
            key_file=key_file,
            tls_server_name="consul.example",
        )
        wrong = [
            (msgspec.structs.replace(base, ca_file=str(theirs.file)), "certificate verify failed"),
            (msgspec.structs.replace(base, tls_server_name=""), "certificate verify failed|certificate is not valid"),
            (
                msgspec.structs.replace(base, cert_file="", key_file=""),
                "(?i)certificate required|reset|closed|disconnected",
            ),
        ]
        for config, reason in [(base, ""), *wrong]:
            servers = Servers("consul", [config.address], config, {}, config.tls_server_name)
            try:
                if not reason:
                    assert (await servers.ask("GET", "/x")).status == 200
                else:
                    with pytest.raises(RegistrationError, match=reason):
                        await servers.ask("GET", "/x")
            finally:
                await servers.close()
        assert one.asked == 1
    finally:
        await one.server.close()
