"""How the demo looks: live on a terminal, line by line elsewhere, and its summary."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from isthmus.bridge.bridge import Bridge
from isthmus.cli.demo.bookinfo import Bookinfo
from isthmus.cli.demo.load import Load
from isthmus.cli.demo.proxy import Proxy
from isthmus.cli.demo.story import Percentiles, Step, Story, Summary, percentiles
from isthmus.registry.model import Health, Instance
from isthmus.xds.resource import TypeUrl

_FRAME_SECONDS = 0.125
_WINDOW_SECONDS = 1.0
_ROOMY = 34
"""Lines of a terminal from which on there are blank ones between the parts."""
_HEALTH = {Health.HEALTHY: "green", Health.UNHEALTHY: "red", Health.DRAINING: "yellow"}
_STATE = {"SYNCED": "green", "REJECTED": "bold red"}


@dataclasses.dataclass
class Scene:
    """Everything that is shown. `where` says what runs, `hints` are lines for the user to try."""

    where: str
    bridge: Bridge
    proxy: Proxy
    bookinfo: Bookinfo
    load: Load
    story: Story
    hints: list[str]
    printed: int = 0
    """Steps that were printed as lines."""
    _counts: deque[tuple[float, dict[int, int]]] = dataclasses.field(default_factory=deque)

    def per_second(self, port: int) -> float | None:
        """Requests that reached the instance on a port, per second, over the last second; None if it does not run."""
        if not self._counts or port not in self._counts[-1][1]:
            return None
        (then, before), (now, after) = self._counts[0], self._counts[-1]
        return (after[port] - before.get(port, 0)) / max(now - then, _FRAME_SECONDS)

    def count(self) -> None:
        """Remember how many requests each instance has had."""
        now = time.monotonic()
        self._counts.append((now, {i.port: i.requests for i in self.bookinfo.instances.values()}))
        while now - self._counts[0][0] > _WINDOW_SECONDS:
            self._counts.popleft()


async def show_live(console: Console, scene: Scene) -> None:
    """Draw until cancelled, on the terminal's second screen."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            scene.count()
            live.update(_Picture(scene), refresh=True)
            await asyncio.sleep(_FRAME_SECONDS)


async def show_lines(console: Console, scene: Scene) -> None:
    """Print each step once it is known, until cancelled."""
    for line in (_title(scene), *(Text(hint) for hint in scene.hints), Text("")):
        console.print(line, soft_wrap=True)
    while True:
        print_steps(console, scene)
        await asyncio.sleep(_FRAME_SECONDS)


def print_steps(console: Console, scene: Scene) -> None:
    """The steps that are known and have not been printed yet."""
    known = itertools.takewhile(lambda s: s.ok is not None, scene.story.steps[scene.printed :])
    for step in known:
        console.print(_step(step), soft_wrap=True)
        scene.printed += 1


def print_outcome(console: Console, summary: Summary) -> None:
    """The end of it, for people."""
    console.print(f"\nRegistry changed to Envoy acknowledged: {_took(summary.registry_to_ack_ms)}.", soft_wrap=True)
    outcome = Text("All of it was true.", "bold green") if summary.ok else Text("Not all of it was true.", "bold red")
    console.print(outcome)


