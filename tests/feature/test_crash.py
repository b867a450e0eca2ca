"""A programming error is loud: the process ends, with the error in the log and proxies sent away in order."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from isthmus.bridge import publishing as module
from isthmus.bridge.run import CRASHED, run
from tests.feature.conftest import World


async def test_a_crash_inside_ends_the_process_with_a_status_of_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def translate(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(module, "translate", translate)
    world.write("reviews", "10.0.0.1")

    with capture_logs() as logs:
        status = await run(world.directory / "isthmus.yaml", world.config)

    assert status == CRASHED
    (crash,) = (e for e in logs if e["event"] == "bridge.crashed")
    assert isinstance(crash["exc_info"], KeyError)
    assert logs[-1]["event"] == "bridge.stopped"
