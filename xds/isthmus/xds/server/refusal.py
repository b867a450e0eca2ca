"""The words in which a stream is ended that cannot go on."""

from __future__ import annotations

import grpc


class Refusal(Exception):  # noqa: N818 - what happens to the stream, not a fault of the program
    """A stream ends with this status and text. `reason` is a word for the metrics."""

    def __init__(self, code: grpc.StatusCode, reason: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason


def wrong(reason: str, text: str) -> Refusal:
    """What a client must not send."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, text)


def too_much(reason: str, what: str, setting: str, limit: int) -> Refusal:
    """More than a setting allows."""
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, f"{what}; xds.limits.{setting} allows {limit}")
