"""The rules of blocking queries, once for Consul and Nomad.

A blocking query sends the index it has seen and is answered when there is a newer one, or when the wait is over. Source:
https://developer.hashicorp.com/consul/api-docs/features/blocking
"""

from __future__ import annotations

import msgspec

SLACK = 2.0
"""Seconds that a read may take beyond the longest time a server is allowed to hold it."""


class Step(msgspec.Struct, frozen=True, gc=False):
    """What one answer means for the query after it.

    `index` is what to send next: 0 asks to be answered at once. `moved` tells that the answer may hold something new; it is no
    proof, so compare the content. `went_back` tells that the server's index was lower than ours: a snapshot was restored, the
    server began anew, or another server answered that is behind. What such an answer lacks was not seen to go.
    """

    index: int
    moved: bool
    went_back: bool


def step(asked: int, answered: int) -> Step:
    """The rule for an answer with the index `answered` to a query that sent `asked` (0: the first one).

    An index is never negative, and after any answer at least 1: a query with 0 does not block, so a server that answers 0 would
    be asked without a pause, while 1 is safe even for what does not exist yet. A lower index than ours starts over at 0.
    """
    answered = max(1, answered)
    if answered < asked:
        return Step(index=0, moved=True, went_back=True)
    return Step(index=answered, moved=answered != asked, went_back=False)


def read_timeout(wait: float, slack: float = SLACK) -> float:
    """Seconds after which an unanswered blocking query is a failure: servers add up to a sixteenth of the wait as jitter."""
    return wait * 17 / 16 + slack


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """A token bucket, as a value: at most `burst` at once, `rate` per second in the long run.

    It keeps a loop from spinning when its index moves all the time, without making the first changes after a quiet time wait.
    `tokens` are what was left at the second `at` of any monotonic clock; they may be negative, a debt that time pays off.
    """

    burst: float
    rate: float
    tokens: float
    at: float

    def take(self, now: float, cost: float = 1) -> tuple[Bucket, float]:
        """The bucket after taking `cost`, and how many seconds to wait before doing what it was taken for.

        A cost above the burst is allowed, and leaves a debt to those who come after. A clock that goes back adds nothing.
        """
        tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        wait = max(0.0, (min(cost, self.burst) - tokens) / self.rate)
        return Bucket(self.burst, self.rate, tokens - cost, max(now, self.at)), wait

    def wait(self, now: float, tokens: float) -> float:
        """Seconds until there are this many tokens, not more than the burst, if nobody takes any."""
        there = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate)
        return max(0.0, (min(tokens, self.burst) - there) / self.rate)


def full_bucket(burst: float, rate: float, now: float) -> Bucket:
    """A bucket that nothing was taken from yet."""
    return Bucket(burst, rate, burst, now)
