"""How the registries' settings become rules for the catalog."""

from __future__ import annotations

from pathlib import Path

from isthmus.bridge.config import parse
from isthmus.registry.merge import MergeRules
from isthmus.registry.model import OutlierDetection


def rules(*registries: str) -> MergeRules:
    text = "registries:\n" + "".join(f"- {{name: r{n}, {r}}}\n" for n, r in enumerate(registries))
    return parse(text.encode(), Path("/etc/isthmus/isthmus.yaml"), {}).merge_rules


def test_eureka_notices_crashes_late_and_the_others_do_not() -> None:
    made = rules(
        "type: consul",
        "type: eureka",
        "type: etcd, prefixes: [{prefix: /services/}]",
        "type: nomad",
        "type: file, path: x",
    )

    assert made.outlier_detection == {"r1": OutlierDetection()}


def test_each_registry_may_say_otherwise() -> None:
    made = rules(
        "type: eureka, outlier_detection: false",
        "type: eureka, outlier_detection: {max_percent: 20}",
        "type: consul, outlier_detection: true",
        "type: file, path: x, outlier_detection: {consecutive_5xx: 5}",
    )

    assert made.outlier_detection == {
        "r1": OutlierDetection(max_percent=20),
        "r2": OutlierDetection(),
        "r3": OutlierDetection(consecutive_5xx=5),
    }
