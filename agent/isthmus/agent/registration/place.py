"""What every registry does for the registrar, and how it says that it cannot."""

from __future__ import annotations

from typing import Protocol

from isthmus.agent.registration.claim import Claim


class RegistrationError(Exception):
    """The registry did not do it, this time. The text is for the operator, and has no secret in it."""


class SupersededError(RegistrationError):
    """Somebody registered the instance with a larger epoch: it is theirs now, and this agent's no more."""


class TakenError(RegistrationError):
    """The instance was registered by somebody who is no agent."""


class Place(Protocol):
    """A registry to register in. Each call is one attempt, with a limit in time of its own, and raises RegistrationError.

    None of them touches a registration of a larger epoch, nor one that no agent has made.
    """

    name: str
    """For logs: `consul at http://127.0.0.1:8500`."""
    every: float
    """Seconds between renewals."""

    async def put(self, claim: Claim) -> None:
        """Register the instance as claimed, in place of what there is of it."""

    async def renew(self, claim: Claim) -> bool:
        """Say that a claim that was put still holds; False when the registry knows it no longer."""
        ...

    async def remove(self, claim: Claim) -> None:
        """Take the registration of this very epoch away, if there is one."""

    async def close(self) -> None:
        """End the connections. They are made again by the next call."""


def superseded(id_: str, theirs: int, ours: int) -> SupersededError:
    """The error for an instance that is held by a larger epoch."""
    return SupersededError(
        f"{id_} is registered by a newer agent (its epoch is {theirs}, ours {ours}): stop one of the two, or give it another id"
    )


def taken(id_: str) -> TakenError:
    """The error for an instance that was registered, but by no agent."""
    return TakenError(
        f"{id_} is registered already, and by no agent: take that registration away, or give this service another id"
    )


def epoch_in(metadata: dict[str, str] | None, id_: str, ours: int, key: str) -> int:
    """The epoch that a registration says it was made with.

    Raises:
        TakenError: it says none.
        SupersededError: it is larger than ours.

    """
    said = (metadata or {}).get(key, "")
    if not (said.isascii() and said.isdigit() and len(said) <= 18):
        raise taken(id_)
    if int(said) > ours:
        raise superseded(id_, int(said), ours)
    return int(said)
