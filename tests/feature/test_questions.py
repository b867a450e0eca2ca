"""Questions of operators, over HTTP, to a whole bridge with an Envoy's stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.feature.conftest import World
from tests.wait import eventually

YAML = """
services:
- name: {name}
  ports: [{{name: http, number: 80, protocol: http}}]
  instances:
  - {{id: one, address: 10.0.0.1}}
  - {{id: sick, address: 10.0.0.2, health: unhealthy}}
  - {{id: idle, address: 10.0.0.3, weight: 0}}
"""


@pytest.fixture
async def asked(world: World) -> World:
    world.folder.mkdir()
    (world.folder / "reviews.yaml").write_text(YAML.format(name="reviews"))
    await world.start()
    await eventually(lambda: world.bridge.catalog.services, "the service is known")
    return world


async def ask(world: World, path: str, status: int = 200, method: str = "GET", **params: str) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{world.bridge.http_address}{path}", params=params) as answer,
    ):
        text = await answer.text()
        assert answer.status == status, text
        return json.loads(text) if status == 200 else text


@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        ("10.0.0.1:80", "proxy (-): no proxy is connected"),
        ("10.0.0.2:80", "health (local): unhealthy: it gets no requests"),
        ("10.0.0.3:80", "health (local): healthy, but of weight 0: it gets no requests"),
        ("10.0.0.9:80", "registry: local lists the service at 10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80, not there"),
    ],
)
async def test_why_an_endpoint_gets_no_requests(asked: World, endpoint: str, answer: str) -> None:
    found = await ask(asked, "/debug/explain", service="reviews", endpoint=endpoint)

    assert found["answer"] == answer


async def test_a_service_that_nobody_lists(asked: World) -> None:
    found = await ask(asked, "/debug/explain", service="ratings", endpoint="10.0.0.1:80")

    assert found["answer"] == "registry: local does not list the service"


async def test_what_is_doubtful(asked: World) -> None:
    (asked.folder / "ratings.yaml").write_text(YAML.format(name="ratings"))
    await eventually(lambda: len(asked.bridge.catalog.services) == 2, "both are known")

    codes = {f["code"] for f in await ask(asked, "/debug/doctor")}

    assert codes == {"SharedAddress"}


@pytest.mark.parametrize(
    ("path", "params", "status", "text"),
    [
        ("/debug/explain", {"service": "reviews"}, 400, "needs the parameter endpoint"),
        ("/debug/explain", {"service": "reviews", "endpoint": "nonsense"}, 400, "expected ADDRESS:PORT"),
        ("/debug/parity", {"first": "local", "second": "eureka"}, 404, "no registry eureka; there are local"),
        ("/debug/nothing", {}, 404, "no /debug/nothing here; there are "),
    ],
)
async def test_a_wrong_question_is_answered_with_a_sentence(
    asked: World, path: str, params: dict[str, str], status: int, text: str
) -> None:
    assert text in await ask(asked, path, status, **params)


async def test_nothing_is_held_is_said(asked: World) -> None:
    said = await ask(asked, "/holds/release", 404, "POST", service="reviews")

    assert said == "nothing is held of reviews; held are instances of no service\n"


async def test_parity_of_two_registries(world: World, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (world.directory / name).mkdir()
    (world.directory / "first" / "a.yaml").write_text(YAML.format(name="reviews"))
    (world.directory / "second" / "a.yaml").write_text(YAML.format(name="reviews").replace("10.0.0.3", "10.0.0.4"))
    world.configure(registries=(world.registry("first"), world.registry("second")))
    await world.start()
    await eventually(lambda: not world.bridge.hub.unsynced, "both are known")

    found = await ask(world, "/debug/parity", first="first", second="second")

    (difference,) = found["differences"]
    assert (difference["only_first"], difference["only_second"]) == (["10.0.0.3:80"], ["10.0.0.4:80"])
