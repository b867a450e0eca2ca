"""One iteration of the adapter: one server is polled, and the feed listened to."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Coroutine

import msgspec
import structlog

from isthmus.registry.adapter import AdapterError, ReadStats
from isthmus.registry.eureka.answers import Application, Listing, parse_application
from isthmus.registry.eureka.api import EurekaApi, NoSuchError, server_name
from isthmus.registry.eureka.config import EurekaConfig, FeedConfig
from isthmus.registry.eureka.feed import Feed
from isthmus.registry.eureka.known import Key, Known
from isthmus.registry.eureka.liveness import FeedState, Liveness
from isthmus.registry.eureka.parse import Rules
from isthmus.registry.eureka.replication import CANCEL, HEARTBEAT, REGISTER, Change
from isthmus.registry.model import Origin, Snapshot
from isthmus.registry.thread import in_thread

log = structlog.get_logger()

RETENTION = 150.0
"""Seconds without a poll, after which deltas do not reach back far enough: servers keep changes for 180 s."""

CACHED = 35.0
"""Seconds for which an answer of a server may be old: by default all of them are renewed each 30 s, one after the other."""

LISTING_PAUSE = 30.0
"""Seconds between complete listings that are made to mend a difference, or because a server makes no deltas. The pause doubles
while they do not mend it."""

CHUNK = 50
"""Applications that are made services of without letting others work; more are read and compared in a thread."""

JUDGE_EVERY = 0.5
"""Seconds between looks at who missed heartbeats."""

CHECKS = 10
"""Instances that the server is asked about at each look, or after one poll."""


class Reading:
    """What one Eureka holds, kept current by background tasks from `begin` to `close`.

    `servers` are turned until the first is one that answers. `expected` are the instances that were known before.
    """

    def __init__(
        self, origin: Origin, config: EurekaConfig, stats: ReadStats, servers: deque[str], expected: frozenset[Key]
    ) -> None:
        self._origin = origin
        self._config = config
        self._stats = stats
        self._servers = servers
        self._expected = expected
        self._rules = Rules(
            config.default_protocol,
            config.default_port,
            config.default_secure_port,
            config.prefer,
            config.region,
            # What a server says of another region's renewals is older than what it says of its own.
            taper=config.taper and not config.regions,
            conventions=config.conventions,
        )
        self._api = EurekaApi(config, stats)
        self._clock = asyncio.get_running_loop().time
        self._known = Known(origin, self._rules, "")
        self._news = asyncio.Event()
        self._hurry = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._version = 0
        self._deltas = True
        self._brief = False
        """Which of the two answers that tell what changed was asked for last."""
        self._ahead_until = 0.0
        """Until when more may be known than either answer counts."""
        self._listed_at = self._polled_at = 0.0
        self._mend_at = 0.0
        self._mend_pause = LISTING_PAUSE
        self._feed: Feed | None = None
        self._liveness = Liveness(config.feed.silent_after if config.feed else 0, self._clock())

    @property
    def keys(self) -> frozenset[Key]:
        """The instances known at the end, as `expected` of the next reading."""
        return self._known.keys if self._listed_at else self._expected

    async def begin(self) -> Snapshot:
        """List everything, and follow it from there."""
        await self._list_somewhere()
        if self._config.feed is not None:
            await self._listen(self._config.feed)
        else:
            self._stats.feed_is("")
        self._spawn(self._poll_for_ever())
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def once(self, watched: Known | None) -> Snapshot:
        """List everything, and follow nothing. `watched` is what a reading beside this one knows."""
        await self._list_somewhere()
        with contextlib.suppress(NoSuchError):
            await self._changes()
        if watched is not None:
            self._known.take_over(watched)
        return msgspec.structs.replace(self._known.take(), changed=None)

    async def _list_somewhere(self) -> None:
        """List everything, on the first server that has a listing."""
        errors: list[str] = []
        for _ in range(len(self._servers)):
            self._known = Known(self._origin, self._rules, server_name(self._server), self._expected)
            try:
                await self._list()
                break
            except AdapterError as e:
                errors.append(str(e))
                self._servers.rotate(-1)
        else:
            raise AdapterError("; ".join(errors))

    def hurry(self) -> Known:
        """Poll now rather than when it is time; what is known."""
        self._hurry.set()
        return self._known

    async def change(self) -> Snapshot:
        """Wait until something differs from the snapshot before, and return all there is."""
        while not self._known.news:
            self._news.clear()
            if self._failure is None:
                await self._news.wait()
            if self._failure is not None:
                raise self._failure
        return self._known.take()

    async def close(self) -> None:
        """End every task and connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._feed is not None:
            await self._feed.close()
            self._stats.feed_is(FeedState.CLOSED.value)
        await self._api.close()

    @property
    def _server(self) -> str:
        return self._servers[0]

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failure = self._failure or failure
            self._news.set()

    # Polling.

    async def _poll_for_ever(self) -> None:
        while True:
            self._hurry.clear()
            # Jitter, so that many bridges do not ask in step.
            pause = self._poll_interval() * random.uniform(0.9, 1.1)  # noqa: S311
            try:
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            await self._poll()
            self._news.set()

    def _poll_interval(self) -> float:
        if not self._deltas:
            return max(self._config.poll_interval, LISTING_PAUSE)
        if self._config.feed is not None and self._liveness.state is FeedState.LIVE:
            return self._config.feed.poll_interval
        return self._config.poll_interval

    async def _poll(self) -> None:
        now = self._clock()
        due = now - self._listed_at >= self._config.full_interval or now - self._polled_at > RETENTION
        if due or not self._deltas:
            await self._list()
            return
        try:
            hashcode, agrees = await self._follow()
        except NoSuchError:
            log.warning(
                "eureka.no_deltas", origin=self._origin.name, server=self._server, listing_every_s=LISTING_PAUSE
            )
            self._deltas = False
            await self._list()
            return
        if agrees:
            self._mend_pause = LISTING_PAUSE
        elif self._clock() >= self._mend_at:
            log.info(
                "eureka.hash_mismatch",
                origin=self._origin.name,
                server=self._server,
                hashcode=hashcode,
                next_listing_s=self._mend_pause,
            )
            self._mend_at = self._clock() + self._mend_pause
            self._mend_pause = min(2 * self._mend_pause, max(LISTING_PAUSE, self._config.full_interval))
            await self._list()

    async def _follow(self) -> tuple[str, bool]:
        """Apply what changed lately; returns how many have which status, and whether what is known need not differ from that.

        A server keeps the answer that it has made until the next change, and what comes about in the moment in which it makes
        one may be missing from it, with counts that agree. So two answers are asked for in turn, which the server makes apart
        from each other: the one tells what the other lacks.
        """
        self._brief = not self._brief
        if not self._brief:
            listing = await self._changes()
            if self._known.agrees(listing.hashcode):
                return listing.hashcode, True
        brief = await self._api.changes_in_brief(self._server)
        told = await _read(brief)
        ahead = self._heard([_gone(application) for application in told], brief.hashcode)
        hashcodes = [brief.hashcode]
        if self._brief and (self._known.lacking(told) or not self._known.agrees(brief.hashcode)):
            hashcodes.append((await self._changes()).hashcode)
        for key in self._known.lacking(told)[:CHECKS]:
            with contextlib.suppress(AdapterError):  # it has gone meanwhile, or is asked for again
                entry = await self._api.instance(self._server, *key)
                ahead |= self._heard([Application(key[0], (entry,))], hashcodes[-1])
        if ahead:
            self._ahead_until = self._clock() + CACHED
        return hashcodes[-1], any(map(self._known.agrees, hashcodes)) or self._clock() < self._ahead_until

    async def _list(self) -> None:
        listing = await self._api.everything(self._server)
        applications = await _read(listing)
        first = not self._listed_at
        now = self._clock()
        watched = not self._deltas and not first
        compare = self._known.compared
        listed = await in_thread(compare, applications) if len(applications) > CHUNK else compare(applications)
        self._known.heard_listed(listed, listing.hashcode, now, watched=watched)
        more = True
        while more:
            more = self._known.parse(CHUNK)
            await asyncio.sleep(0)
        self._listed_at = self._polled_at = now
        self._stats.alive()
        if self._known.unexplained and self._deltas:
            with contextlib.suppress(NoSuchError):
                await self._changes()  # what the listing lacks may have been removed in an orderly way

    async def _changes(self) -> Listing:
        """Apply what changed lately. Raises NoSuchError when the server makes no deltas."""
        listing = await self._api.changes(self._server)
        if listing.version < self._version:
            raise AdapterError(
                f"eureka at {self._server}: the number of its deltas went back from {self._version} to {listing.version}: "
                "it was restarted, or another server answers at this address; everything is listed again"
            )
        self._version = listing.version
        self._heard(await _read(listing), listing.hashcode)
        return listing

    def _heard(self, applications: list[Application], hashcode: str) -> bool:
        now = self._clock()
        news = self._known.heard_delta(applications, hashcode, now)
        if news:
            self._stats.wake_up()
        self._polled_at = now
        self._stats.alive()
        return news

    # The feed.

    async def _listen(self, config: FeedConfig) -> None:
        self._feed = Feed(config, self._hear, self._refuse)
        try:
            await self._feed.start()
        except OSError as e:
            # Polls bring the same, later.
            log.error(  # noqa: TRY400 - for the operator the text is enough
                "eureka.feed_unavailable", origin=self._origin.name, listen=config.listen, error=str(e)
            )
            self._liveness.state = FeedState.UNAVAILABLE
            self._tell_feed_state()
            return
        self._liveness = Liveness(config.silent_after, self._clock())
        self._tell_feed_state()
        self._spawn(self._judge())

    def _hear(self, change: Change) -> int:
        now = self._clock()
        if self._known.full and change.action != HEARTBEAT:
            return 503
        if self._liveness.state is not FeedState.LIVE:
            log.info("eureka.feed_heard", origin=self._origin.name, before=self._liveness.state.value)
        self._liveness.heard(now)
        self._tell_feed_state()
        understood = self._known.heard_change(change, now)
        if change.action == CANCEL:
            self._liveness.forget(change.key)
        elif understood and change.action in (HEARTBEAT, REGISTER):
            self._liveness.beat(change.key, self._known.lease(change.key).interval, now)
        self._known.set_silent(self._liveness.silent)
        if change.action != HEARTBEAT:
            self._stats.wake_up()
        self._news.set()
        return 200 if understood else 404

    def _refuse(self, sender: str) -> None:
        before = self._liveness.state
        self._liveness.refused()
        if self._liveness.state is not before:
            log.warning("eureka.feed_unauthorized", origin=self._origin.name, sender=sender)
            self._tell_feed_state()

    def _tell_feed_state(self) -> None:
        self._stats.feed_is(self._liveness.state.value)

    async def _judge(self) -> None:
        while True:
            await asyncio.sleep(JUDGE_EVERY)
            before = self._liveness.state
            self._liveness.tick(self._clock(), anybody=not self._known.empty)
            if self._liveness.state is FeedState.SILENT and before is not FeedState.SILENT:
                log.warning(
                    "eureka.feed_silent",
                    origin=self._origin.name,
                    ever_heard=before is FeedState.LIVE,
                    poll_interval_s=self._config.poll_interval,
                )
                self._tell_feed_state()
                self._hurry.set()
            for key in self._liveness.due(self._clock())[:CHECKS]:
                await self._ask_about(key)
            for key in self._liveness.silent:
                if self._known.record(key) is None:
                    self._liveness.forget(key)
            self._known.set_silent(self._liveness.silent)
            self._news.set()

    async def _ask_about(self, key: Key) -> None:
        if self._known.record(key) is None:
            self._liveness.forget(key)
            return
        try:
            entry = await self._api.instance(self._server, *key)
        except NoSuchError:
            self._liveness.unknown(key)
        except AdapterError:
            return  # no answer is no evidence; it is asked again
        else:
            self._liveness.answered(key, entry.lease.renewed, self._clock())


async def _read(listing: Listing) -> list[Application]:
    return await in_thread(_parse, listing) if len(listing.applications) > CHUNK else _parse(listing)


def _parse(listing: Listing) -> list[Application]:
    return [parse_application(raw) for raw in listing.applications]


def _gone(application: Application) -> Application:
    """Of an application in brief, what needs no more words."""
    return Application(application.name, tuple(e for e in application.entries if e.action == "DELETED"))
