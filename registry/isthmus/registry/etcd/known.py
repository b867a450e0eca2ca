"""What is known of one etcd cluster, key by key, and the snapshot made of it. Pure: the reading is in reading.py."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import msgspec

from isthmus.registry.etcd.config import EtcdConfig, Prefix
from isthmus.registry.etcd.detect import Detected, detect
from isthmus.registry.etcd.layouts import LAYOUTS, Layout
from isthmus.registry.etcd.parse import Claim, Parsed, Rules, parse_key, path_of, to_service
from isthmus.registry.etcd.template import compile_template
from isthmus.registry.model import Origin, Quarantined, Service, ServiceKey, Snapshot

MAX_QUARANTINED = 100
"""Keys that are quarantined by name; the number of the others is told."""


class Pair(msgspec.Struct, frozen=True, gc=False):
    """A key with its value, the revision that wrote it, and whether no lease holds it."""

    key: bytes
    value: bytes
    revision: int
    permanent: bool


class _Entry(msgspec.Struct, frozen=True, gc=False):
    revision: int
    claims: tuple[Claim, ...]


class _Below:
    """One prefix: its layout, unless it is still to be detected, and its keys."""

    def __init__(self, origin: str, prefix: Prefix, config: EtcdConfig) -> None:
        self.prefix = prefix.prefix
        self.layout: Layout | None = None
        self.unclear = ""
        """Why the layout could not be detected although there are keys."""
        self.entries: dict[bytes, _Entry] = {}
        self.rules = Rules(
            origin=origin,
            prefix=prefix.prefix,
            layout=prefix.layout,
            namespace=prefix.namespace,
            default_protocol=prefix.default_protocol or config.default_protocol,
            default_port=prefix.default_port or config.default_port,
            conventions=config.conventions,
        )
        if prefix.template is not None:
            self.layout = compile_template(prefix.template)
        elif prefix.layout != "auto":
            self.layout = LAYOUTS[prefix.layout]

    def detect(self, pairs: Sequence[Pair]) -> Detected:
        texts = [(path_of(pair.key.decode(errors="replace"), self.prefix), pair.value) for pair in pairs]
        found = detect(texts, self.prefix)
        if found.layout:
            self.layout = LAYOUTS[found.layout]
            self.entries.clear()  # what was not understood is to be put again
            self.rules = msgspec.structs.replace(self.rules, layout=f"{found.layout}, detected")
        self.unclear = found.reason if pairs else ""
        return found


class Known:
    """Every key below the prefixes, the services they make, and what of it no snapshot has shown yet."""

    def __init__(self, origin: Origin, config: EtcdConfig) -> None:
        self._origin = origin
        self._below = [_Below(origin.name, prefix, config) for prefix in config.prefixes]
        self._claims: dict[ServiceKey, dict[bytes, tuple[Claim, ...]]] = {}
        self._services: dict[ServiceKey, Service] = {}
        self._touched: set[ServiceKey] = set()
        self._changed: set[ServiceKey] = set()
        self._bad: dict[bytes, tuple[str, ...]] = {}
        self._remarks: dict[ServiceKey, tuple[str, ...]] = {}
        self._quarantined: tuple[Quarantined, ...] = ()
        self._remarked = False
        self.revision = 0
        """The highest revision that was heard of."""

    # What etcd said.

    def undetected(self, prefix: int) -> bool:
        """Whether the layout of this prefix, by its position in the configuration, is still to be detected."""
        return self._below[prefix].layout is None

    def detect(self, prefix: int, pairs: Sequence[Pair]) -> Detected:
        """Choose the layout by keys of the prefix; without keys it stays undetected."""
        found = self._below[prefix].detect(pairs)
        self._remarked = True
        return found

    def may_detect(self, prefix: int, pair: Pair) -> bool:
        """Whether a layout would explain this pair, so that it is worth to look at all of them again."""
        below = self._below[prefix]
        return bool(
            detect([(path_of(pair.key.decode(errors="replace"), below.prefix), pair.value)], below.prefix).layout
        )

    def revision_of(self, prefix: int, key: bytes) -> int:
        """The revision that wrote a key, as far as is known; 0 when it is not there."""
        entry = self._below[prefix].entries.get(key)
        return entry.revision if entry else 0

    def keys(self, prefix: int) -> Iterable[bytes]:
        """The keys below one prefix."""
        return self._below[prefix].entries.keys()

    def put(self, prefix: int, pair: Pair) -> None:
        """A key was written. What is older than what is known is ignored."""
        below = self._below[prefix]
        before = below.entries.get(pair.key)
        if before is not None and before.revision >= pair.revision:
            return
        parsed = Parsed()
        if below.layout is not None:
            parsed = parse_key(below.layout, pair.key, pair.value, below.rules, permanent=pair.permanent)
        below.entries[pair.key] = _Entry(pair.revision, parsed.claims)
        self.revision = max(self.revision, pair.revision)
        self._replace(pair.key, before.claims if before else (), parsed)

    def delete(self, prefix: int, key: bytes, revision: int) -> None:
        """A key was deleted, or its lease ended."""
        below = self._below[prefix]
        before = below.entries.get(key)
        self.revision = max(self.revision, revision)
        if before is not None and before.revision < revision:
            del below.entries[key]
            self._replace(key, before.claims, Parsed())

    def _replace(self, key: bytes, old: tuple[Claim, ...], new: Parsed) -> None:
        if old != new.claims:
            for service in {claim.key for claim in old}:
                self._claims[service].pop(key, None)
                self._touched.add(service)
            for service in {claim.key for claim in new.claims}:
                self._claims.setdefault(service, {})[key] = new.claims
                self._touched.add(service)
        if self._bad.get(key, ()) != new.reasons:
            self._remarked = True
            if new.reasons:
                self._bad[key] = new.reasons
            else:
                del self._bad[key]

    # What the consumer gets.

    def settle(self) -> bool:
        """Make the services anew whose keys changed; returns whether anything differs from the last snapshot taken."""
        for key in self._touched:
            claims = [claim for of_key in self._claims[key].values() for claim in of_key if claim.key == key]
            service, reasons = to_service(claims) if claims else (None, ())
            if not claims:
                del self._claims[key]
            if self._services.get(key) != service:
                self._changed.add(key)
                if service is None:
                    del self._services[key]
                else:
                    self._services[key] = service
            if self._remarks.pop(key, ()) != reasons:
                self._remarked = True
            if reasons:
                self._remarks[key] = reasons
        self._touched.clear()
        return bool(self._changed) or self._remarked

    def take(self) -> Snapshot:
        """All of it. `changed` names what differs from the snapshot taken before."""
        self.settle()
        changed = frozenset(self._changed)
        self._changed.clear()
        if self._remarked:
            self._quarantined = tuple(sorted(self._quarantine()))
            self._remarked = False
        return Snapshot(
            origin=self._origin,
            services=dict(self._services),
            cursor=str(self.revision),
            changed=changed,
            quarantined=self._quarantined,
        )

    def _quarantine(self) -> Iterable[Quarantined]:
        name = self._origin.name
        for below in self._below:
            if below.unclear and below.layout is None:
                reason = f"{below.unclear}; set `layout` for it"
                yield Quarantined(name, f"prefix {below.prefix!r}", reason)
        for key in heapq.nsmallest(MAX_QUARANTINED, self._bad):
            for reason in self._bad[key]:
                yield Quarantined(name, f"key {_shown(key)}", reason)
        if len(self._bad) > MAX_QUARANTINED:
            yield Quarantined(
                name, "more keys", f"{len(self._bad) - MAX_QUARANTINED} cannot be used, beside those named"
            )
        for service, reasons in self._remarks.items():
            for reason in reasons:
                yield Quarantined(name, f"service {service.name}", reason)


def _shown(key: bytes) -> str:
    return key[:200].decode(errors="backslashreplace")
