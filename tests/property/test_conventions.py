"""Laws of reading conventions: whatever tags say, an instance is read, and what nobody asked for stays as it is."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.conventions import Convention, Said, read, shape
from isthmus.registry.model import Health, Instance, Port, Protocol, Service, ServiceKey

NAMED: tuple[Convention, ...] = get_args(Convention)
PIECES = st.sampled_from(
    [
        "traefik.http.services.",
        "traefik.tcp.services.",
        "loadbalancer.server.",
        "port=",
        "weight=",
        "scheme=",
        "tls=",
        "a.",
        "urlprefix-",
        "/x ",
        "proto=",
        "tcp",
        "redirect=",
        "weight:",
        "canary",
        "udp",
        "secure=",
        "true",
        "gRPC_port=",
        "zone=",
        "check_",
        "k=v",
        "k|v",
        ":",
        "0.5",
        "1e400",
        "nan",
        "-1",
        "80",
        "70000",
        "\0",
        "é",
    ]
)
TAGS = st.lists(st.lists(PIECES | st.text(max_size=4), max_size=5).map("".join), max_size=8)
META = st.dictionaries(
    st.sampled_from(["secure", "weight", "zone", "gRPC_port", "gRPC.port", "check_http", "tags", ""])
    | st.text(max_size=4),
    st.lists(PIECES | st.text(max_size=4), max_size=3).map("".join),
    max_size=5,
)
IDS = st.lists(st.sampled_from(["h", ":", "c", "80", "udp", "/"]), max_size=7).map("".join)
CONVENTIONS = st.lists(st.sampled_from(NAMED), unique=True, max_size=len(NAMED)).map(tuple)


@given(TAGS, META, st.permutations(range(8)))
def test_without_a_convention_nothing_is_read(tags: list[str], meta: dict[str, str], order: list[int]) -> None:
    said = read((), tags, meta, id_="h:c:53:udp", port=80)

    plain = {"tags": ",".join(sorted(set(tags)))} if tags else {}
    assert said == Said(labels=plain | meta)
    shuffled = [tags[i] for i in order if i < len(tags)]
    assert read((), shuffled, meta) == said


@given(CONVENTIONS, TAGS, META, IDS, st.integers(0, 65535))
def test_any_tags_are_read(
    conventions: tuple[Convention, ...], tags: list[str], meta: dict[str, str], id_: str, port: int
) -> None:
    """Every instance gets a value that can be used, and every remark has a subject and a reason that fit on a line or two."""
    said = read(conventions, tags, meta, id_=id_, port=port)

    assert said == read(conventions, tags[::-1], meta, id_=id_, port=port)
    assert said.weight is None or 0 <= said.weight <= 100_000
    assert 0 <= said.share <= 1_000
    assert all(0 <= n <= 65535 for n in (said.own_port, said.exposed))
    assert all(1 <= p.number <= 65535 and p.name for p in said.more)
    assert all(about and reason and len(about) + len(reason) < 500 for about, reason in said.remarks)
    for key, value in meta.items():
        assert said.labels.get(key, value) == value


@given(CONVENTIONS, st.lists(st.text(alphabet="abcxyz -_./", min_size=1, max_size=6), max_size=6))
def test_tags_that_no_convention_knows_stay_as_they_are(conventions: tuple[Convention, ...], tags: list[str]) -> None:
    assert read(conventions, tags, {}) == read((), tags, {})


@given(st.lists(st.tuples(TAGS, META, IDS, st.sampled_from(Health), st.integers(1, 65535)), min_size=1, max_size=4))
def test_a_service_stays_a_service(said: list[tuple[list[str], dict[str, str], str, Health, int]]) -> None:
    """No instance is lost or silenced, no two ports of a service share a name or a number, and each instance has its ports."""
    saids, instances = {}, []
    for number, (tags, meta, id_, health, port) in enumerate(said):
        saids[f"i{number}"] = read(NAMED, tags, meta, id_=id_, port=port)
        instances.append(Instance(f"i{number}", "o", "10.0.0.1", {"http": port}, health))
    before = Service(ServiceKey("default", "web"), (Port("http", 80, Protocol.HTTP),), tuple(instances))

    service, remarks = shape(before, "http", saids, 20_000)

    assert [(i.id, i.address, i.health) for i in service.instances] == [
        (i.id, i.address, i.health) for i in before.instances
    ]
    assert len({p.name for p in service.ports}) == len({p.number for p in service.ports}) == len(service.ports)
    assert list(service.ports) == sorted(service.ports, key=lambda p: p.number)
    names = {p.name for p in service.ports}
    assert all(set(i.ports) <= names and "http" in i.ports for i in service.instances)
    assert all(about and reason for about, reason in remarks)
