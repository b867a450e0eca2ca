"""What `serve --check`, a start and a reload find out about files that the configuration names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from isthmus.bridge.config import (
    Config,
    ConsulRegistry,
    FileRegistry,
    ListenConfig,
    TLSListenConfig,
    WorkloadsRegistry,
    XdsConfig,
)
from isthmus.bridge.preflight import PreflightError, preflight
from isthmus.registry.kv.config import ConsulStoreConfig


def mk_config(tmp_path: Path, **tls: str) -> Config:
    """A Consul over TLS; the values of `tls` are names of files in the directory."""
    files = {field: str(tmp_path / name) for field, name in tls.items()}
    consul = ConsulRegistry(name="consul", address="https://consul:8501", **files)  # type: ignore[arg-type]
    return Config(registries=(consul,), state_dir=str(tmp_path / "state"))


def write_certificate(tmp_path: Path, password: str = "") -> None:
    """`cert.pem`, signed by itself, and its `key.pem`."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on PATH")
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-subj",
        "/CN=test",
    ]
    command += ["-passout", f"pass:{password}"] if password else ["-nodes"]
    command += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def refusal(config: Config) -> str:
    with pytest.raises(PreflightError) as caught:
        preflight(config)
    return str(caught.value)


def test_all_is_well(tmp_path: Path) -> None:
    """Nothing is said, and nothing is made: the state directory is not there afterwards."""
    write_certificate(tmp_path)

    assert preflight(mk_config(tmp_path, ca_file="cert.pem", cert_file="cert.pem", key_file="key.pem")) == []
    assert not (tmp_path / "state").exists()


def test_the_certificates_of_the_store(tmp_path: Path) -> None:
    store = ConsulStoreConfig(address="https://consul:8501", ca_file=str(tmp_path / "absent.pem"))

    said = refusal(Config(registries=(WorkloadsRegistry(name="agents"),), state_dir=str(tmp_path), store=store))

    assert said == f"store: ca_file {tmp_path}/absent.pem: No such file or directory"


@pytest.mark.parametrize(
    ("http", "remarks"),
    [
        (ListenConfig("127.0.0.1:15014"), 0),
        (ListenConfig("localhost:15014"), 0),
        (ListenConfig("[::1]:15014"), 0),
        (ListenConfig("0.0.0.0:15014", "token"), 0),
        (ListenConfig("0.0.0.0:15014"), 1),
        (ListenConfig("bridge.example:15014"), 1),
    ],
)
def test_who_may_register_workloads_is_remarked_where_it_is_everybody(
    tmp_path: Path, http: ListenConfig, remarks: int
) -> None:
    config = Config(registries=(WorkloadsRegistry(name="agents"),), http=http, state_dir=str(tmp_path / "state"))

    assert len(preflight(config)) == remarks
    assert all("there is no http.token" in remark for remark in preflight(config))


def test_the_certificates_of_the_xds_server(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    config = mk_config(tmp_path)

    assert preflight(msgspec.structs.replace(config, xds=XdsConfig(tls=TLSListenConfig(cert, key)))) == []
    said = refusal(msgspec.structs.replace(config, xds=XdsConfig(tls=TLSListenConfig(cert, cert))))
    assert said == f"xds.tls: {cert}, {cert}: expected a certificate and its key, without a password, in PEM form"


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
def test_a_file_that_is_not_there(tmp_path: Path, field: str) -> None:
    write_certificate(tmp_path)
    tls = {"cert_file": "cert.pem", "key_file": "key.pem"} if field != "ca_file" else {}

    said = refusal(mk_config(tmp_path, **{**tls, field: "absent.pem"}))

    assert said == f"registry consul: {field} {tmp_path}/absent.pem: No such file or directory"


def test_a_file_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")

    said = refusal(mk_config(tmp_path, ca_file="ca.pem"))

    assert said == f"registry consul: ca_file {tmp_path}/ca.pem: expected certificates in PEM form"


def test_a_key_that_does_not_belong_to_the_certificate(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    (tmp_path / "cert.pem").rename(tmp_path / "other.pem")
    write_certificate(tmp_path)

    said = refusal(mk_config(tmp_path, cert_file="other.pem", key_file="key.pem"))

    assert f"cert_file {tmp_path}/other.pem, key_file {tmp_path}/key.pem" in said


def test_a_key_with_a_password(tmp_path: Path) -> None:
    """It is refused rather than asked for on a terminal where nobody sits."""
    write_certificate(tmp_path, "s3cr3t")

    assert "without a password" in refusal(mk_config(tmp_path, cert_file="cert.pem", key_file="key.pem"))


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = msgspec.structs.replace(mk_config(tmp_path), state_dir=str(tmp_path / "file" / "state"))

    assert refusal(config) == (
        f"state_dir {tmp_path}/file/state: Not a directory; "
        "isthmus keeps the addresses of TCP services there and must write it"
    )


def test_a_damaged_state(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "virtual-ips.json").write_text("{")

    said = refusal(mk_config(tmp_path))

    assert said.startswith(f"{tmp_path}/state/virtual-ips.json: ")
    assert "move it away" in said


def test_a_folder_of_services_that_is_not_there_yet_is_a_remark(tmp_path: Path) -> None:
    """It may come later, as a volume or a link does; the bridge waits for it."""
    files = FileRegistry(name="local", path=str(tmp_path / "services"))
    config = msgspec.structs.replace(mk_config(tmp_path), registries=(files,))

    assert preflight(config) == [f"registry local: {tmp_path}/services is not there (yet)"]
    (tmp_path / "services").mkdir()
    assert preflight(config) == []


def test_of_a_pattern_its_beginning_has_to_be_there(tmp_path: Path) -> None:
    """That nothing matches yet is nothing to remark on."""
    files = FileRegistry(name="local", path=(f"{tmp_path}/*/services.yaml", f"{tmp_path}/absent/**/*.yaml"))
    config = msgspec.structs.replace(mk_config(tmp_path), registries=(files,))

    assert preflight(config) == [f"registry local: {tmp_path}/absent is not there (yet)"]
