"""Workloads become services, and only what differs is told."""

from __future__ import annotations

from typing import Any

from isthmus.registry.kv.edge import Entry, View
from isthmus.registry.model import Health, Locality, Origin, Port, Protocol, Service, ServiceKey
from isthmus.registry.workloads.known import Known
from isthmus.registry.workloads.record import Place, Workload, to_record

ORIGIN = Origin("agents", "workloads")
REVIEWS = ServiceKey("default", "reviews")


def mk_workload(id_: str, **changes: Any) -> Workload:
    said = {"service": "reviews", "address": "10.0.0.5", "ports": {"http": 19080}, "numbers": {"http": 9080}}
    return Workload(id=id_, **({"epoch": 1} | said | changes))


def mk_view(*workloads: Workload, **more: bytes) -> View:
    values = {w.id: to_record(w) for w in workloads} | more
    return View({id_: Entry(value, f"v{hash(value)}") for id_, value in values.items()})


def take(known: Known, view: View) -> tuple[dict[str, Service], frozenset[str] | None]:
    snapshot = known.take(view)
    assert snapshot is not None
    changed = None if snapshot.changed is None else frozenset(k.name for k in snapshot.changed)
    return {k.name: s for k, s in snapshot.services.items()}, changed


def test_a_workload_is_an_instance_of_its_service() -> None:
    services, changed = take(
        Known(ORIGIN),
        mk_view(
            mk_workload("vm-1", labels={"version": "v1"}, locality=Place("eu", "eu-1"), weight=3, health="draining"),
            mk_workload("vm-2", address="vm-2.example", health="unhealthy", epoch=9),
            mk_workload("vm-3", service="ratings"),
        ),
    )

    assert changed is None
    one, two = services["reviews"].instances
    assert services["reviews"].ports == (Port("http", 9080, Protocol.HTTP),)
    assert (one.id, one.origin, one.address, one.ports) == ("vm-1", "agents", "10.0.0.5", {"http": 19080})
    assert (one.health, one.weight, one.labels) == (Health.DRAINING, 3, {"version": "v1"})
    assert one.locality == Locality("eu", "eu-1", "")
    assert (two.health, two.provenance["epoch"]) == (Health.UNHEALTHY, "9")
    assert [i.id for i in services["ratings"].instances] == ["vm-3"]


def test_only_what_differs_is_told_and_the_rest_is_shared() -> None:
    known = Known(ORIGIN)
    one, two = mk_workload("vm-1"), mk_workload("vm-2", service="ratings")
    before, _ = take(known, mk_view(one, two))

    after, changed = take(known, mk_view(mk_workload("vm-1", health="unhealthy"), two))
    assert changed == frozenset({"reviews"})
    assert after["ratings"] is before["ratings"]

    moved, changed = take(known, mk_view(mk_workload("vm-1", service="ratings"), two))
    assert changed == frozenset({"reviews", "ratings"})
    assert {name: [i.id for i in s.instances] for name, s in moved.items()} == {"ratings": ["vm-1", "vm-2"]}


def test_who_watches_over_it_is_nobodys_business() -> None:
    """Another replica takes over a thousand workloads, and the catalog is the same."""
    known = Known(ORIGIN)
    take(known, mk_view(mk_workload("vm-1", bridge="a")))

    assert known.take(mk_view(mk_workload("vm-1", bridge="b"))) is None


def test_where_workloads_disagree_about_a_port_the_first_one_wins_and_the_other_is_named() -> None:
    known = Known(ORIGIN)
    snapshot = known.take(
        mk_view(
            mk_workload("vm-1"),
            mk_workload("vm-2", numbers={"http": 8080}),
            mk_workload("vm-3", ports={"admin": 1}, numbers={"admin": 9080}),
        )
    )

    assert snapshot is not None
    service = snapshot.services[REVIEWS]
    assert service.ports == (Port("http", 9080, Protocol.HTTP),)
    assert [i.ports for i in service.instances] == [{"http": 19080}, {"http": 19080}, {}]
    assert [(q.where, q.reason) for q in snapshot.quarantined] == [
        ("workload vm-2", "others of its service have the port http 9080/http, not http 8080/http"),
        ("workload vm-3", "others of its service have the port http 9080/http, not admin 9080/tcp"),
    ]

    after = known.take(mk_view(mk_workload("vm-1")))
    assert after is not None
    assert after.quarantined == ()


def test_a_record_that_cannot_be_read_is_named_and_comes_back_when_it_can() -> None:
    known = Known(ORIGIN)
    snapshot = known.take(mk_view(mk_workload("vm-1"), broken=b"{"))
    assert snapshot is not None
    assert [q.where for q in snapshot.quarantined] == ["workload broken"]
    assert len(snapshot.services) == 1

    mended = known.take(mk_view(mk_workload("vm-1"), mk_workload("broken", service="ratings")))
    assert mended is not None
    assert mended.quarantined == ()
    assert len(mended.services) == 2