class _Picture:
    """One frame, fitted to the terminal: the answers get the lines that are left."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def __rich_console__(self, console: Console, options: object) -> Iterable[RenderableType]:
        scene = self._scene
        dot = "*" if console.options.ascii_only else "●"
        hints = [Text(h, "dim", no_wrap=True, overflow="ellipsis") for h in scene.hints]
        gap = [Text("")] if console.size.height >= _ROOMY else []
        instances = sum(len(s.instances) for s in scene.bridge.published.catalog.services.values())
        fixed = 1 + (1 + instances) + 2 + len(scene.story.steps) + 1 + len(hints) + 5 * len(gap)
        pages = _pages(scene.load, max(0, console.size.height - fixed))
        parts = (_title(scene), _registry(scene, dot), _proxy(scene), _steps(scene.story.steps), pages, Group(*hints))
        spaced: list[RenderableType] = [parts[0]]
        for part in parts[1:]:
            spaced += [*gap, part]
        yield Group(*spaced)


def _title(scene: Scene) -> Text:
    return Text.assemble(
        ("Isthmus demo", "bold"), f"  {scene.where}", ("  Ctrl-C ends", "dim"), no_wrap=True, overflow="ellipsis"
    )


def _registry(scene: Scene, dot: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("registry", "instance", "address", "health"):
        table.add_column(title, no_wrap=True)
    for title in ("weight", "requests/s"):
        table.add_column(title, no_wrap=True, justify="right")
    for key, service in sorted(scene.bridge.published.catalog.services.items()):
        for i, instance in enumerate(service.instances):
            table.add_row(key.name if i == 0 else "", *_instance(scene, instance, dot))
    return table


def _instance(scene: Scene, instance: Instance, dot: str) -> list[Text | str]:
    port = next(iter(instance.ports.values()), 0)
    rate = scene.per_second(port)
    health = Text.assemble((dot, _HEALTH.get(instance.health, "dim")), " ", instance.health.value)
    # Consul's ids begin with the node.
    name = instance.id.rpartition("/")[2]
    flow = Text("-" if rate is None else f"{rate:.0f}", "" if rate else "dim")
    return [name, f"{instance.address}:{port}", health, str(instance.weight), flow]


def _proxy(scene: Scene) -> Text:
    text = Text.assemble((f"Envoy {scene.proxy.version}", "bold"), "  ", no_wrap=True, overflow="ellipsis")
    status = scene.proxy.status()
    snapshot = scene.bridge.server.snapshot
    for kind in sorted(status.types, key=lambda t: t.type) if status else ():
        count = next((len(snapshot.of_type(t)) for t in TypeUrl if t.short == kind.type), 0)
        text.append(f"{kind.type} {count} ")
        text.append(kind.state.lower(), _STATE.get(kind.state, "yellow"))
        text.append("  ")
    took = scene.story.ack_ms
    last = f"last {took[-1]:.0f} ms, {_took(percentiles(took))}" if took else "nothing yet"
    return text.append(f"\nregistry changed to acknowledged: {last}")


def _took(found: Percentiles) -> str:
    if found.p50 is None or found.p99 is None:
        return "- ms"
    return f"p50 {found.p50:.0f} ms, p99 {found.p99:.0f} ms"


def _steps(steps: list[Step]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(min_width=4, no_wrap=True)
    table.add_column(min_width=max(len(s.name) for s in steps), no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    current = next((s for s in steps if s.ok is None), None)
    for step in steps:
        if step.ok is not None:
            table.add_row(_mark(step.ok), step.name, Text(step.detail, "dim" if step.ok else "red"))
        elif step is current:
            table.add_row(Text("...", "cyan"), step.name)
        else:
            table.add_row("", Text(step.name, "dim"))
    return table


def _step(step: Step) -> Text:
    return Text.assemble(_mark(bool(step.ok)), f"  {step.name}: {step.detail}")


def _mark(ok: bool) -> Text:
    return Text("ok  ", "green") if ok else Text("FAIL", "bold red")


def _pages(load: Load, room: int) -> Text:
    failed = (f"{load.failed} failed", "bold red" if load.failed else "green")
    head = f"  {load.requests} pages through Envoy, {load.rate:.0f} per second, "
    text = Text.assemble(("requests", "bold"), head, failed, no_wrap=True, overflow="ellipsis")
    for page in list(load.recent)[::-1][:room]:
        text.append(f"\n  {page.ms:5.1f} ms  ")
        text.append(page.error or "  ".join(page.instances), "red" if page.error else "")
    return text
