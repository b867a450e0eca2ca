"""The server's certificates: read from files, and read again when these have changed.

Whoever renews certificates writes one file after the other, so what is read in between does not fit together. What cannot be
used is said once and changes nothing: the certificates before stay.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from isthmus.xds.server.transport import TLSConfig

log = structlog.get_logger()

_State = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """The files cannot be used; one sentence for the operator."""


class Certificates:
    """PEM files: the server's certificate chain, its key, and the authorities whose clients are let in (none: any client)."""

    def __init__(self, cert_file: str, key_file: str, ca_file: str = "") -> None:
        self._files = (cert_file, key_file, *([ca_file] if ca_file else ()))
        self._state: _State | None = None
        self._latest: TLSConfig | None = None

    def read(self) -> TLSConfig:
        """What the files say now.

        Raises:
            CertificateError: they cannot be read, or do not fit together.

        """
        cert_file, key_file, *ca_files = self._files
        contents: list[bytes] = []
        for file in self._files:
            try:
                contents.append(Path(file).read_bytes())
            except OSError as e:
                raise CertificateError(f"{file}: {e.strerror or e}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except ssl.SSLError:
            expected = "a certificate and its key, without a password, in PEM form"
            raise CertificateError(f"{cert_file}, {key_file}: expected {expected}") from None
        for file in ca_files:
            try:
                context.load_verify_locations(file)
            except ssl.SSLError:
                raise CertificateError(f"{file}: expected certificates in PEM form") from None
        return TLSConfig(*contents)

    def latest(self) -> TLSConfig:
        """The same object as before unless the files have changed, and can be used. Called for each connection, in any thread.

        Raises:
            CertificateError: they have never been usable.

        """
        state = self._look()
        if self._latest is None:
            self._latest, self._state = self.read(), state
        elif state != self._state:
            self._state = state
            try:
                self._latest = self.read()
            except CertificateError as e:
                log.warning("xds.certificates_refused", error=str(e))
            else:
                log.info("xds.certificates_renewed", files=self._files)
        return self._latest

    def _look(self) -> _State:
        states: list[tuple[int, int, int]] = []
        for file in self._files:
            try:
                found = Path(file).stat()
            except OSError:
                states.append((0, 0, 0))
            else:
                states.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(states)


def _no_password() -> str:
    """Asked for one, OpenSSL would ask the terminal."""
    return ""
