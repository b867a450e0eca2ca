"""docs/dns.md says what is there."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from isthmus.agent.dns.answer import Result
from isthmus.agent.dns.config import DnsConfig
from isthmus.agent.dns.metrics import DnsMetrics
from isthmus.agent.duration import decode

PAGE = (Path(__file__).resolve().parents[4] / "docs/dns.md").read_text()


def test_the_section_with_all_defaults_is_complete() -> None:
    block = re.search(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    documented = yaml.safe_load(block[1])["dns"]

    assert set(documented) == set(DnsConfig.__struct_encode_fields__)
    assert msgspec.convert(documented, DnsConfig, dec_hook=decode) == DnsConfig()


def test_metrics_and_results_are_described() -> None:
    registry = CollectorRegistry()
    DnsMetrics(registry)
    served = set(re.findall(r"^# TYPE (\w+)", generate_latest(registry).decode(), re.MULTILINE))

    named = set(re.findall(r"`(isthmus_agent_dns_\w+)`", PAGE))

    assert named == {name for name in served if not name.endswith("_created")}
    for result in Result:
        assert re.search(rf"\b{result}\b", PAGE), result
