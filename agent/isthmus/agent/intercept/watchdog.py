"""The process that undoes what nobody confirms. It belongs to no terminal and no parent, so it does its work also when the
connection over which the rules were made has ended, or the agent that made them.

    python -m isthmus.agent.intercept.watchdog DIRECTORY ID SECONDS
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from isthmus.agent.intercept.programs import InterceptError
from isthmus.agent.intercept.state import StateFile
from isthmus.agent.intercept.undo import roll_back

_MAIN = "import sys; sys.path[:] = {path!r}; from {module} import main; main()"
"""Modules are found where this process finds them, which need not be where Python looks by itself (a Debian package)."""
_READY = b"ready\n"
_START = 20.0
_EVERY = 0.25
_ATTEMPTS = 5


async def start_watchdog(directory: Path, pending_id: str, seconds: float) -> None:
    """Start it; it is counting when this returns.

    Raises:
        InterceptError: it does not start.

    """
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-I",
            "-c",
            _MAIN.format(path=sys.path, module=__name__),
            str(directory),
            pending_id,
            f"{seconds:.3f}",
        ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
    )
    said = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_START):
            said, _ = await process.communicate()
    if said != _READY:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise InterceptError("the watchdog did not start, so nothing was changed")


async def watch(file: StateFile, pending_id: str, seconds: float) -> None:
    """Wait until the plan is confirmed or replaced; when the time is over, undo it."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while loop.time() < deadline:
        if file.read().pending_id != pending_id:
            return
        await asyncio.sleep(_EVERY)
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(InterceptError):
            async with file.locked():
                if file.read().pending_id == pending_id:
                    await roll_back(file)
            return
        await asyncio.sleep(1)


def main() -> None:
    """Let go of everything, say that it is ready, and watch."""
    directory, pending_id, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    if os.fork():  # who started it waits for this process, and for no other
        os._exit(0)
    os.setsid()
    file = StateFile(directory)
    os.write(1, _READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    asyncio.run(watch(file, pending_id, seconds))


if __name__ == "__main__":
    main()
