"""Laws of what is served to each group of clients."""

from __future__ import annotations

import itertools

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.data.dns.v3.dns_table_pb2 import DnsTable
from hypothesis import given
from hypothesis import strategies as st

from isthmus.registry.model import Catalog, Service, ServiceKey
from isthmus.xds.group import Kind, Outbound, ProxyGroup
from isthmus.xds.resource import ResourceSnapshot, TypeUrl
from isthmus.xds.translate import Mesh, translate
from isthmus.xds.translate.views import Views
from tests.property.test_translate import KEYS, meshes, services

PLAIN = ProxyGroup(Kind.ENVOY)
ADDRESSES, CAPTURED = (ProxyGroup(Kind.ENVOY, o) for o in (Outbound.ADDRESSES, Outbound.CAPTURED))
AGENT = ProxyGroup(Kind.AGENT)
ON_REQUEST = (ADDRESSES, CAPTURED, AGENT)

steps = st.tuples(meshes, st.frozensets(st.sampled_from(ON_REQUEST)))


def content(snapshot: ResourceSnapshot) -> object:
    return {t: dict(snapshot.of_type(t)) for t in TypeUrl}, dict(snapshot.versions)


def differing(before: ResourceSnapshot, after: ResourceSnapshot) -> dict[TypeUrl, frozenset[str]]:
    names = {
        t: frozenset(
            n for n in {*before.of_type(t), *after.of_type(t)} if before.of_type(t).get(n) != after.of_type(t).get(n)
        )
        for t in TypeUrl
    }
    return {t: found for t, found in names.items() if found}


@given(st.lists(steps, min_size=2, max_size=5))
def test_history_changes_nothing_but_time(history: list[tuple[Mesh, frozenset[ProxyGroup]]]) -> None:
    """Whatever was asked for when, a view is what it would be at once; its log names what differs, and its generations rise."""
    translation = translate(history[0][0])
    views = Views(translation)
    seen: dict[ProxyGroup, list[ResourceSnapshot]] = {group: [] for group in (PLAIN, *ON_REQUEST)}
    for turn, (mesh, asked) in enumerate(history):
        if turn:
            translation = translate(mesh, translation)
            views = views.next(translation)
        anew = Views(translate(mesh))
        for group in (PLAIN, *sorted(asked, key=str)):
            snapshot = views.make(group)
            assert content(snapshot) == content(anew.make(group))
            seen[group].append(snapshot)
    for snapshots in seen.values():
        for before, after in itertools.pairwise(snapshots):
            told = after.changed_since(before.generation)
            # What came and went in between may be told, too.
            assert told is None or all(names <= told[t] for t, names in differing(before, after).items())
            assert (before is after) == (before.generation == after.generation)
            assert before.generation <= after.generation


@given(meshes)
def test_views_that_are_equally_numbered_share_what_they_remember(mesh: Mesh) -> None:
    views = Views(translate(mesh))
    for group in (ADDRESSES, CAPTURED):
        snapshot = views.make(group)
        assert snapshot.generation == views.envoy.generation
        assert snapshot.memo is views.envoy.memo


@given(meshes)
def test_envoy_finds_no_place_to_listen_twice(mesh: Mesh) -> None:
    """It would refuse one of two listeners at one place; those that are not bound are not in the way of others."""
    views = Views(translate(mesh))
    for group in (PLAIN, ADDRESSES, CAPTURED):
        found = views.make(group).of_type(TypeUrl.LISTENER)
        listeners = {name: Listener.FromString(r.body) for name, r in found.items()}
        assert all(name == listener.name for name, listener in listeners.items())
        places = [x.address.SerializeToString(deterministic=True) for x in listeners.values()]
        assert len(places) == len(set(places))
        bound = [x for x in listeners.values() if not x.HasField("bind_to_port")]
        assert all(not x.address.socket_address.address.startswith("0.") for x in bound)


@given(services(), st.frozensets(st.sampled_from(KEYS)))
def test_what_a_name_resolves_to_is_listened_at(found: dict[ServiceKey, Service], more: frozenset[ServiceKey]) -> None:
    """At each of the ports that its table tells, by every Envoy that wants addresses; and no two tables have one name.

    Addresses are given as the bridge does it: to all that need one, each its own, and perhaps to others.
    """
    with_tcp = {key for key, service in found.items() if not all(p.protocol.is_http for p in service.ports)}
    addresses = {key: f"127.65.0.{n}" for n, key in enumerate(sorted(with_tcp | more, key=str), 1)}
    views = Views(translate(Mesh(Catalog(found), virtual_ips=addresses)))
    tables = [DnsTable.FromString(r.body) for r in views.make(AGENT).of_type(TypeUrl.DNS_TABLE).values()]
    resolved = [d for table in tables for d in table.virtual_domains if d.endpoint.HasField("address_list")]
    assert len({d.name for d in resolved}) == len(resolved)
    for group in (ADDRESSES, CAPTURED):
        listeners = views.make(group).of_type(TypeUrl.LISTENER)
        for table in tables:
            ends = [d.endpoint for d in table.virtual_domains]
            to = {a for end in ends for a in end.address_list.address}
            ports = {target.port for end in ends for s in end.service_list.services for target in s.targets}
            assert to
            assert ports
            assert {f"{address}_{port}" for address in to for port in ports} <= listeners.keys()
