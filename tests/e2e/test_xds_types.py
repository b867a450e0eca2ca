"""A real Envoy takes the types that nothing is translated to yet, from snapshots that a test publishes."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from google.protobuf.json_format import ParseDict

from isthmus.xds.resource import Resource, TypeUrl
from tests.e2e.scripted import ADS, HTTP, Scripted, mk_listener, mk_resource, mk_routes, says
from tests.wait import eventually

both = pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])


@both
async def test_secrets(xds: Scripted, delta: bool, tmp_path: Path) -> None:
    """A listener warms with its certificate, and takes the next one without being touched. Rule 40."""
    first, second = mk_certificate(tmp_path, "first"), mk_certificate(tmp_path, "second")
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "server", "sds_config": ADS}]},
    }
    xds.publish(
        mk_listener(
            xds.port,
            {"route_config": mk_routes("inline", says("hello"))},
            transport_socket={"name": "tls", "typed_config": tls},
        ),
        mk_secret(*first),
    )
    envoy = await xds.envoy(delta=delta)

    await eventually(lambda: presents(xds.port, first[0]), "the first certificate is presented")
    xds.publish(mk_secret(*second))
    await eventually(lambda: presents(xds.port, second[0]), "the second certificate is presented")

    dump = json.loads(await envoy.admin("/config_dump?resource=dynamic_active_secrets"))
    assert [s["name"] for s in dump["configs"]] == ["server"]
    assert (await envoy.stats("listener_manager.listener_modified")).get("listener_manager.listener_modified", 0) == 0


@both
async def test_runtime(xds: Scripted, delta: bool) -> None:
    """The layer that a bootstrap asks for, and its next value."""

    def edit(bootstrap: Bootstrap) -> None:
        layer = {"name": "isthmus", "rtds_layer": {"name": "isthmus", "rtds_config": ADS}}
        ParseDict({"layers": [layer]}, bootstrap.layered_runtime)

    async def value() -> str:
        entries = json.loads(await envoy.admin("/runtime"))["entries"]
        return str(entries["test.value"]["final_value"])

    xds.publish(mk_runtime("one"))
    envoy = await xds.envoy(delta=delta, edit=edit)

    assert await value() == "one"
    xds.publish(mk_runtime("two"))

    async def is_two() -> bool:
        return await value() == "two"

    await eventually(is_two, "the runtime follows")


@both
async def test_extension_configurations(xds: Scripted, delta: bool) -> None:
    """A filter whose configuration is discovered, and changes by itself."""
    discovered = {
        "name": "fault",
        "config_discovery": {"config_source": ADS, "type_urls": [f"{HTTP}.fault.v3.HTTPFault"]},
    }
    xds.publish(mk_listener(xds.port, {"route_config": mk_routes("inline", says("hello"))}, discovered), mk_fault(418))
    envoy = await xds.envoy(delta=delta)
    assert (await xds.get())[0] == 418

    xds.publish(mk_fault(429))

    async def follows() -> bool:
        return (await xds.get())[0] == 429

    await eventually(follows, "the filter follows")
    assert await envoy.rejected() == {}


@both
async def test_scoped_routes(xds: Scripted, delta: bool) -> None:
    """All scopes are asked for at once; a new one is added, and one that goes takes its routes along."""
    builder = {"fragments": [{"header_value_extractor": {"name": "x-tenant", "element_separator": ";", "index": 0}}]}
    scoped = {
        "name": "scopes",
        "scope_key_builder": builder,
        "rds_config_source": ADS,
        "scoped_rds": {"scoped_rds_config_source": ADS},
    }
    xds.publish(mk_listener(xds.port, {"scoped_routes": scoped}), *mk_scope("a"), *mk_scope("b"))
    envoy = await xds.envoy(delta=delta)

    async def answers(tenant: str, status: int) -> bool:
        return (await xds.get(**{"x-tenant": tenant}))[0] == status

    await eventually(lambda: answers("a", 200), "a is served")
    await eventually(lambda: answers("b", 200), "b is served")
    assert await xds.get(**{"x-tenant": "a"}) == (200, "a")
    assert await answers("c", 404)

    xds.publish(*mk_scope("c"))
    await eventually(lambda: answers("c", 200), "c is served")
    xds.publish(without=(TypeUrl.SCOPED_ROUTE, "a"))
    await eventually(lambda: answers("a", 404), "a is gone")
    assert await xds.get(**{"x-tenant": "b"}) == (200, "b")
    assert await envoy.rejected() == {}


def mk_scope(tenant: str) -> tuple[Resource, Resource]:
    """A scope and its routes."""
    key = {"fragments": [{"string_key": tenant}]}
    scope = {"name": tenant, "route_configuration_name": tenant, "key": key}
    return (
        mk_resource(TypeUrl.SCOPED_ROUTE, tenant, scope),
        mk_resource(TypeUrl.ROUTE, tenant, mk_routes(tenant, says(tenant))),
    )


def mk_fault(status: int) -> Resource:
    always = {"numerator": 100}
    fault = {"@type": f"{HTTP}.fault.v3.HTTPFault", "abort": {"http_status": status, "percentage": always}}
    return mk_resource(TypeUrl.EXTENSION, "fault", {"name": "fault", "typed_config": fault})


def mk_runtime(value: str) -> Resource:
    return mk_resource(TypeUrl.RUNTIME, "isthmus", {"name": "isthmus", "layer": {"test": {"value": value}}})


def mk_certificate(directory: Path, name: str) -> tuple[str, str]:
    """A self-signed certificate and its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    subprocess.run(
        [*command, "-subj", f"/CN={name}", "-out", certificate, "-keyout", key], check=True, capture_output=True
    )
    return certificate.read_text(), key.read_text()


def mk_secret(certificate: str, key: str) -> Resource:
    chain = {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
    return mk_resource(TypeUrl.SECRET, "server", {"name": "server", "tls_certificate": chain})


async def presents(port: int, certificate: str) -> bool:
    """Whether a TLS server shows that certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return shown == ssl.PEM_cert_to_DER_cert(certificate)
    finally:
        writer.close()
        await writer.wait_closed()
