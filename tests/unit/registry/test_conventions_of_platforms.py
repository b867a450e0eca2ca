"""The same conventions in what each registry answers: off, nothing changes; on, the service is what the other tool says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from isthmus.bridge.config import parse
from isthmus.registry.consul import answers as consul_answers
from isthmus.registry.consul import known as consul_known
from isthmus.registry.consul import parse as consul_parse
from isthmus.registry.conventions import Convention
from isthmus.registry.etcd import known as etcd_known
from isthmus.registry.etcd.config import EtcdConfig
from isthmus.registry.eureka import answers as eureka_answers
from isthmus.registry.eureka import known as eureka_known
from isthmus.registry.eureka import parse as eureka_parse
from isthmus.registry.model import Origin, Protocol, Service, ServiceKey, Snapshot
from isthmus.registry.nomad import answers as nomad_answers
from isthmus.registry.nomad import known as nomad_known
from isthmus.registry.nomad import parse as nomad_parse
from isthmus.registry.nomad.memory import Memory
from isthmus.registry.settings import ConfigError

WEB = ServiceKey("default", "web")
TRAEFIK = "traefik.http.services.web.loadbalancer.server."


def web(snapshot: Snapshot) -> Service:
    return snapshot.services[WEB]


def ports(service: Service) -> list[tuple[str, int, Protocol]]:
    return [(p.name, p.number, p.protocol) for p in service.ports]


def remarks(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(q.where, q.reason) for q in snapshot.quarantined]


# Consul.


def consul(*services: dict[str, Any], conventions: tuple[Convention, ...] | None = None) -> Snapshot:
    """The snapshot after `/v1/health/service/web` has answered with these services, each on a node of its own."""
    answer = [
        {
            "Node": {"Node": f"n{n}", "Address": "10.9.9.9", "Datacenter": "dc1"},
            "Service": {"ID": f"web-{n}", "Service": "web", "Address": f"10.0.0.{n}", "Port": 8080} | service,
            "Checks": [],
        }
        for n, service in enumerate(services, 1)
    ]
    rules = consul_parse.Rules() if conventions is None else consul_parse.Rules(conventions=conventions)
    known = consul_known.Known(Origin("dc1", "consul"), rules)
    known.heard_list({"web": frozenset()}, 1, False)
    known.heard_service("web", consul_answers.parse_listing(json.dumps(answer).encode()), 1, False, 0.0)
    return known.take()


ALLEGRO = (
    {"Tags": ["weight:90", "v1"], "Weights": {"Passing": 5, "Warning": 1}},
    {"Tags": ["canary", "weight:10"]},
    {"Tags": ["weight:abc"]},
)


def test_consul_without_a_convention_reads_no_other_tools_tags() -> None:
    snapshot = consul(*ALLEGRO)

    assert [i.weight for i in web(snapshot).instances] == [5, 1, 1]
    assert [i.labels for i in web(snapshot).instances] == [
        {"tags": "v1,weight:90"},
        {"tags": "canary,weight:10"},
        {"tags": "weight:abc"},
    ]
    assert remarks(snapshot) == []


def test_consul_with_envoy_controls_tags() -> None:
    """A tag that is wrong is reported, and costs nothing but itself."""
    snapshot = consul(*ALLEGRO, conventions=("envoy-control",))

    assert [i.weight for i in web(snapshot).instances] == [90, 10, 50]
    assert [i.labels for i in web(snapshot).instances] == [
        {"tags": "v1", "weight": "90"},
        {"canary": "true", "weight": "10"},
        {"tags": "weight:abc"},
    ]
    assert remarks(snapshot) == [
        (
            "service web, instance web-3 on node n3, tag weight:abc",
            "'abc' is not a whole number, 0 to 100000; not followed",
        )
    ]


def test_consul_keeps_the_order_of_who_says_the_protocol() -> None:
    """Meta or tag `protocol`, then a convention, then the default."""
    tag = TRAEFIK + "scheme=h2c"

    assert ports(web(consul({"Tags": [tag]})))[0][2] is Protocol.HTTP
    assert ports(web(consul({"Tags": [tag]}, conventions=("traefik",))))[0][2] is Protocol.HTTP2
    said = {"Tags": [tag, "protocol=grpc"]}
    assert ports(web(consul(said, {"Tags": [tag]}, conventions=("traefik",))))[0][2] is Protocol.GRPC


def test_a_pair_that_names_the_protocol_is_the_tag_protocol() -> None:
    said = ["protocol|grpc"]

    assert ports(web(consul({"Tags": said})))[0][2] is Protocol.HTTP
    assert ports(web(consul({"Tags": said}, conventions=("k|v",))))[0][2] is Protocol.GRPC
    assert ports(web(nomad(said, conventions=("k|v",))))[0][2] is Protocol.GRPC


def test_consul_with_spring_clouds_metadata() -> None:
    service = web(consul({"Meta": {"secure": "true", "gRPC_port": "9090"}}, {}, conventions=("spring",)))

    assert ports(service) == [("https", 8080, Protocol.HTTPS), ("grpc", 9090, Protocol.GRPC)]
    assert [i.ports for i in service.instances] == [{"grpc": 9090, "https": 8080}, {"https": 8080}]


def test_consul_with_registrators_ids() -> None:
    """Published at random, callers name the port inside the container; a UDP port is none that they could call."""
    services = (
        {"ID": "h1:web:9080", "Port": 32770, "Meta": {"region": "eu", "check_http": "/"}},
        {"ID": "h2:web:9080", "Port": 32801},
        {"ID": "h2:web:53:udp", "Port": 32802, "Tags": ["udp"]},
    )
    assert ports(web(consul(*services)))[0][1] == 80

    snapshot = consul(*services, conventions=("registrator",))

    assert ports(web(snapshot)) == [("http", 9080, Protocol.HTTP)]
    assert [(i.ports["http"], i.labels) for i in web(snapshot).instances] == [(32770, {"region": "eu"}), (32801, {})]
    assert [where for where, _ in remarks(snapshot)] == ["service web, instance h2:web:53:udp on node n3"]


def test_consul_with_no_convention_at_all_takes_tags_apart_no_more() -> None:
    service = web(consul({"Tags": ["version=v1", "protocol=grpc"]}, conventions=()))

    assert service.instances[0].labels == {"tags": "version=v1", "protocol": "grpc"}
    assert ports(service)[0][2] is Protocol.GRPC


# Nomad.


def nomad(
    *tags: list[str], conventions: tuple[Convention, ...] | None = None, port_label: str = "", port: int = 24_000
) -> Snapshot:
    """The snapshot after `/v1/service/web` has answered with instances that have these tags, and the job has been read."""
    rules = nomad_parse.Rules() if conventions is None else nomad_parse.Rules(conventions=conventions)
    known = nomad_known.Known(Origin("nomad", "nomad"), rules, 60.0, Memory())
    known.heard_namespaces(frozenset({"default"}))
    name = nomad_answers.ServiceName("default", "web")
    known.heard_list(frozenset({name}), 10, 0.0)
    specs = [{"Name": "web", "Provider": "nomad", "PortLabel": port_label}]
    job = {"ID": "job", "TaskGroups": [{"Name": "web", "Services": specs}], "ModifyIndex": 5}
    known.heard_job(msgspec.convert(job, nomad_answers.Job))
    registrations = []
    for n, said in enumerate(tags):
        alloc = f"alloc-{n}".ljust(36, "-")
        known.heard_allocation(
            nomad_answers.Allocation(alloc, job="job", group="web", client="running", modify_index=7)
        )
        registrations.append(
            {
                "ID": f"web-{n}",
                "ServiceName": "web",
                "AllocID": alloc,
                "JobID": "job",
                "Tags": said,
                "Address": f"10.0.0.{n + 1}",
                "Port": port + n,
            }
        )
    known.heard_service(name, nomad_answers.parse_listing(json.dumps(registrations).encode()), 10, 0.0)
    return known.take(0.0)


def test_nomad_with_fabios_tags() -> None:
    tags = (["urlprefix-/ proto=grpc weight=0.1", "version=v2"], ["urlprefix-/ proto=grpc", "version=v1"])
    assert ports(web(nomad(*tags))) == [("http", 80, Protocol.HTTP)]
    assert [i.weight for i in web(nomad(*tags)).instances] == [1, 1]

    service = web(nomad(*tags, conventions=("k=v", "fabio")))

    assert ports(service) == [("grpc", 80, Protocol.GRPC)]
    assert [i.weight for i in service.instances] == [1000, 9000]
    assert [i.labels["version"] for i in service.instances] == ["v2", "v1"]


def test_nomads_own_tags_need_no_convention() -> None:
    service = web(nomad(["port=9000", "protocol=http2", "weight=7", "a=b"], conventions=()))

    assert ports(service) == [("http2", 9000, Protocol.HTTP2)]
    assert service.instances[0].weight == 7
    assert service.instances[0].labels["tags"] == "a=b"


@pytest.mark.parametrize(
    ("label", "tags", "protocol"),
    [
        ("grpc-web", [], Protocol.GRPC_WEB),
        ("grpc-api", [], Protocol.GRPC),
        ("db", [], Protocol.HTTP),
        ("8080", [], Protocol.HTTP),
        ("grpc", ["protocol=http"], Protocol.HTTP),
    ],
)
def test_the_name_of_the_port_in_nomads_job_tells_the_protocol(label: str, tags: list[str], protocol: Protocol) -> None:
    """A tag says it in so many words, and wins; a name that tells nothing leaves it at the default."""
    assert ports(web(nomad(tags, port_label=label)))[0][2] is protocol


def test_nomad_says_what_of_a_tag_cannot_be_followed() -> None:
    snapshot = nomad([TRAEFIK + "port=http"], conventions=("traefik",))

    assert [i.ports for i in web(snapshot).instances] == [{"http": 24_000}]
    ((where, reason),) = remarks(snapshot)
    assert where == "service web, instance web-0 in namespace default, tag port of Traefik's service web"
    assert "'http' is not a port number" in reason


# Eureka.


def eureka(*metadata: dict[str, str], conventions: tuple[Convention, ...] = ()) -> Snapshot:
    """The snapshot after `/eureka/apps` has answered with instances that have this metadata."""
    instances = [
        {
            "instanceId": f"web-{n}",
            "app": "WEB",
            "hostName": f"h{n}",
            "ipAddr": f"10.0.0.{n}",
            "status": "UP",
            "port": {"$": 8080, "@enabled": "true"},
            "securePort": {"$": 443, "@enabled": "false"},
            "metadata": said,
        }
        for n, said in enumerate(metadata, 1)
    ]
    answer = {"applications": {"apps__hashcode": "", "application": [{"name": "WEB", "instance": instances}]}}
    listing = eureka_answers.parse_listing(json.dumps(answer).encode())
    known = eureka_known.Known(Origin("spring", "eureka"), eureka_parse.Rules(conventions=conventions), "e:8761")
    known.heard_all([eureka_answers.parse_application(a) for a in listing.applications], "", 0.0, watched=False)
    return known.take()


def test_eureka_with_spring_clouds_metadata() -> None:
    metadata = {"gRPC_port": "9090", "weight": "4", "protocol": "http2"}
    assert ports(web(eureka(metadata))) == [("http2", 8080, Protocol.HTTP2)]

    service = web(eureka(metadata, {}, conventions=("spring",)))

    assert ports(service) == [("http2", 8080, Protocol.HTTP2), ("grpc", 9090, Protocol.GRPC)]
    assert [(i.weight, i.ports) for i in service.instances] == [
        (4, {"grpc": 9090, "http2": 8080}),
        (1, {"http2": 8080}),
    ]
    assert service.instances[0].labels == metadata


def test_eureka_says_which_metadata_cannot_be_followed() -> None:
    snapshot = eureka({"gRPC_port": "much"}, conventions=("spring",))

    assert len(web(snapshot).instances) == 1
    assert [where for where, _ in remarks(snapshot)] == ["application WEB, instance web-1, gRPC_port"]
    assert remarks(eureka({"gRPC_port": "much"})) == []


# etcd.


def etcd(*pairs: tuple[str, object], conventions: tuple[Convention, ...] = (), **prefix: Any) -> Snapshot:
    """The snapshot after a range of `/p/` has answered with these keys."""
    said = {"prefixes": [{"prefix": "/p/"} | prefix], "conventions": conventions}
    known = etcd_known.Known(Origin("etcd", "etcd"), msgspec.convert(said, EtcdConfig))
    for revision, (key, value) in enumerate(pairs, 1):
        text = value if isinstance(value, str) else json.dumps(value)
        known.put(0, etcd_known.Pair(f"/p/{key}".encode(), text.encode(), revision, False))
    return known.take()


TEMPLATE = {"key": "{service}/{id...}", "address": "$.ip", "port": "$.port", "labels": "$.attrs", "tags": "$.tags"}


def test_etcd_with_tags_by_a_template() -> None:
    pairs = [
        (f"web/{n}", {"ip": f"10.0.0.{n}", "port": 8080, "tags": tags})
        for n, tags in enumerate((["weight:30", "canary"], ["weight:70"], ["weight:much"]), 1)
    ]
    off = etcd(*pairs, layout="template", template=TEMPLATE)
    assert [i.weight for i in web(off).instances] == [1, 1, 1]
    assert web(off).instances[0].labels == {"tags": "canary,weight:30"}
    assert remarks(off) == []

    on = etcd(*pairs, layout="template", template=TEMPLATE, conventions=("envoy-control",))

    assert [i.weight for i in web(on).instances] == [30, 70, 50]
    assert web(on).instances[0].labels == {"canary": "true", "weight": "30"}
    assert remarks(on) == [("key /p/web/3", "tag weight:much: 'much' is not a whole number, 0 to 100000; not followed")]


def test_etcd_with_registrators_keys() -> None:
    pairs = [("web/h1:web:9080", "10.0.0.1:32770"), ("web/h2:web:9080", "10.0.0.2:33001")]
    assert ports(web(etcd(*pairs, layout="registrator")))[0][1] == 80

    service = web(etcd(*pairs, layout="registrator", conventions=("registrator",)))

    assert ports(service) == [("http", 9080, Protocol.HTTP)]


def test_etcd_with_spring_clouds_metadata() -> None:
    node = {"id": "a", "address": "10.0.0.1:8080", "metadata": {"gRPC_port": "9090", "secure": "true", "weight": "5"}}
    pair = ("web/a", {"name": "web", "nodes": [node]})

    service = web(etcd(pair, layout="go-micro", conventions=("spring",)))

    assert ports(service) == [("https", 8080, Protocol.HTTPS), ("grpc", 9090, Protocol.GRPC)]
    assert [(i.weight, i.ports) for i in service.instances] == [(5, {"grpc": 9090, "https": 8080})]


def test_tags_in_etcd_that_are_no_list_of_text_are_refused() -> None:
    snapshot = etcd(("web/1", {"ip": "10.0.0.1", "port": 1, "tags": "a,b"}), layout="template", template=TEMPLATE)

    assert remarks(snapshot) == [("key /p/web/1", "tags: expected a list of text")]


# Configuration.


@pytest.mark.parametrize(
    ("registry", "accepted"),
    [
        ("{name: r, type: consul, conventions: [istio]}", "registrator"),
        ("{name: r, type: nomad, conventions: [spring]}", "traefik"),
        ("{name: r, type: eureka, conventions: [k=v]}", "spring"),
        ("{name: r, type: etcd, prefixes: [{prefix: /p/}], conventions: [k, v]}", "k|v"),
    ],
)
def test_a_convention_that_a_registry_has_nothing_for_is_refused(registry: str, accepted: str) -> None:
    """The error names the place and what would be accepted there."""
    with pytest.raises(ConfigError, match=r"isthmus\.yaml:2: registries\[0\]\.conventions\[0\]: expected .*") as caught:
        parse(f"registries:\n- {registry}\n".encode(), Path("isthmus.yaml"), {})

    assert accepted in str(caught.value)


def test_all_conventions_of_consul_can_be_configured() -> None:
    names = ", ".join(get_args(Convention))
    text = f"registries: [{{name: r, type: consul, conventions: [{names}]}}]"

    config = parse(text.encode(), Path("isthmus.yaml"), {})

    assert len(getattr(config.registries[0], "conventions", ())) == len(get_args(Convention))


# All of them.


def by(snapshot: Snapshot) -> list[str | None]:
    """What each instance's provenance says of the conventions that were applied to it."""
    return [i.provenance.get("conventions") for i in web(snapshot).instances]


def test_an_instance_says_by_which_conventions_anything_was_read_of_it() -> None:
    """Not which are configured; and one that says what another has said before it adds nothing."""
    tags = [TRAEFIK + "scheme=h2c", "weight:30", "v=1"]
    both: tuple[Convention, ...] = ("k=v", "envoy-control", "traefik", "fabio")
    pair = ("web/1", {"ip": "10.0.0.1", "port": 8080, "tags": tags})

    assert by(consul({"Tags": tags}, {"Tags": ["v=1"]}, conventions=both)) == ["envoy-control, traefik", None]
    assert by(consul({"Tags": tags})) == [None]
    assert by(nomad(tags, ["weight:30"], conventions=both)) == ["envoy-control, traefik", "envoy-control"]
    assert by(eureka({"gRPC_port": "9090"}, {"secure": "false"}, conventions=("spring",))) == ["spring", None]
    assert by(etcd(pair, layout="template", template=TEMPLATE, conventions=both)) == ["envoy-control, traefik"]
