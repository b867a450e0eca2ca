"""Certificates in files that are renewed under a server that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from isthmus.xds.server.certificates import CertificateError, Certificates
from tests.servers.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_renewed_files_are_taken_over(authority: Authority) -> None:
    """Asked again, it gives the same object as long as nothing has changed: that is how a transport sees what is new."""
    cert, key = authority.issue("server")
    certificates = Certificates(str(cert), str(key), str(authority.file))
    first = certificates.latest()
    assert certificates.latest() is first
    assert first.certificate == cert.read_bytes()
    assert first.client_ca == authority.file.read_bytes()

    authority.issue("server")
    with capture_logs() as logs:
        second = certificates.latest()
    assert second.certificate == cert.read_bytes() != first.certificate
    assert [line["event"] for line in logs] == ["xds.certificates_renewed"]


def test_files_that_do_not_fit_together_change_nothing(authority: Authority) -> None:
    """Renewals write one file after the other; what is read in between is said once, and is over when both are there."""
    cert, key = authority.issue("server")
    certificates = Certificates(str(cert), str(key))
    first = certificates.latest()
    other_cert, other_key = authority.issue("other")

    cert.write_bytes(other_cert.read_bytes())
    with capture_logs() as logs:
        assert certificates.latest() is first
        assert certificates.latest() is first
    assert [line["event"] for line in logs] == ["xds.certificates_refused"]
    assert "server.key: expected a certificate and its key" in logs[0]["error"]
    cert.unlink()
    assert certificates.latest() is first

    cert.write_bytes(other_cert.read_bytes())
    key.write_bytes(other_key.read_bytes())
    assert certificates.latest().key == other_key.read_bytes()


def test_what_is_wrong_is_named(authority: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("server")
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for files, text in (
        ((missing, key, authority.file), "missing.pem: No such file"),
        ((cert, authority.file, authority.file), "expected a certificate and its key"),
        ((cert, key, empty), "empty.pem: expected certificates in PEM form"),
    ):
        with pytest.raises(CertificateError, match=text):
            Certificates(*map(str, files)).latest()
