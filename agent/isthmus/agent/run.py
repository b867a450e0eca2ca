"""`isthmus agent`: run until a signal ends it; reload when the file changes or on SIGHUP."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

import structlog

from isthmus.agent.agent import Agent, StartError
from isthmus.agent.config import AgentConfig
from isthmus.agent.load import load
from isthmus.agent.machine import locked_by
from isthmus.agent.running import clean, end, read_state
from isthmus.registry.file.config_watch import appearance, watch_config
from isthmus.registry.settings import ConfigError

log = structlog.get_logger()

CRASHED = 70
"""Exit status after a programming error; EX_SOFTWARE of sysexits.h."""


async def run(path: Path, config: AgentConfig, *, json_logs: bool) -> int:
    """Run until SIGTERM, SIGINT or /quitquitquit: then callers are asked away, and Envoy ends. A second signal ends the waiting.

    Returns the exit status: 0, or CRASHED; after a crash, Envoy goes on, and the next agent takes it over.

    Raises:
        StartError: the agent cannot start.

    """
    gc.freeze()  # modules and their classes stay
    loop = asyncio.get_running_loop()
    hurry, reload = asyncio.Event(), asyncio.Event()
    seen = await asyncio.to_thread(appearance, path)
    agent = Agent(config, json_logs=json_logs)

    def stop() -> None:
        if agent.ending.is_set():
            hurry.set()
        agent.ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    await agent.start()
    log.info("agent.started", node=config.node, services=[s.name for s in config.services], version=agent.version)
    ending = asyncio.create_task(agent.ending.wait(), name="end")
    tasks = [
        asyncio.create_task(agent.failed(), name="watch"),
        asyncio.create_task(watch_config(path, seen, reload), name="config watch"),
        asyncio.create_task(_reload(path, agent, reload), name="config reload"),
    ]
    done, _ = await asyncio.wait((ending, *tasks), return_when=asyncio.FIRST_COMPLETED)
    crash = next((error for task in done if (error := task.exception())), None)
    for task in (ending, *tasks):
        task.cancel()
    await asyncio.gather(ending, *tasks, return_exceptions=True)
    if crash is not None:
        log.critical("agent.crashed", exc_info=crash)
        await agent.abandon()
        return CRASHED
    log.info("agent.stopping")
    await agent.stop(hurry)
    log.info("agent.stopped")
    return 0


async def stop(config: AgentConfig) -> bool:
    """End the agent of a configuration as SIGTERM does, and an Envoy that an agent left behind; whether there was either."""
    directory = Path(config.config_path)
    pid = locked_by(directory)
    if pid is not None:
        descriptor = os.pidfd_open(pid)
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            loop.add_reader(descriptor, gone.set)
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
    state = read_state(directory / "envoy.json")
    await asyncio.gather(*(end(e) for e in state.envoys))
    if state.envoys:
        clean(directory, state.base_id)
    return pid is not None or bool(state.envoys)


async def _reload(path: Path, agent: Agent, wanted: asyncio.Event) -> None:
    while True:
        await wanted.wait()
        wanted.clear()
        try:
            await agent.reload(await asyncio.to_thread(load, path))
        except (ConfigError, StartError) as e:
            log.error("agent.reload_refused", error=str(e))  # noqa: TRY400 - a sentence, no traceback
