"""The demo: everything started in order, the story told, everything ended in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import Any, Literal

import msgspec
import structlog
from rich.console import Console

from isthmus.bridge import logs
from isthmus.bridge.bridge import Bridge, StartError
from isthmus.bridge.config import Config, ListenConfig, MeshConfig, XdsConfig
from isthmus.cli.demo.bookinfo import Bookinfo, Mesh, authority
from isthmus.cli.demo.load import Load
from isthmus.cli.demo.programs import DemoError, claim_port, envoy_version, find_program, free_ports
from isthmus.cli.demo.proxy import Proxy
from isthmus.cli.demo.registries import ConsulDemoRegistry, EmbeddedRegistry, FileDemoRegistry
from isthmus.cli.demo.show import Scene, print_outcome, print_steps, show_lines, show_live
from isthmus.cli.demo.story import Story
from isthmus.registry.drain import DrainRules

RATE = 40.0
"""Pages per second; each is up to five requests through Envoy."""


DRAIN = 2.0
"""Seconds that a removed instance is draining: long enough to be seen."""
PAUSE = 2.0
"""Seconds before each step, when somebody is there to look."""


class Options(msgspec.Struct, frozen=True):
    """What the caller chose. `port` None: any free one; `directory` None: the system's for temporary files."""

    once: bool = False
    json: bool = False
    registry: Literal["file", "consul"] = "file"
    envoy: Path | None = None
    port: int | None = None
    directory: Path | None = None


class _Ending:
    """Signals end the demo once, in order: a story that is being told is broken off, one that is over is left."""

    def __init__(self) -> None:
        self.signal = 0
        self.is_over = False
        self.left = asyncio.Event()

    def install(self, task: asyncio.Task[int]) -> None:
        """Let SIGINT, SIGTERM and SIGHUP end the task."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._end, number, task)

    def _end(self, number: int, task: asyncio.Task[int]) -> None:
        if self.signal:
            return  # it is being ended already
        self.signal = number
        if self.is_over:
            self.left.set()
        else:
            task.cancel()


async def run_demo(options: Options) -> int:
    """Play; returns the exit status: 0 when all was true, 128 + n when signal n broke it off.

    Raises:
        DemoError: it cannot run.

    """
    ending = _Ending()
    task = asyncio.ensure_future(_play(options, ending))
    ending.install(task)
    try:
        return await task
    except asyncio.CancelledError:
        if not ending.signal:
            raise
        return 128 + ending.signal
    except StartError as e:
        raise DemoError(str(e)) from None


class _Console(Console):
    """A console whose reader may go away: rich itself would end the process, and leave everything behind."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


async def _play(options: Options, ending: _Ending) -> int:
    console = _Console(stderr=options.json, highlight=False)
    async with _scene(options) as scene:
        story = scene.story
        async with _until_it_crashes(scene.bridge.failed(), _show(console, scene)) as crash:
            await _either(story.run(0 if options.once else PAUSE), crash)
            if options.once:
                await scene.load.stop()
            story.judge_requests()
            summary = story.summary()
            if not options.once:
                # From here on the user may do to the registry what the story would not.
                ending.is_over = True
                await _either(ending.left.wait(), crash)
        print_steps(console, scene)
    print_outcome(console, summary)
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode() + "\n")
    return 0 if summary.ok else 1


@contextlib.asynccontextmanager
async def _scene(options: Options) -> AsyncGenerator[Scene, None]:
    """Start everything; at the end stop it in the opposite order and remove what was written."""
    program = find_program("envoy", "bin/envoy", options.envoy)
    version = await envoy_version(program)
    async with contextlib.AsyncExitStack() as stack:
        if options.port is not None:
            claim_port(options.port)
        outbound, admin = free_ports(2)
        outbound = options.port or outbound
        directory = _make_directory(options.directory)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        logs.configure("info", stack.enter_context((directory / "bridge.log").open("w")))
        stack.callback(structlog.reset_defaults)

        registry: EmbeddedRegistry = (
            ConsulDemoRegistry(directory) if options.registry == "consul" else FileDemoRegistry(directory)
        )
        stack.push_async_callback(registry.stop)
        await registry.start()
        bridge = Bridge(
            Config(
                registries=(registry.to_config(),),
                mesh=MeshConfig(outbound_port=outbound),
                xds=XdsConfig("127.0.0.1:0"),
                http=ListenConfig("127.0.0.1:0"),
                drain=DrainRules(DRAIN),
                state_dir=str(directory / "state"),
            )
        )
        await bridge.start()
        stack.push_async_callback(bridge.stop)
        mesh = Mesh(f"127.0.0.1:{outbound}")
        stack.push_async_callback(mesh.close)
        bookinfo = Bookinfo(mesh)
        stack.push_async_callback(bookinfo.close)
        proxy = await Proxy.start(program, version, bridge, directory, admin)
        stack.push_async_callback(proxy.stop)
        load = Load(mesh, RATE)
        stack.push_async_callback(load.stop)
        hints = [f"curl -H 'Host: {authority('productpage')}' http://127.0.0.1:{outbound}/productpage"]
        if not options.once:
            hints += [
                f"isthmus services --bridge {bridge.http_address}; isthmus proxy-status --bridge {bridge.http_address}",
                f"{registry.kind} registry: {registry.where}",
            ]
        where = f"{registry.kind} registry, bridge, Envoy {version}, Bookinfo on 127.0.0.1"
        yield Scene(where, bridge, proxy, bookinfo, load, Story(registry, proxy, bookinfo, load), hints)


def _make_directory(parent: Path | None) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="isthmus-demo-", dir=parent))
    except OSError as e:
        raise DemoError(f"no temporary directory can be made in {parent or 'the usual places'}: {e.strerror}") from None


async def _show(console: Console, scene: Scene) -> None:
    await (show_live if console.is_terminal and not console.is_dumb_terminal else show_lines)(console, scene)


@contextlib.asynccontextmanager
async def _until_it_crashes(*endless: Coroutine[Any, Any, None]) -> AsyncGenerator[asyncio.Future[list[None]], None]:
    """Run what does not end by itself beside the block; the future ends with the first exception of any of it."""
    tasks = [asyncio.ensure_future(e) for e in endless]
    crash = asyncio.gather(*tasks)
    try:
        yield crash
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.wait((crash,))
        if not crash.cancelled():
            crash.exception()  # raised already where it was awaited


async def _either(play: Coroutine[Any, Any, object], crash: asyncio.Future[list[None]]) -> None:
    """Await something, or raise what crashed meanwhile."""
    playing = asyncio.ensure_future(play)
    try:
        await asyncio.wait((playing, crash), return_when=asyncio.FIRST_COMPLETED)
        (playing if playing.done() else crash).result()
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
