"""From `systemctl start` to the first call that the agent routes: the packages, on a Debian with a systemd of its own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from bench.rows import Row, figure, quantile, say
from tests.servers.town import SHARED, Town, build_packages, open_town
from tests.servers.upstream import get
from tests.wait import eventually

STARTS = 5


async def rows() -> list[Row]:
    """Measure, in two minutes."""
    say("building the packages")
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as directory:
        folder = Path(directory)
        (packages := folder / "packages").mkdir()
        await asyncio.to_thread(build_packages, packages)
        async with open_town(folder) as town:
            await town.join(packages)
            say(f"{STARTS} starts")
            took = [await _start(town) for _ in range(STARTS)]
    slowest = f"median of {STARTS} starts on the installed Debian, the slowest {max(took):.2f}"
    return [figure("agent.start_to_first_call_s", quantile(took, 0.5), "s from `systemctl start`", slowest)]


async def _start(town: Town) -> float:
    """Seconds until a call from the VM to a service of another machine is answered."""

    async def answered() -> bool:
        return await get(8080, "ratings:8080", SHARED, machine=town.vm) == (200, "ratings")

    await town.do("systemctl stop isthmus-agent")
    began = time.monotonic()
    starting = await asyncio.create_subprocess_exec(*town.system.command("systemctl", "start", "isthmus-agent"))
    await eventually(answered, "the first call is routed", 60, every=0.005)
    took = time.monotonic() - began
    await starting.wait()
    return took


if __name__ == "__main__":
    for row in asyncio.run(rows()):
        print(row)
