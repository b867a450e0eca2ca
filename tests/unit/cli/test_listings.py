"""What commands make of a bridge's answers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from isthmus.bridge.answers import Held, RegistryState, Released, Stage, Verdict, Walk, WorkloadState
from isthmus.cli.output import duration
from isthmus.registry.doubt import Finding
from isthmus.registry.parity import Difference, Parity
from tests.unit.cli.conftest import Pretender, Run

GOOD = RegistryState(
    name="consul",
    kind="consul",
    address="http://127.0.0.1:8500",
    synced=True,
    cursor="42",
    last_success=1.7e9,
    stale_for_s=None,
    error="",
    doubt="",
    unlisted="",
    reads_last_minute=12,
    max_connections=160,
    services=3,
    instances=9,
    quarantined=0,
    held=0,
    leaving=0,
    audits=1,
    drift=0,
    removed=0,
    feed="",
)


def said(value: Any) -> Any:
    """As the bridge encodes it."""
    return json.loads(msgspec.json.encode(value))


def table(text: str) -> list[dict[str, str]]:
    """Rows by their headings; columns begin where their headings do."""
    head, *rows = text.splitlines()
    names = [name for name in head.split("  ") if name.strip()]
    starts = [head.index(name.strip()) for name in names]
    ends = [*starts[1:], None]
    return [{n.strip(): row[a:b].strip() for n, a, b in zip(names, starts, ends, strict=True)} for row in rows]


class TestRegistries:
    def test_one_that_is_followed(self, run: Run, pretender: Pretender) -> None:
        fed = msgspec.structs.replace(GOOD, feed="live")

        done = run("registries", "--bridge", pretender.says([said(fed)]))

        assert (done.status, done.err) == (0, "")
        assert table(done.out) == [
            {
                "REGISTRY": "consul",
                "KIND": "consul",
                "STATE": "SYNCED",
                "SERVICES": "3",
                "INSTANCES": "9",
                "HELD": "0",
                "LEFT OUT": "0",
                "DRIFT": "0",
                "FEED": "live",
                "READS/MIN": "12",
                "MAX CONN": "160",
                "CURSOR": "42",
                "ADDRESS": "http://127.0.0.1:8500",
            }
        ]

    def test_what_is_read_stands_beside_what_may_be(self, run: Run, pretender: Pretender) -> None:
        state = msgspec.structs.replace(GOOD, max_reads_per_minute=20_000)

        done = run("registries", "--bridge", pretender.says([said(state)]))

        assert table(done.out)[0]["READS/MIN"] == "12/20000"

    @pytest.mark.parametrize(
        ("changes", "state", "note"),
        [
            (
                {"stale_for_s": 42.4, "error": "connection refused"},
                "STALE 42 s",
                "cannot be read for 42 s, what it said last is served: connection refused",
            ),
            (
                {"synced": False, "services": 0, "error": "connection refused"},
                "NOT LISTED",
                "cannot be read, nothing of it is known: connection refused",
            ),
            (
                {"synced": False, "stale_for_s": 10_000.0, "error": "connection refused"},
                "NOT LISTED",
                "cannot be read for 3 h, what it said last is served: connection refused",
            ),
            ({"synced": False, "services": 0}, "NOT LISTED", "is being listed"),
            ({"doubt": "an ACL filtered it"}, "IN DOUBT", "in doubt: an ACL filtered it"),
        ],
    )
    def test_one_that_is_not(
        self, run: Run, pretender: Pretender, changes: dict[str, Any], state: str, note: str
    ) -> None:
        """Its state in the table, the reason beside it, and status 3 for scripts."""
        other = msgspec.structs.replace(GOOD, name="other", **changes)

        done = run("registries", "--bridge", pretender.says(said([GOOD, other])))

        assert done.status == 3
        assert [row["STATE"] for row in table(done.out)] == ["SYNCED", state]
        assert done.err == f"isthmus: registry other: {note}\n"

    def test_documents_are_whole(self, run: Run, pretender: Pretender) -> None:
        done = run("registries", "-o", "json", "--bridge", pretender.says([said(GOOD)]))

        assert json.loads(done.out) == [said(GOOD)]


class TestHolds:
    def test_with_and_without_an_end(self, run: Run, pretender: Pretender) -> None:
        held = Held("reviews.default", "r-1", "consul", "10.0.0.1", "position", "went back from 9 to 3", 61.0, 239.2)
        doubted = msgspec.structs.replace(held, instance="r-2", reason="an ACL filtered it", ends_in_s=None)

        done = run("holds", "--bridge", pretender.says(said([held, doubted])))

        assert done.status == 0
        assert [(r["INSTANCE"], r["HELD FOR"], r["ENDS IN"], r["REASON"]) for r in table(done.out)] == [
            ("r-1", "61 s", "4 min", "went back from 9 to 3"),
            ("r-2", "61 s", "-", "an ACL filtered it"),
        ]
        assert pretender.asked == "GET /debug/holds"

    def test_none(self, run: Run, pretender: Pretender) -> None:
        done = run("holds", "--bridge", pretender.says([]))

        assert done == (0, "", f"isthmus: nothing is held by {pretender.address}\n")

    @pytest.mark.parametrize(("count", "sentence"), [(1, "1 instance is"), (2, "2 instances are")])
    def test_release(self, run: Run, pretender: Pretender, count: int, sentence: str) -> None:
        address = pretender.says(said(Released("reviews.default", count)))

        done = run("holds", "release", "re views", "--bridge", address)

        assert done == (0, f"{sentence} no longer held of reviews.default\n", "")
        assert pretender.asked == "POST /holds/release?service=re+views"


class TestDoctor:
    def test_findings_and_then_fixes(self, run: Run, pretender: Pretender) -> None:
        findings = [
            Finding("Stale", "consul", "for 42 s", "see that it runs"),
            *(Finding("NoInstances", f"s{n}.default", "has no instances", "start one") for n in range(12)),
        ]

        done = run("doctor", "--bridge", pretender.says(said(findings)))

        what, fixes = done.out.split("\n\n")
        assert done.status == 3
        assert [r["FINDING"] for r in table(what)] == ["Stale", *["NoInstances"] * 10]
        assert table(fixes) == [
            {"FINDING": "Stale", "FIX": "see that it runs"},
            {"FINDING": "NoInstances", "FIX": "start one"},
        ]
        assert done.err == "isthmus: 2 more of NoInstances; -o json has all\n"

    def test_none(self, run: Run, pretender: Pretender) -> None:
        done = run("doctor", "--bridge", pretender.says([]))

        assert done == (0, "", f"isthmus: {pretender.address} has no findings\n")

    @pytest.mark.parametrize(("count", "status"), [(0, 0), (12, 3)])
    def test_documents_have_all(self, run: Run, pretender: Pretender, count: int, status: int) -> None:
        findings = [Finding("NoInstances", f"s{n}", "has no instances", "start one") for n in range(count)]

        done = run("doctor", "-o", "json", "--bridge", pretender.says(said(findings)))

        assert (done.status, len(json.loads(done.out))) == (status, count)


class TestExplain:
    def walk(self, *stages: Stage, serving: bool = True) -> Any:
        return said(Walk("reviews.default", "10.0.0.1:80", serving, "the answer", stages))

    def test_the_answer_comes_first(self, run: Run, pretender: Pretender) -> None:
        listed = Stage("registry", "consul", Verdict.PASSED, "lists it")
        sick = Stage("health", "consul", Verdict.CHANGED, "unhealthy")

        done = run(
            "explain",
            "endpoint",
            "reviews",
            "[::1]:80",
            "--bridge",
            pretender.says(self.walk(listed, sick, serving=False)),
        )

        head, rows = done.out.split("\n\n")
        assert done.status == 3
        assert head == "10.0.0.1:80 of reviews.default: the answer"
        assert [tuple(r.values()) for r in table(rows)] == [
            ("registry", "consul", "passed", "lists it"),
            ("health", "consul", "changed", "unhealthy"),
        ]
        assert pretender.asked == "GET /debug/explain?service=reviews&endpoint=%5B%3A%3A1%5D%3A80"

    def test_many_proxies_that_follow_are_counted(self, run: Run, pretender: Pretender) -> None:
        """And those that do not are named."""
        proxies = [Stage("proxy", f"web-{n}", Verdict.PASSED, "has acknowledged it") for n in range(20)]
        late = Stage("proxy", "web-7a", Verdict.DROPPED, "has not asked for it")

        done = run(
            "explain", "endpoint", "a", "b:1", "--bridge", pretender.says(self.walk(*proxies[:8], late, *proxies[8:]))
        )

        assert [r["WHERE"] for r in table(done.out.split("\n\n")[1])] == ["8 proxies", "web-7a", "12 proxies"]

    def test_documents_have_all(self, run: Run, pretender: Pretender) -> None:
        walk = self.walk(*(Stage("proxy", f"web-{n}", Verdict.PASSED, "has acknowledged it") for n in range(20)))

        done = run("explain", "endpoint", "a", "b:1", "-o", "json", "--bridge", pretender.says(walk))

        assert (done.status, json.loads(done.out)) == (0, walk)


class TestWorkloads:
    STATE = WorkloadState(
        id="reviews-vm-1",
        service="reviews.default",
        address="10.0.0.5",
        ports={"http": 9080, "admin": 9090},
        health="healthy",
        weight=1,
        labels={},
        epoch=7,
        ttl=30,
        bridge="host-15014",
        heard_s_ago=4.2,
        held=False,
    )

    def test_each_is_listed_with_its_last_sign_of_life(self, run: Run, pretender: Pretender) -> None:
        done = run("workloads", "--bridge", pretender.says([said(self.STATE)]))

        assert done.status == 0
        assert [list(row.values()) for row in table(done.out)] == [
            [
                "reviews-vm-1",
                "reviews.default",
                "10.0.0.5",
                "admin=9090,http=9080",
                "healthy",
                "4 s",
                "30 s",
                "7",
                "host-15014",
            ]
        ]
        assert pretender.asked == "GET /v1/workloads"

    def test_one_that_is_held_shows_and_is_the_status(self, run: Run, pretender: Pretender) -> None:
        held = msgspec.structs.replace(self.STATE, held=True, heard_s_ago=400.0)
        pretender.says([said(self.STATE), said(held)])

        done = run("workloads", "--bridge", pretender.address)
        assert done.status == 3
        assert [row["HEALTH"] for row in table(done.out)] == ["healthy", "HELD"]
        done = run("workloads", "-o", "json", "--bridge", pretender.address)
        assert (done.status, json.loads(done.out)) == (3, [said(self.STATE), said(held)])

    def test_nobody_is_said(self, run: Run, pretender: Pretender) -> None:
        done = run("workloads", "--bridge", pretender.says([]))

        assert (done.status, done.out) == (0, "")
        assert "no workload has registered" in done.err


def test_parity_is_a_document_too(run: Run, pretender: Pretender) -> None:
    """What the two registries are like as well: tests/integration/test_serve.py."""
    found = Parity("a", "b", (1, 0), (1, 0), 0, (Difference("reviews.default", "10.0.0.1:80", "healthy", ""),))
    pretender.says(said(found))
    pretender.more = {"/debug/registries": json.dumps([said(GOOD)]).encode()}

    done = run("parity", "a", "b", "-o", "json", "--bridge", pretender.address)

    assert (done.status, json.loads(done.out)) == (3, said(found))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
