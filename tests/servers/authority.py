"""An authority that issues certificates, for tests that speak TLS. The openssl command does the work."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """One authority; its certificate is in `file`. Skips the test where there is no openssl."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._key = directory / f"{name}.key"
        self.file = directory / f"{name}.pem"
        self._openssl(
            "req", "-x509", *_KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", self._key, "-out", self.file
        )

    def issue(self, name: str, san: str = "IP:127.0.0.1") -> tuple[Path, Path]:
        """A certificate, for servers and clients, and its key; those of that name before are replaced."""
        certificate, key, request = (self._directory / f"{name}.{end}" for end in ("pem", "key", "csr"))
        self._openssl(
            "req", *_KEY, "-subj", f"/CN={name}", "-addext", f"subjectAltName={san}", "-keyout", key, "-out", request
        )
        signing = ("-CA", self.file, "-CAkey", self._key, "-CAcreateserial", "-days", "1", "-copy_extensions", "copy")
        self._openssl("x509", "-req", "-in", request, *signing, "-out", certificate)
        return certificate, key

    def _openssl(self, *arguments: str | Path) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("openssl is not on PATH")
        subprocess.run([openssl, *arguments], check=True, capture_output=True, timeout=30)
