"""`isthmus services -o yaml` prints what the file registry reads, whatever registry the services come from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

from isthmus.registry.eureka.answers import parse_application, parse_listing
from isthmus.registry.eureka.parse import Rules, Sighting, parse_service
from isthmus.registry.file import FileAdapter, FileConfig
from isthmus.registry.merge import MergeRules, merge
from isthmus.registry.model import (
    Health,
    Instance,
    Locality,
    Origin,
    OutlierDetection,
    Port,
    Protocol,
    Service,
    ServiceKey,
    Snapshot,
)
from isthmus.registry.origin import OriginStatus
from tests.unit.cli.conftest import Pretender, Run
from tests.unit.registry.eureka.mutate import recorded

EUREKA = Origin("spring", "eureka")


def from_eureka() -> Snapshot:
    """What a real server has listed."""
    applications = [parse_application(raw) for raw in parse_listing(recorded("apps")).applications]
    by_app = defaultdict(list)
    for application in applications:
        for entry in application.entries:
            by_app[entry.record.app].append(Sighting(entry.record, overdue=1.5))
    made = [parse_service(EUREKA, app, seen, Rules()).service for app, seen in by_app.items()]
    return Snapshot(EUREKA, {s.key: s for s in made if s is not None})


def odd() -> Snapshot:
    """What registries may well say, at the edges of what is accepted."""
    ports = (Port("http", 80, Protocol.HTTP), Port("db", 5432, Protocol.TCP))
    instances = (
        Instance("", "consul", "2001:db8::1", {"http": 0}, weight=65535),
        Instance("_nomad-task-" + "x" * 400, "consul", "unix:///run/web.sock", {"http": 0}, Health.DRAINING),
        Instance("yes", "consul", "db.example.com", {}, Health.UNKNOWN, 0, Locality("no", "1.10", "null")),
        Instance(
            "1e3", "consul", "10.0.0.1", {"db": 31000}, labels={"version": "1.10", "on": "", "": "~", "a: b": "#"}
        ),
    )
    named = tuple(msgspec.structs.replace(i, id=i.id or "2001:db8::1") for i in instances)
    key = ServiceKey("team.a", "1e3")
    service = Service(
        key, ports, tuple(sorted(named, key=lambda i: i.id)), frozenset({"on", "a_b.example"}), external=True
    )
    return Snapshot(Origin("consul", "consul"), {key: service})


def bare(service: Service) -> Service:
    """Without what belongs to the registry that it is read from."""
    instances = tuple(msgspec.structs.replace(i, origin="", provenance={}) for i in service.instances)
    return msgspec.structs.replace(service, instances=instances, outlier_detection=None)


@pytest.mark.parametrize("output", ["yaml", "json"])
async def test_what_is_printed_is_read_back(run: Run, pretender: Pretender, tmp_path: Path, output: str) -> None:
    rules = MergeRules({"spring": 1_000_000}, {"spring": OutlierDetection()})
    services = merge([from_eureka(), odd()], rules=rules).catalog.services
    document = {"services": [s for _, s in sorted(services.items())], "holds": [], "leaving": [], "registries": {}}
    said = msgspec.json.decode(msgspec.json.encode(document))

    done = run("services", "--bridge", pretender.says(said), "-o", output)

    assert (done.status, done.err) == (0, "")
    (tmp_path / f"services.{output}").write_text(done.out)
    origin = Origin("files", "file")
    read = await FileAdapter(origin, FileConfig(str(tmp_path)), OriginStatus(origin)).listing()
    assert read.quarantined == ()
    assert {k: bare(s) for k, s in read.services.items()} == {k: bare(s) for k, s in services.items()}
    assert len(read.services) >= 3
