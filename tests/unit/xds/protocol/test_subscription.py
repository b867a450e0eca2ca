"""What a client wants, request by request."""

from __future__ import annotations

import pytest

from isthmus.xds.protocol.subscription import NAMES_LIMIT, ProtocolError, Shift, Subscription


def test_clients_that_want_the_same_names_share_them() -> None:
    """Thousands of proxies want the same thousands of names."""
    one, other = Subscription(allows_wildcard=True), Subscription(allows_wildcard=True)
    one.replace([f"cluster-{i}" for i in range(100)])
    other.change([f"cluster-{i}" for i in range(50)], [])
    other.change([f"cluster-{i}" for i in range(50, 100)], [])
    assert one.names is other.names


@pytest.fixture
def whole() -> Subscription:
    """Of a type that can be asked for as a whole."""
    return Subscription(allows_wildcard=True)


class TestStateOfTheWorld:
    def test_no_names_ever_means_all(self, whole: Subscription) -> None:
        """Rule 16, legacy wildcard."""
        assert whole.replace([]) == Shift(widened=True)
        assert whole.replace([]) == Shift()
        assert whole.wants("a")

    def test_names_end_the_legacy_wildcard_for_good(self, whole: Subscription) -> None:
        """Rule 16: afterwards an empty list unsubscribes from all."""
        whole.replace([])
        assert whole.replace(["a"]) == Shift(asked=frozenset("a"), narrowed=True)
        assert whole.replace([]) == Shift(dropped=frozenset("a"))
        assert not whole.wants("a")

    def test_a_client_that_never_means_all(self) -> None:
        """grpc/grpc-go#7013: one that comes back after it gave up its last name lists nothing, and wants nothing."""
        named = Subscription(allows_wildcard=True, allows_legacy=False)
        assert named.replace([]) == Shift()
        assert not named.wants("a")
        assert named.replace(["*"]) == Shift(widened=True)

    def test_a_star_beside_names(self, whole: Subscription) -> None:
        """Rule 16: leaving the star keeps the names."""
        assert whole.replace(["*", "a"]) == Shift(asked=frozenset("a"), widened=True)
        assert whole.wants("b")
        assert whole.replace(["a"]) == Shift(before=frozenset("a"), narrowed=True)
        assert whole.wants("a")
        assert not whole.wants("b")

    def test_a_name_that_the_star_still_covers_is_not_dropped(self, whole: Subscription) -> None:
        whole.replace(["*", "a"])
        assert whole.replace(["*"]) == Shift(before=frozenset("a"))

    def test_types_that_are_never_asked_for_as_a_whole(self) -> None:
        """Rule 16: no legacy wildcard for endpoints and routes, nor a star."""
        named = Subscription(allows_wildcard=False)
        assert named.replace([]) == Shift()
        assert named.replace(["*", "a"]) == Shift(asked=frozenset("a"))
        assert not named.wants("b")

    def test_only_new_names_are_asked_anew(self, whole: Subscription) -> None:
        """Rule 14."""
        whole.replace(["a", "b", "a"])
        assert whole.replace(["b", "c"]) == Shift(asked=frozenset("c"), dropped=frozenset("a"), before=frozenset("b"))
        assert whole.replace(["a", "b", "c"]) == Shift(asked=frozenset("a"), before=frozenset("bc"))

    def test_too_many_names(self, whole: Subscription) -> None:
        with pytest.raises(ProtocolError, match="at most 100000"):
            whole.replace([str(i) for i in range(NAMES_LIMIT + 1)])


class TestDelta:
    def test_a_first_request_without_names_means_all(self, whole: Subscription) -> None:
        """Rule 26: and later ones do not end it, nor do names."""
        assert whole.change([], []) == Shift(widened=True)
        assert whole.change([], []) == Shift()
        assert whole.change(["a"], []) == Shift(asked=frozenset("a"))
        assert whole.wants("b")

    def test_only_the_star_ends_the_legacy_wildcard(self, whole: Subscription) -> None:
        """Rule 26: afterwards an empty set means nothing."""
        whole.change([], [])
        assert whole.change([], ["*"]) == Shift(narrowed=True)
        assert not whole.wants("a")
        assert whole.change([], []) == Shift()
        assert not whole.wants("a")

    def test_a_star_asked_for_again(self, whole: Subscription) -> None:
        whole.change(["*"], [])
        assert whole.change(["*"], []) == Shift(repeated=True)

    def test_a_later_request_without_names_is_no_wildcard(self, whole: Subscription) -> None:
        whole.change(["a"], [])
        assert whole.change([], ["a"]) == Shift(dropped=frozenset("a"))
        assert not whole.wants("b")

    def test_asking_again_is_asking(self, whole: Subscription) -> None:
        """Rule 22: the client may have forgotten."""
        whole.change(["a"], [])
        assert whole.change(["a"], []) == Shift(asked=frozenset("a"), before=frozenset("a"))

    def test_phantom_names_are_ignored(self, whole: Subscription) -> None:
        """Rule 25."""
        whole.change(["a"], [])
        assert whole.change([], ["b"]) == Shift(before=frozenset("a"))

    def test_leaving_a_name_that_the_wildcard_covers_is_answered(self, whole: Subscription) -> None:
        """Rule 25."""
        whole.change(["*", "a"], [])
        assert whole.change([], ["a", "b"]) == Shift(asked=frozenset("a"))
        assert whole.wants("a")

    def test_a_name_in_both_lists_stays(self, whole: Subscription) -> None:
        whole.change(["a"], [])
        assert whole.change(["a"], ["a"]) == Shift(asked=frozenset("a"), before=frozenset("a"))
        assert whole.wants("a")

    def test_types_that_are_never_asked_for_as_a_whole(self) -> None:
        named = Subscription(allows_wildcard=False)
        assert named.change([], []) == Shift()
        assert named.change(["*"], []) == Shift()
        assert not named.wants("a")

    def test_too_many_names_in_all(self, whole: Subscription) -> None:
        names = [str(i) for i in range(NAMES_LIMIT)]
        whole.change(names, [])
        assert whole.change(names, []).asked == frozenset(names)
        with pytest.raises(ProtocolError, match="at most 100000"):
            whole.change(["one more"], [])
