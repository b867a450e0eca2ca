"""The agent's own metrics, and those of Envoy and the applications on one page."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping

import aiohttp
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from isthmus.agent.answers import AgentStatus

MAX_BYTES = 16 << 20
"""Of what one application says."""
TIMEOUT = 5.0

_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?(\s.*)", re.DOTALL)


class ScrapeError(Exception):
    """An application's metrics could not be had."""


class AgentCollector(Collector):
    """`isthmus_agent_*`, of one status."""

    def __init__(self, status: AgentStatus, version: str) -> None:
        self._status = status
        self._version = version

    def collect(self) -> Iterable[Metric]:
        """The families as they stand."""
        status = self._status
        info = InfoMetricFamily("isthmus_agent", "Which agent this is.")
        info.add_metric([], {"version": self._version, "node": status.node, "envoy": status.envoy.version})
        yield info
        yield GaugeMetricFamily("isthmus_agent_ready", "1 while it is ready.", value=float(status.ready))
        yield GaugeMetricFamily("isthmus_agent_problems", "What is not as configured.", value=len(status.problems))
        yield GaugeMetricFamily("isthmus_agent_envoy_up", "1 while its Envoy runs.", value=float(status.envoy.pid > 0))
        yield GaugeMetricFamily(
            "isthmus_agent_envoy_epoch", "Hot restarts of the Envoy that runs.", value=status.envoy.epoch
        )
        yield CounterMetricFamily(
            "isthmus_agent_envoy_ends", "Times that its Envoy ended.", value=status.envoy.restarts
        )
        healthy = GaugeMetricFamily(
            "isthmus_agent_service_healthy", "1 while the probe of a service succeeds.", labels=["service"]
        )
        for service in status.services:
            if service.healthy is not None:
                healthy.add_metric([service.service], float(service.healthy))
        yield healthy


async def scrape(url: str) -> str:
    """What an application says on its page of metrics.

    Raises:
        ScrapeError: no answer in time, or another one, or a larger one.

    """
    headers = {"Accept": "text/plain;version=0.0.4"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT), headers=headers) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise ScrapeError(f"{url} answered {answer.status}")
            content = bytearray()
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise ScrapeError(f"{url}: more than {MAX_BYTES >> 20} MiB")
            return content.decode(errors="replace")
    except (aiohttp.ClientError, OSError, ValueError) as e:
        reason = f"no answer within {TIMEOUT:g} s" if isinstance(e, asyncio.TimeoutError) else str(e)
        raise ScrapeError(f"{url}: {reason}") from None


def merged(pages: Iterable[str], applications: Mapping[str, str]) -> str:
    """One page of several. Where there are several applications, each sample says whose it is, lest they be taken for one."""
    texts = [*pages]
    several = len(applications) > 1
    for service, page in applications.items():
        texts.append("\n".join(_labelled(line, service) if several else line for line in page.splitlines()))
    lines: list[str] = []
    described: set[str] = set()
    for line in "\n".join(texts).splitlines():
        if line.startswith("#"):
            # The type of a metric is said once on a page.
            words = line.split(None, 3)
            if len(words) < 3 or words[1] not in ("HELP", "TYPE") or f"{words[1]} {words[2]}" in described:
                continue
            described.add(f"{words[1]} {words[2]}")
        if line.strip():
            lines.append(line)
    return "\n".join(lines) + "\n"


def _labelled(line: str, service: str) -> str:
    sample = _SAMPLE.fullmatch(line)
    if line.startswith("#") or sample is None or re.search(r'(?:^|,)\s*service="', sample[2] or ""):
        return line
    labels = f"{sample[2].rstrip(', ')}," if sample[2] else ""
    return f'{sample[1]}{{{labels}service="{service}"}}{sample[3]}'
