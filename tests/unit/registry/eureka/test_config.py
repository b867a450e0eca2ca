"""What an operator may say about a Eureka, and what is refused with a sentence."""

from __future__ import annotations

import msgspec
import pytest

from isthmus.registry.eureka import EurekaConfig, FeedConfig


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ({"addresses": []}, "length >= 1"),
        ({"addresses": ["eureka:8761"]}, "expected http://host:port/eureka"),
        ({"addresses": ["http://[::1:8761/eureka"]}, "expected http://host:port/eureka"),
        ({"addresses": ["http://eureka:0/eureka"]}, "expected http://host:port/eureka"),
        ({"addresses": ["http://eureka:8761/eureka?x=1"]}, "expected http://host:port/eureka"),
        ({"addresses": ["http://me:s3cret@eureka:8761/eureka"]}, "addresses[0]: no user or password in it"),
        ({"password": "s3cret"}, "password: it needs a user"),
        ({"user": "a:b", "password": "s3cret"}, "user 'a:b': no colon"),
        ({"cert_file": "a.pem"}, "cert_file and key_file: both or none"),
        ({"ca_file": "a.pem"}, "need https:// addresses"),
        ({"poll_interval": 0}, ">= 0.1"),
        ({"feed": {"listen": "0.0.0.0:8762"}}, "user and password are needed"),
        ({"feed": {"listen": "bridge:8762"}}, "expected ADDRESS:PORT"),
        ({"feed": {"listen": "127.0.0.1"}}, "expected ADDRESS:PORT"),
        ({"feed": {"listen": "127.0.0.1:8762", "user": "eureka"}}, "user and password, both or none"),
        ({"feed": {"listen": "127.0.0.1:8762", "colour": "red"}}, "unknown field `colour`"),
    ],
)
def test_what_is_refused(said: dict[str, object], answer: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refusal:
        msgspec.convert(said, EurekaConfig)
    assert answer in str(refusal.value)
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("listen", "address"), [("127.0.0.1:8762", ("127.0.0.1", 8762)), ("[::1]:8762", ("::1", 8762))]
)
def test_a_feed_for_this_machine_needs_no_password(listen: str, address: tuple[str, int]) -> None:
    assert FeedConfig(listen).address == address


def test_passwords_are_not_shown() -> None:
    """A configuration that ends up in a log or a traceback keeps its secrets."""
    said = {"user": "me", "password": "s3cret"}
    config = msgspec.convert(said | {"feed": said | {"listen": "0.0.0.0:8762"}}, EurekaConfig)
    assert "s3cret" not in repr(config)
    assert "s3cret" not in str(config)
