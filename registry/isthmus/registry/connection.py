"""How a connection to any registry is made: TLS as configured, and a kernel that notices when the other side is gone."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Protocol

from isthmus.registry.adapter import AdapterError

KEEPALIVE = {socket.TCP_KEEPIDLE: 15, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""A blocking query is silent for minutes; a peer that is gone without a word is noticed after half a minute."""


class TLSFields(Protocol):
    """What the configurations of the registries have in common about TLS. Empty paths: the system's, and no certificate."""

    @property
    def ca_file(self) -> str: ...
    @property
    def cert_file(self) -> str: ...
    @property
    def key_file(self) -> str: ...
    @property
    def verify(self) -> bool: ...


def keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """A socket for aiohttp's `socket_factory`; `address` is an entry of getaddrinfo."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return sock


def tls_context(config: TLSFields, who: str) -> ssl.SSLContext:
    """The context of a configuration; `who` begins the error, as in `consul at https://127.0.0.1:8501`.

    Raises:
        AdapterError: a file is missing or is not what it should be.

    """
    try:
        context = ssl.create_default_context(cafile=config.ca_file or None)
    except OSError as e:
        raise AdapterError(f"{who}: ca_file {config.ca_file}: {e}") from e
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.cert_file:
        try:
            context.load_cert_chain(config.cert_file, config.key_file, password=_no_password)
        except OSError as e:
            raise AdapterError(f"{who}: cert_file {config.cert_file}, key_file {config.key_file}: {e}") from e
    return context


def _no_password() -> str:
    """Without this OpenSSL would ask for the password of an encrypted key on the terminal, and wait."""
    return ""
