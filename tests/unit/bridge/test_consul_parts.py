"""A Consul with several datacenters or peers in the configuration file: an origin for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from isthmus.bridge.config import Config, ConsulRegistry, parse
from isthmus.registry.settings import ConfigError


def config(text: str) -> Config:
    return parse(text.encode(), Path("/etc/isthmus/isthmus.yaml"), {})


def test_each_datacenter_and_each_peer_is_an_origin_with_a_share_of_what_may_be_asked() -> None:
    text = (
        "registries: [{name: c, type: consul, token: t, datacenters: [dc1, DC_2], peers: [east], max_connections: 150}]"
    )
    found = [r for r in config(text).registries if isinstance(r, ConsulRegistry)]
    assert [(r.name, r.datacenter, r.peer) for r in found] == [
        ("c-dc1", "dc1", ""),
        ("c-dc-2", "DC_2", ""),
        ("c-east", "", "east"),
    ]
    assert {(r.token, r.max_connections, r.datacenters, r.peers) for r in found} == {("t", 50, (), ())}


def test_beside_peers_the_own_datacenter_is_read_too() -> None:
    found = config("registries: [{name: c, type: consul, peers: [east]}]").registries
    assert [r.name for r in found] == ["c", "c-east"]


def test_weights_are_those_of_the_origins() -> None:
    text = "registries: [{name: c, type: consul, datacenters: [dc1, dc2]}]\nmerge: {weights: {%s: 90}}"
    assert config(text % "c-dc2").merge.weights == {"c-dc2": 90}
    with pytest.raises(ConfigError, match=r"2: merge.weights.c: no registry of this name; there are c-dc1, c-dc2"):
        config(text % "c")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "registries:\n- {name: c-dc1, type: consul}\n- {name: c, type: consul, datacenters: [dc1]}",
            "3: registries[1].name: 'c-dc1' is the name of another registry",
        ),
        (
            "registries: [{name: c, type: consul, datacenters: [a_b, a-b]}]",
            "1: registries[0].name: 'c-a-b' is the name of another registry",
        ),
        (
            "registries: [{name: c, type: consul, datacenters: [dc1, dc2], max_connections: 40}]",
            "1: registries[0].max_connections: expected at least 23 for each of the 2 datacenters and peers",
        ),
    ],
)
def test_an_error_names_the_registry_as_it_is_written(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as failed:
        config(text)
    assert str(failed.value) == f"/etc/isthmus/isthmus.yaml:{said}"
