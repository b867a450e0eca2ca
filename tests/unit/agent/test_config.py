"""agent.yaml: what is accepted, and what is said about what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.agent.config import AgentConfig, Target
from isthmus.agent.load import parse
from isthmus.agent.registration import ConsulRegistration, NoRegistration
from isthmus.registry.model import Locality, Protocol
from isthmus.registry.settings import ConfigError

PATH = Path("/etc/isthmus/agent.yaml")


def config(text: str, **environment: str) -> AgentConfig:
    return parse(text.encode(), PATH, environment, "vm-1")


def error(text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(text, **environment)
    return str(caught.value)


def test_an_empty_file_is_an_agent_without_services() -> None:
    empty = config("{}")

    assert (empty.node, empty.service_cluster, empty.services) == ("vm-1", "isthmus", ())
    assert empty.outbound_mode == "ADDRESSES"
    assert empty.registration == NoRegistration()


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("{}", True),
        ("dns:", True),
        ("interceptionMode: REDIRECT", True),
        ("dns: {enabled: false}", False),
        ("{interceptionMode: TPROXY, dns: {enabled: false}}", False),
        ("outbound: {mode: EXPLICIT}", False),
        ("outbound: {mode: NONE}", False),
        ("{outbound: {mode: EXPLICIT}, dns: {}}", True),
    ],
)
def test_names_are_answered_where_they_lead_to_the_proxy(text: str, answered: bool) -> None:
    assert (config(text).dns is not None) == answered


def test_istios_names_are_taken() -> None:
    text = """
    discoveryAddress: isthmus.example:15010
    serviceCluster: reviews
    drainDuration: 45s
    parentShutdownDuration: 1m
    terminationDrainDuration: 500ms
    connectTimeout: 10s
    proxyAdminPort: 15000
    statusPort: 15020
    concurrency: 4
    proxyLogLevel: info
    interceptionMode: TPROXY
    locality: eu/eu-1
    registration: {type: consul, token: "${env:SECRET}"}
    """

    read = config(text, SECRET="t0p")  # noqa: S106 - nobody has it

    durations = (read.drain_duration, read.parent_shutdown_duration, read.termination_drain_duration)
    assert [float(d) for d in durations] == [45, 60, 0.5]
    assert read.outbound_mode == "CAPTURED"
    assert read.locality_levels == Locality("eu", "eu-1")
    assert isinstance(read.registration, ConsulRegistration)
    assert read.registration.token == "t0p"  # noqa: S105
    assert "t0p" not in repr(read)


def test_a_port_has_defaults_that_fit() -> None:
    """The protocol by the name, the name by the protocol, the application on loopback, the proxy at the port itself."""
    text = """
    services:
    - name: reviews
      ports:
      - {name: grpc-api, port: 9000}
      - {port: 9080, protocol: http, target: "127.0.0.1:9081"}
      - {name: mysql, port: 3306, inbound: 0, target: "unix:///run/my.sock"}
    """

    grpc, http, mysql = config(text).services[0].ports

    assert (grpc.title, grpc.protocol_spoken, grpc.inbound_port) == ("grpc-api", Protocol.GRPC, 9000)
    assert grpc.at() == Target("127.0.0.1", 9000)
    assert (http.title, http.protocol_spoken, http.at()) == ("http", Protocol.HTTP, Target("127.0.0.1", 9081))
    assert (mysql.protocol_spoken, mysql.inbound_port, mysql.at()) == (Protocol.TCP, 0, Target("/run/my.sock", 0))


def test_paths_are_relative_to_the_file() -> None:
    read = config("{configPath: state, binaryPath: bin/envoy}")

    assert (read.config_path, read.binary_path) == ("/etc/isthmus/state", "/etc/isthmus/bin/envoy")
    assert config("{binaryPath: envoy-1.40}").binary_path == "envoy-1.40"


SERVICE = "services: [{name: reviews, ports: [%s]}]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drainDuration: 45", "/etc/isthmus/agent.yaml:1: drainDuration: expected a duration such as 45s"),
        ("drainduration: 45s", "unknown field; did you mean drainDuration?"),
        ("discoveryAddress: bridge", "discoveryAddress: 'bridge': expected host:port"),
        ("address: vm-1", "address: 'vm-1': expected an IP address such as 10.0.0.5"),
        ("locality: a/b/c/d", "expected at most three levels, region/zone/sub_zone"),
        ("interceptionMode: ALWAYS", "interceptionMode: expected NONE, REDIRECT or TPROXY, got 'ALWAYS'"),
        ("outbound: {mode: CAPTURED}", "outbound.mode: expected ADDRESSES, EXPLICIT or NONE, got 'CAPTURED'"),
        ("parentShutdownDuration: 1s", "parentShutdownDuration: 1s: expected at least drainDuration, 45s"),
        ("readinessPort: 15020", "readinessPort: 15020 is statusPort already"),
        ("proxyAdminPort: 70000", "proxyAdminPort: expected a whole number from 0 to 65535, got 70000"),
        (f"configPath: /{'x' * 100}\nproxyAdminPort: 0", "expected at most 96 bytes"),
        ("discoveryAddress: []", "discoveryAddress: expected host:port, or a list with at least one"),
        ("discoveryAddress: ['a:1', b]", "discoveryAddress[1]: 'b': expected host:port"),
        ("registration: {type: zookeeper}", "registration.type: expected bridge, consul, etcd, eureka or none"),
        ("services: [{name: reviews}]", "services[0]: ports is missing"),
        ("services: [{name: reviews, ports: []}]", "services[0].ports: expected a list with at least one entry"),
        ("services: [{name: 'a b', ports: [{port: 80}]}]", "services[0].name: 'a b': expected a name of letters"),
        (SERVICE % "{port: 80}, {port: 80, name: b}", "services[0].ports[1]: the number 80 is another port's"),
        (SERVICE % "{port: 80}, {port: 81}", "services[0].ports[1]: the name tcp is another port's"),
        (SERVICE % "{port: 15021}", "services[0].ports[0].inbound: 15021 is readinessPort already"),
        (SERVICE % "{port: 80, target: localhost}", "services[0].ports[0].target: 'localhost': expected host:port"),
        (SERVICE % "{port: 80, target: 'unix:app.sock'}", "expected an absolute path of at most 107 bytes"),
        (
            "address: 127.0.0.1\nservices: [{name: reviews, ports: [{port: 80}]}]",
            "agent.yaml:2: services[0].ports[0].inbound: 127.0.0.1:80 is where the application listens",
        ),
        (
            "services: [{name: a, ports: [{port: 80}]}, {name: b, ports: [{port: 81, inbound: 80}]}]",
            "services[1].ports[0].inbound: 80 is the proxy's port for a tcp already",
        ),
        (
            "services: [{name: a, ports: [{port: 80}]}, {name: a, ports: [{port: 81}]}]",
            "services[1].name: 'a' stands twice in the namespace default",
        ),
        ("dns: {listen: ['0.0.0.0:53']}", "dns.listen[0]: '0.0.0.0:53': expected one address of this machine"),
    ],
)
def test_what_cannot_be_used_is_named_with_what_could(text: str, said: str) -> None:
    assert said in error(text)
