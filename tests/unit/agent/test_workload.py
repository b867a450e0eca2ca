"""Istio's WorkloadGroup and WorkloadEntry as an agent's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.agent.config import AgentConfig
from isthmus.agent.load import parse
from isthmus.agent.probe import HttpGetAction
from isthmus.registry.model import Locality, Protocol
from isthmus.registry.settings import ConfigError

PATH = Path("/etc/isthmus/workloadgroup.yaml")

GROUP = """
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: reviews-vms, namespace: bookinfo, uid: 4f1f, labels: {team: books}}
spec:
  metadata:
    labels: {app: reviews, version: v1}
    annotations:
      proxy.istio.io/config: |
        discoveryAddress: isthmus.example:15010
        drainDuration: 5s
        registration: {type: bridge}
  template:
    ports: {http: 9080, grpc-api: 9000}
    locality: eu/eu-1
    weight: 10
    network: vms
    serviceAccount: bookinfo-reviews
  probe:
    initialDelaySeconds: 5
    periodSeconds: 2
    failureThreshold: 1
    httpGet: {path: /health, port: 9080, host: 127.0.0.1, scheme: HTTP}
"""


def config(text: str) -> AgentConfig:
    return parse(text.encode(), PATH, {}, "vm-1")


def error(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(text)
    return str(caught.value)


def test_a_group_is_one_service_with_its_settings() -> None:
    read = config(GROUP)

    (service,) = read.services
    assert (service.name, service.namespace, service.weight) == ("reviews", "bookinfo", 10)
    assert service.labels == {"app": "reviews", "version": "v1", "team": "books"}
    assert [(p.port, p.inbound_port, p.protocol_spoken) for p in service.ports] == [
        (9080, 9080, Protocol.HTTP),
        (9000, 9000, Protocol.GRPC),
    ]
    assert service.probe is not None
    assert service.probe.action == HttpGetAction(9080, "/health")
    assert (service.probe.initial_delay_seconds, service.probe.failure_threshold) == (5, 1)
    assert read.discovery_address == "isthmus.example:15010"
    assert read.locality_levels == Locality("eu", "eu-1")
    assert read.service_cluster == "reviews"


def test_an_entry_is_one_too() -> None:
    read = config(
        "{apiVersion: networking.istio.io/v1alpha3, kind: WorkloadEntry, metadata: {name: ratings}, "
        "spec: {address: 10.0.0.7, ports: {mysql: 3306}, labels: {version: v2}}}"
    )

    (service,) = read.services
    assert (service.name, service.namespace, read.address) == ("ratings", "default", "10.0.0.7")
    assert [(p.port, p.protocol_spoken) for p in service.ports] == [(3306, Protocol.TCP)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("kind: WorkloadGroup", "kind: Gateway"), "workloadgroup.yaml:3: kind: 'Gateway': expected WorkloadGroup or"),
        (
            ("http: 9080", "http: 908000"),
            "spec.template.ports: expected a mapping in which each entry is a whole number from 1",
        ),
        (("drainDuration: 5s", "drainDuration: soon"), "expected a duration such as 45s"),
        (("drainDuration", "drainedDuration"), "unknown field `drainedDuration`"),
        (("drainDuration: 5s", "- 5s"), "the annotation proxy.istio.io/config: not YAML"),
        (("locality: eu/eu-1", "locality: a/b/c/d"), "locality: 'a/b/c/d': expected at most three levels"),
        (
            ("serviceAccount", "serviceAcount"),
            "spec.template.serviceAcount: unknown field; did you mean serviceAccount?",
        ),
        (("name: reviews-vms", "x: y"), "metadata: name is missing"),
    ],
)
def test_what_cannot_be_used_is_named(change: tuple[str, str], said: str) -> None:
    assert said in error(GROUP.replace(*change))
