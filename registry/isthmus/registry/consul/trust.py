"""How far an answer can be trusted: what its status and its headers say. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from isthmus.registry.adapter import AdapterError

STREAMING = "streaming"
"""`X-Consul-Query-Backend` of an answer out of the view that the agent keeps of a service, fed by a stream from the servers.

Consul 1.21.0 says of such an answer that no leader is known and that contact was 0 ms ago, and neither means anything. Whether
the servers can still tell the agent what changes is proved by the list of services, which is always asked of them.
"""


class RefusedError(AdapterError):
    """Consul answered, and asking the same again will not help: the token or the query is wrong."""


class Said(msgspec.Struct, frozen=True):
    """What the headers say.

    `age` is the number of seconds for which the answer may lag behind: since the server that answered last heard of a leader, or,
    of an answer out of the agent's cache, since the agent last heard of the servers. `current` is whether it proves that there is
    a leader, which an answer out of a view or a cache cannot. `filtered` is whether ACLs have taken something away, so that what
    is absent may exist nevertheless; None when that cannot be told from this answer.
    """

    index: int
    age: float
    current: bool
    filtered: bool | None


def parse_headers(headers: Mapping[str, str], *, with_token: bool, indexed: bool = True) -> Said:
    """The headers of an answer with status 200, in a mapping for which case does not matter; some answers are not `indexed`.

    Raises:
        AdapterError: there is no usable index.

    """
    index = headers.get("X-Consul-Index", "" if indexed else "0")
    if not _is_number(index):
        raise AdapterError(f"no X-Consul-Index in the answer ({index!r}); is this Consul?")
    contact, age = headers.get("X-Consul-LastContact", ""), headers.get("Age", "")
    out_of_memory = headers.get("X-Consul-Query-Backend") == STREAMING or "X-Cache" in headers
    return Said(
        index=int(index),
        age=max(int(contact) / 1000 if _is_number(contact) else 0.0, float(age) if _is_number(age) else 0.0),
        current=not out_of_memory and headers.get("X-Consul-KnownLeader", "true") == "true",
        filtered=_filtered(headers, with_token),
    )


def refusal(status: int, body: bytes) -> AdapterError:
    """What an answer with another status means."""
    said = " ".join(body[:300].decode(errors="replace").split())
    text = f"{status} {said}".strip()
    if status == 403:
        return RefusedError(f"{text} (the token is unknown, expired or lacks service and node read)")
    if status == 429:
        return AdapterError(f"{text} (a limit of the agent; see max_connections and limits.http_max_conns_per_client)")
    if 300 <= status < 400:
        return RefusedError(f"{text}: a redirection, which is not followed; is this Consul?")
    if status in (400, 401, 404, 405):
        return RefusedError(text)
    return AdapterError(text)


def _filtered(headers: Mapping[str, str], with_token: bool) -> bool | None:
    if headers.get("X-Consul-Results-Filtered-By-ACLs") == "true":
        return True
    policy = headers.get("X-Consul-Default-ACL-Policy")
    if not policy:
        return False  # there are no ACLs
    if not with_token and policy == "deny":
        return None  # Consul tells those only whom it knows
    if headers.get("X-Consul-Query-Backend") == STREAMING:
        return None  # blocking queries about one service never tell
    return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20
