"""What an operator may say about the bridge's store. Pure."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from isthmus.registry.consul.config import ConsulConfig
from isthmus.registry.etcd.config import EtcdConfig, Prefix

HEARTBEAT = 5.0
"""Seconds of silence after which a store is asked for a sign of life."""

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*/?")

KeyPrefix = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class DirectoryStoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="directory"):
    """Files below the bridge's `state_dir`: for one bridge, or for several processes on one machine."""


class ConsulStoreConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="consul"
):
    """Keys of a Consul. The token needs `key_prefix` read and write on `prefix`.

    Raises:
        ValueError: as for a registry of type consul.

    """

    address: str = "http://127.0.0.1:8500"
    token: str = ""
    datacenter: str = ""
    namespace: str = ""
    partition: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""
    verify: bool = True
    prefix: KeyPrefix = "isthmus/"

    def __post_init__(self) -> None:
        _check_prefix(self.prefix)
        self.connection()

    def __repr__(self) -> str:
        return f"ConsulStoreConfig(address={self.address!r}, prefix={self.prefix!r})"

    def connection(self) -> ConsulConfig:
        """How it is reached, checked as any Consul."""
        return ConsulConfig(
            address=self.address,
            token=self.token,
            datacenter=self.datacenter,
            namespace=self.namespace,
            partition=self.partition,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            tls_server_name=self.tls_server_name,
            verify=self.verify,
            heartbeat=HEARTBEAT,
        )


class EtcdStoreConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="etcd"
):
    """Keys of an etcd cluster. The user needs a role that may read and write all keys with `prefix`.

    Raises:
        ValueError: as for a registry of type etcd.

    """

    endpoints: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=20)] = ("http://127.0.0.1:2379",)
    user: str = ""
    password: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tls_server_name: str = ""
    prefix: KeyPrefix = "isthmus/"

    def __post_init__(self) -> None:
        _check_prefix(self.prefix)
        self.connection()

    def __repr__(self) -> str:
        return f"EtcdStoreConfig(endpoints={self.endpoints!r}, prefix={self.prefix!r}, user={self.user!r})"

    def connection(self, below: str = "") -> EtcdConfig:
        """How it is reached, checked as any etcd, and which of its keys are meant: those of `below`, by default all of them."""
        return EtcdConfig(
            prefixes=(Prefix(folder(self.prefix) + below),),
            endpoints=self.endpoints,
            user=self.user,
            password=self.password,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            tls_server_name=self.tls_server_name,
            heartbeat=HEARTBEAT,
        )


StoreConfig = DirectoryStoreConfig | ConsulStoreConfig | EtcdStoreConfig


def folder(prefix: str) -> str:
    """The prefix with its slash."""
    return prefix if prefix.endswith("/") else f"{prefix}/"


def _check_prefix(prefix: str) -> None:
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"prefix {prefix!r}: expected a folder such as isthmus/")
