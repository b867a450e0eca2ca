"""What tags and metadata say by each convention, and what a service becomes by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from isthmus.registry.conventions import Convention, Said, protocol_of_port_name, read, shape
from isthmus.registry.conventions.said import MorePort
from isthmus.registry.model import Health, Instance, Port, Protocol, Service, ServiceKey


def mk_service(*healths: Health, ports: Mapping[str, int] | None = None) -> Service:
    """Instances `a`, `b`, ... with these states of health, at port 8080."""
    instances = tuple(
        Instance(name, "o", f"10.0.0.{n}", ports or {"http": 8080}, health, weight=3)
        for n, (name, health) in enumerate(zip("abcdefgh", healths, strict=False), 1)
    )
    return Service(ServiceKey("default", "web"), (Port("http", 8080, Protocol.HTTP),), instances)


def weights(saids: Mapping[str, Said], *healths: Health) -> list[int]:
    service, remarks = shape(mk_service(*healths), "http", saids, 20_000)
    assert remarks == []
    return [i.weight for i in service.instances]


UP, DOWN = Health.HEALTHY, Health.UNHEALTHY


# Pairs.


@pytest.mark.parametrize(
    ("conventions", "tags", "labels"),
    [
        ((), ["b", "a=1", "a"], {"tags": "a,a=1,b"}),
        (("k=v",), ["version=v1", "plain", "k|v", "=x"], {"tags": "=x,k|v,plain", "version": "v1"}),
        (("k|v",), ["version|v1|beta", "a=b", "|x"], {"tags": "a=b,|x", "version": "v1|beta"}),
        (("k:v",), ["version:v1", "a=b"], {"tags": "a=b", "version": "v1"}),
        (("k=v", "k:v"), ["url:http://x?a=b", "q=a:b"], {"url": "http://x?a=b", "q": "a:b"}),
        (("k=v",), ["v=1", "v=2"], {"v": "2"}),
    ],
)
def test_pairs_become_labels(conventions: tuple[Convention, ...], tags: list[str], labels: dict[str, str]) -> None:
    """Of several separators the first one in the tag parts it; what is no pair stays among the tags."""
    assert read(conventions, tags, {}) == Said(labels=labels)
    assert read(conventions, tags[::-1] + tags, {}) == Said(labels=labels)


def test_metadata_win_over_tags() -> None:
    said = read(("k=v", "envoy-control"), ["a=tag", "b=tag", "canary"], {"a": "meta", "canary": "no"})

    assert said.labels == {"a": "meta", "b": "tag", "canary": "no"}


def test_keys_that_are_read_always_need_no_convention() -> None:
    assert read((), ["protocol=grpc", "a=b"], {}, always=("protocol",)).labels == {"protocol": "grpc", "tags": "a=b"}


# envoy-control.


def test_envoy_controls_weight_and_canary() -> None:
    said = read(("envoy-control",), ["weight:70", "canary", "other"], {})

    assert (said.weight, said.labels) == (70, {"canary": "true", "tags": "other", "weight": "70"})
    assert read(("envoy-control",), ["weight:0"], {}).weight == 1


def test_without_a_tag_an_instance_has_envoy_controls_default_weight() -> None:
    """Beside one with `weight:100`, an instance without a tag is half of it, not a hundredth."""
    saids = {"a": read(("envoy-control",), ["weight:100"], {}), "b": read(("envoy-control",), [], {})}

    assert weights(saids, UP, UP) == [100, 50]


def test_weights_stay_the_registrys_own_where_no_instance_has_a_tag() -> None:
    assert weights({"a": read(("envoy-control",), [], {})}, UP, UP) == [3, 3]


@pytest.mark.parametrize("text", ["abc", "", "-1", "1.5", "٣", "9" * 30, "100001"])
def test_a_weight_that_is_none_is_remarked_and_changes_nothing(text: str) -> None:
    said = read(("envoy-control",), [f"weight:{text}"], {})

    assert said.weight is None
    ((about, reason),) = said.remarks
    assert about == f"tag weight:{text}"
    assert "0 to 100000; not followed" in reason


# registrator.


def test_the_port_inside_the_container_is_in_registrators_id() -> None:
    assert read(("registrator",), [], {}, id_="host-1:web.2:9080").exposed == 9080
    assert read(("registrator",), [], {}, id_="web-1").exposed == 0
    assert read(("registrator",), [], {}, id_="h:c:99999").exposed == 0


@pytest.mark.parametrize(("id_", "tags"), [("h:dns:53:udp", []), ("mine", ["udp"])])
def test_registrators_udp_ports_cannot_be_called(id_: str, tags: list[str]) -> None:
    assert "UDP" in read(("registrator",), tags, {}, id_=id_).unusable
    assert read((), tags, {}, id_=id_).unusable == ""


def test_registrators_attributes_are_labels_but_for_those_of_its_checks() -> None:
    assert read(("registrator",), [], {"region": "eu", "check_http": "/health"}).labels == {"region": "eu"}


# Spring Cloud.


@pytest.mark.parametrize("in_tags", [False, True])
def test_springs_metadata(in_tags: bool) -> None:
    """Older releases write them into tags."""
    spoken = {"secure": "true", "weight": "4", "zone": "eu-1", "gRPC_port": "9090"}
    tags = [f"{k}={v}" for k, v in spoken.items()]

    said = read(("spring",), tags, {}, port=8443) if in_tags else read(("spring",), [], spoken, port=8443)

    assert (said.protocol, said.weight, said.zone) == (Protocol.HTTPS, 4, "eu-1")
    assert said.more == (MorePort("grpc", 9090, Protocol.GRPC),)
    assert said.labels == ({"tags": ",".join(sorted(tags))} if in_tags else spoken)


def test_an_application_that_has_only_a_grpc_server() -> None:
    said = read(("spring",), [], {"gRPC.port": "9090"}, port=9090)

    assert (said.protocol, said.more) == (Protocol.GRPC, ())


@pytest.mark.parametrize(
    ("meta", "about"),
    [({"secure": "yes"}, "secure"), ({"weight": "much"}, "weight"), ({"gRPC_port": "0"}, "gRPC_port")],
)
def test_what_spring_could_not_follow_is_remarked(meta: dict[str, str], about: str) -> None:
    said = read(("spring",), [], meta)

    assert not said.shapes
    assert said.protocol is None
    assert [a for a, _ in said.remarks] == [about]


def test_a_weight_that_is_not_positive_is_one_to_spring() -> None:
    assert read(("spring",), [], {"weight": "0"}).weight == read(("spring",), [], {"weight": "-3"}).weight == 1


# Traefik.


def traefik(*tags: str, port: int = 8080) -> Said:
    return read(("traefik",), tags, {}, port=port)


@pytest.mark.parametrize(
    ("tags", "protocol", "own_port"),
    [
        (["traefik.http.services.web.loadbalancer.server.port=9000"], Protocol.HTTP, 9000),
        (["traefik.HTTP.Services.web.loadBalancer.server.Port=8080"], Protocol.HTTP, 0),
        (["traefik.http.services.web.loadbalancer.server.scheme=h2c"], Protocol.HTTP2, 0),
        (["traefik.http.services.web.loadbalancer.server.scheme=https"], Protocol.HTTPS, 0),
        (["traefik.tcp.services.db.loadbalancer.server.port=5432"], Protocol.TCP, 5432),
        (["traefik.tcp.services.db.loadbalancer.server.tls=true"], Protocol.TLS, 0),
        (["traefik.tcp.routers.db.rule=HostSNI(`*`)"], Protocol.TCP, 0),
        (["traefik.http.routers.web.rule=Host(`example.com`)", "traefik.tcp.routers.x.rule=y"], Protocol.HTTP, 0),
        (["traefik.enable=true", "traefik.udp.services.dns.loadbalancer.server.port=53"], None, 0),
    ],
)
def test_traefiks_server(tags: list[str], protocol: Protocol | None, own_port: int) -> None:
    said = traefik(*tags)

    assert (said.protocol, said.own_port, said.more, said.remarks) == (protocol, own_port, (), ())


def test_of_several_services_of_traefik_the_others_are_further_ports() -> None:
    said = traefik(
        "traefik.http.services.admin.loadbalancer.server.port=9901",
        "traefik.http.services.web.loadbalancer.server.port=8080",
        "traefik.tcp.services.Web_Stats.loadbalancer.server.port=7000",
    )

    assert said.own_port == 0
    assert said.more == (
        MorePort("http-admin", 9901, Protocol.HTTP),
        MorePort("tcp-web-stats", 7000, Protocol.TCP),
    )


def test_traefiks_weight_is_beside_its_default_of_one() -> None:
    tag = "traefik.http.services.web.loadbalancer.server.weight=9"

    assert weights({"a": traefik(tag), "b": traefik()}, UP, UP) == [9, 1]


@pytest.mark.parametrize(
    ("option", "about"),
    [("port=http", "tag port"), ("port=70000", "tag port"), ("weight=1.5", "tag weight"), ("scheme=ftp", "tag scheme")],
)
def test_what_traefik_could_not_follow_is_remarked(option: str, about: str) -> None:
    said = traefik(f"traefik.http.services.web.loadbalancer.server.{option}")

    assert (said.own_port, said.weight, said.protocol) == (0, None, Protocol.HTTP)
    assert [a for a, _ in said.remarks] == [f"{about} of Traefik's service web"]


# Fabio.


def fabio(*tags: str) -> Said:
    return read(("k=v", "fabio"), tags, {})


@pytest.mark.parametrize(
    ("tag", "protocol"),
    [
        ("urlprefix-example.com/", Protocol.HTTP),
        ("urlprefix-:3306 proto=tcp", Protocol.TCP),
        ("urlprefix-example.com/ proto=tcp+sni", Protocol.TLS),
        ("urlprefix-/a proto=https tlsskipverify=true", Protocol.HTTPS),
        ("urlprefix-/a strip=/a proto=grpc", Protocol.GRPC),
        ("urlprefix-/a proto=grpcs", Protocol.TLS),
        ("urlprefix-/a redirect=301,https://example.com/", None),
        ("urlprefix", None),
    ],
)
def test_fabios_protocol(tag: str, protocol: Protocol | None) -> None:
    """The tag stays whole: the route in it is no label."""
    said = fabio(tag)

    assert (said.protocol, said.remarks) == (protocol, ())
    assert said.labels == {"tags": tag}


@pytest.mark.parametrize(
    ("tags", "about"),
    [
        (["urlprefix-/a proto=quic"], "tag urlprefix-/a proto=quic"),
        (["urlprefix-/a weight=half"], "tag urlprefix-/a weight=half"),
        (["urlprefix-/a weight=nan"], "tag urlprefix-/a weight=nan"),
        (["urlprefix-/a weight=0.1", "urlprefix-/b weight=0.2"], "urlprefix- tags"),
        (["urlprefix-/a", "urlprefix-/b proto=tcp"], "urlprefix- tags"),
    ],
)
def test_what_fabio_says_and_cannot_be_followed_is_remarked(tags: list[str], about: str) -> None:
    said = fabio(*tags)

    assert said.share == 0
    assert [a for a, _ in said.remarks] == [about]


@pytest.mark.parametrize(
    ("shares", "healths", "expected"),
    [
        ([0.2, 0, 0], [UP, UP, UP], [2000, 4000, 4000]),
        ([0.2, 0, 0], [UP, UP, DOWN], [2000, 8000, 8000]),
        ([0.5, 0.25], [UP, UP], [6667, 3333]),
        ([1.5, 0.5], [UP, UP], [7500, 2500]),
        ([1, 0], [UP, UP], [10000, 1]),
        ([0.2, 0], [DOWN, UP], [2000, 10000]),
        ([0.2, 0], [DOWN, DOWN], [2000, 10000]),
    ],
)
def test_fabios_shares(shares: Sequence[float], healths: Sequence[Health], expected: list[int]) -> None:
    """Who says a share has it; the others divide the rest. Nobody is left without any."""
    saids = {id_: fabio(f"urlprefix-/ weight={s}") for id_, s in zip("abc", shares, strict=False)}

    assert weights(saids, *healths) == expected


# Services.


def test_one_who_says_nothing_leaves_a_service_as_it_is() -> None:
    service = mk_service(UP)

    assert shape(service, "http", {"a": Said(labels={"x": "y"}, protocol=Protocol.GRPC)}, 20_000) == (service, [])


def test_further_ports_are_the_services_and_each_instances_own() -> None:
    more = MorePort("grpc", 9090, Protocol.GRPC)
    saids = {"a": Said(more=(more,)), "b": Said(own_port=8081)}

    service, remarks = shape(mk_service(UP, UP), "http", saids, 20_000)

    assert [(p.name, p.number) for p in service.ports] == [("http", 8080), ("grpc", 9090)]
    assert [i.ports for i in service.instances] == [{"grpc": 9090, "http": 8080}, {"http": 8081}]
    assert remarks == []


@pytest.mark.parametrize(
    ("numbers", "words"), [((9090, 9091), "9090, 9091"), ((31000, 31000), "31000"), ((8080, 8080), "port http")]
)
def test_a_further_port_that_callers_cannot_name_is_left_out(numbers: tuple[int, int], words: str) -> None:
    saids = {id_: Said(more=(MorePort("grpc", n, Protocol.GRPC),)) for id_, n in zip("ab", numbers, strict=True)}

    service, ((about, reason),) = shape(mk_service(UP, UP), "http", saids, 20_000)

    assert service == mk_service(UP, UP)
    assert about == "port grpc"
    assert words in reason


def test_a_zone_that_an_instance_says_fills_a_gap() -> None:
    service, _ = shape(mk_service(UP), "http", {"a": Said(zone="eu-1")}, 20_000)

    assert service.instances[0].locality.zone == "eu-1"


# Names of ports.


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("grpc-web", Protocol.GRPC_WEB),
        ("grpc-web-api", Protocol.GRPC_WEB),
        ("grpc-webhook", Protocol.GRPC),
        ("http2", Protocol.HTTP2),
        ("https-admin", Protocol.HTTPS),
        ("HTTP-API", Protocol.HTTP),
        ("tls", Protocol.TLS),
        ("tcp-db", Protocol.TCP),
        ("httpd", None),
        ("db", None),
        ("", None),
    ],
)
def test_the_protocol_that_a_ports_name_tells(name: str, protocol: Protocol | None) -> None:
    assert protocol_of_port_name(name) is protocol
