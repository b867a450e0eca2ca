"""Who lives, by the heartbeats that the feed brings. Pure.

An instance whose heartbeats stay out is not dead for that: its client may have turned to a server that does not feed us. So the
server that is polled is asked about it twice, when two heartbeats are missing and when three are. Only if it has had no renewal
in between either, the instance counts as silent. No clock of the server is needed for that.

A feed that brings nothing of anybody says nothing about instances. It is a state of its own, in which nobody is silent.
"""

from __future__ import annotations

import enum

import msgspec

from isthmus.registry.eureka.known import Key

SLACK = 2.0
"""Seconds that a heartbeat may take beyond its interval: servers send each other batches about every half second."""


class FeedState(enum.Enum):
    """Whether changes arrive by the feed. The words are what operators see."""

    WAITING = "waiting"
    """Nothing has arrived yet."""
    LIVE = "live"
    SILENT = "silent"
    """Nothing arrives any more, or ever did, though there are instances that should be heard of."""
    REFUSED = "refused"
    """Nothing arrives but from senders with a wrong password."""
    UNAVAILABLE = "unavailable"
    """Its address cannot be listened on."""
    CLOSED = "closed"
    """No server can be polled, and nothing is listened to until one can."""


class _Beat(msgspec.Struct):
    """The last heartbeat of one instance; `renewed` is what the server said when it was asked the first time."""

    at: float
    interval: int
    renewed: int | None = None


class Liveness:
    """Heartbeats by instance. All `now` are monotonic seconds."""

    def __init__(self, silent_after: float, now: float) -> None:
        self._silent_after = silent_after
        self._heard_at = now
        self._beats: dict[Key, _Beat] = {}  # oldest first
        self._shortest = 86400
        self.state = FeedState.WAITING
        self.silent: frozenset[Key] = frozenset()

    def heard(self, now: float) -> None:
        """The feed brought something."""
        self._heard_at = now
        self.state = FeedState.LIVE

    def refused(self) -> None:
        """The feed turned a sender away; that counts while nobody else is heard."""
        if self.state is not FeedState.LIVE:
            self.state = FeedState.REFUSED

    def beat(self, key: Key, interval: int, now: float) -> None:
        """An instance renewed; it does so every `interval` seconds."""
        self._beats.pop(key, None)
        self._beats[key] = _Beat(now, interval)
        self._shortest = min(self._shortest, interval)
        self.silent -= {key}

    def forget(self, key: Key) -> None:
        """An instance was cancelled."""
        self._beats.pop(key, None)
        self.silent -= {key}

    def tick(self, now: float, *, anybody: bool) -> None:
        """Time went by; `anybody` says whether there are instances that should be heard of."""
        if not anybody:
            self._heard_at = now
        elif self.state in (FeedState.WAITING, FeedState.LIVE) and now - self._heard_at > self._silent_after:
            self.state = FeedState.SILENT
            self._beats.clear()
            self.silent = frozenset()

    def due(self, now: float) -> list[Key]:
        """The instances that the server is to be asked about now."""
        due = []
        for key, beat in self._beats.items():
            quiet = now - beat.at - SLACK
            if quiet <= 2 * self._shortest:
                break
            if quiet > (2 if beat.renewed is None else 3) * beat.interval:
                due.append(key)
        return due

    def answered(self, key: Key, renewed: int, now: float) -> None:
        """The server was asked about an instance; its last renewal was at `renewed`, in the server's own reckoning."""
        beat = self._beats.get(key)
        if beat is None:
            return
        if beat.renewed is None and renewed:
            beat.renewed = renewed
        elif renewed and renewed == beat.renewed:
            self.unknown(key)
        else:
            self.beat(key, beat.interval, now)  # it renews with another server, or the server does not tell

    def unknown(self, key: Key) -> None:
        """The server does not know the instance, or no more of its renewals than we do."""
        if self._beats.pop(key, None) is not None:
            self.silent |= {key}
