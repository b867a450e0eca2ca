"""How far an answer of Consul can be trusted, by its headers."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from isthmus.registry.adapter import AdapterError
from isthmus.registry.consul.trust import Said, parse_headers

STREAMED = {
    "X-Consul-Default-Acl-Policy": "allow",
    "X-Consul-Effective-Consistency": "stale",
    "X-Consul-Index": "18",
    "X-Consul-Knownleader": "false",
    "X-Consul-Lastcontact": "0",
    "X-Consul-Query-Backend": "streaming",
}
"""As Consul 1.21.0 answers a blocking query about a service, in its own spelling."""


def said(headers: dict[str, str], *, with_token: bool = True) -> Said:
    return parse_headers(CIMultiDict({"X-Consul-Index": "7"} | headers), with_token=with_token)


@pytest.mark.parametrize(
    ("headers", "with_token", "filtered"),
    [
        ({}, True, False),
        ({"X-Consul-Query-Backend": "streaming"}, True, False),
        ({"X-Consul-Results-Filtered-By-ACLs": "true"}, True, True),
        ({"X-Consul-Default-ACL-Policy": "deny", "X-Consul-Results-Filtered-By-ACLs": "true"}, True, True),
        ({"X-Consul-Default-ACL-Policy": "deny"}, True, False),
        ({"X-Consul-Default-ACL-Policy": "deny", "X-Consul-Query-Backend": "blocking-query"}, True, False),
        ({"X-Consul-Default-ACL-Policy": "deny", "X-Consul-Query-Backend": "streaming"}, True, None),
        ({"X-Consul-Default-ACL-Policy": "allow", "X-Consul-Query-Backend": "streaming"}, True, None),
        ({"X-Consul-Default-ACL-Policy": "deny"}, False, None),
        ({"X-Consul-Default-ACL-Policy": "allow"}, False, False),
    ],
)
def test_whether_acls_filtered_an_answer(headers: dict[str, str], with_token: bool, filtered: bool | None) -> None:
    """Consul says it neither to anonymous clients nor in an answer of its streaming backend: there it cannot be told."""
    assert said(headers, with_token=with_token).filtered is filtered


@pytest.mark.parametrize(
    ("headers", "current"),
    [
        ({}, True),
        ({"X-Consul-KnownLeader": "true"}, True),
        ({"X-Consul-KnownLeader": "false"}, False),
        ({"X-Consul-KnownLeader": "true", "X-Cache": "HIT", "Age": "0"}, False),
    ],
)
def test_whether_an_answer_proves_that_there_is_a_leader(headers: dict[str, str], current: bool) -> None:
    assert said(headers).current is current


def test_what_a_streamed_answer_says_of_leaders_and_contact_counts_for_nothing() -> None:
    assert said(STREAMED) == Said(index=18, age=0, current=False, filtered=None)


@pytest.mark.parametrize(
    ("headers", "age"),
    [
        ({}, 0),
        ({"X-Consul-LastContact": "1500"}, 1.5),
        ({"X-Consul-LastContact": "-1"}, 0),
        ({"X-Cache": "HIT", "Age": "42", "X-Consul-LastContact": "0"}, 42),
        ({"X-Cache": "HIT", "Age": "1", "X-Consul-LastContact": "2000"}, 2),
    ],
)
def test_the_age_of_an_answer_is_what_the_server_or_the_cache_lags_behind(headers: dict[str, str], age: float) -> None:
    assert said(headers).age == age


@pytest.mark.parametrize("index", ["", "-1", "x", "٣", "1" * 21])
def test_what_has_no_index_is_not_consul(index: str) -> None:
    with pytest.raises(AdapterError, match="X-Consul-Index"):
        said({"X-Consul-Index": index})
