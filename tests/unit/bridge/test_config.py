"""isthmus.yaml: what is accepted, and what is said about what is not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from isthmus.bridge.config import Config, ConsulRegistry, FileRegistry, TLSListenConfig, load, parse
from isthmus.registry.kv.config import ConsulStoreConfig
from isthmus.registry.settings import MAX_BYTES, ConfigError

PATH = Path("/etc/isthmus/isthmus.yaml")
FIELDS = ", ".join(sorted(Config.__struct_fields__))
REGISTRIES = "registries: [{name: local, type: file, path: services}]\n"

KINDS = "consul, etcd, eureka, file, nomad or workloads"


def config(text: str, **environment: str) -> Config:
    return parse(text.encode(), PATH, environment)


def error(text: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(text, **environment)
    return str(caught.value)


def test_paths_are_relative_to_the_file() -> None:
    text = """
    registries:
    - {name: here, type: file, path: services}
    - {name: there, type: file, path: /srv/services}
    - {name: several, type: file, path: ["teams/*/*.yaml", /srv/more.yaml]}
    - {name: consul, type: consul, address: "https://consul:8501", ca_file: ca.pem}
    state_dir: state
    """

    here, there, several, consul = config(text).registries

    assert isinstance(here, FileRegistry)
    assert isinstance(there, FileRegistry)
    assert isinstance(several, FileRegistry)
    assert isinstance(consul, ConsulRegistry)
    assert here.path == "/etc/isthmus/services"
    assert there.path == "/srv/services"
    assert several.path == ("/etc/isthmus/teams/*/*.yaml", "/srv/more.yaml")
    assert (consul.ca_file, consul.cert_file) == ("/etc/isthmus/ca.pem", "")
    assert config(text).state_dir == "/etc/isthmus/state"


def test_certificates_of_the_xds_server_are_relative_to_the_file_too() -> None:
    tls = config(f"{REGISTRIES}xds: {{tls: {{cert_file: tls/a.pem, key_file: /run/a.key}}}}").xds.tls

    assert tls == TLSListenConfig("/etc/isthmus/tls/a.pem", "/run/a.key")


def test_files_of_the_store_are_relative_to_the_file_and_its_secrets_are_not_shown() -> None:
    text = """
    registries: [{name: agents, type: workloads}]
    store: {type: consul, address: "https://c:8501", ca_file: ca.pem, token: "${env:T}", prefix: mesh/a}
    http: {address: "127.0.0.1:15014", token: "${env:T}"}
    """

    found = config(text, T="s3cr3t")

    assert isinstance(found.store, ConsulStoreConfig)
    assert (found.store.ca_file, found.store.token) == ("/etc/isthmus/ca.pem", "s3cr3t")
    assert found.http.token == "s3cr3t"  # noqa: S105
    assert "s3cr3t" not in repr(found)


def test_a_relative_path_of_the_file_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload, which reads it by its absolute path, finds nothing changed."""
    (tmp_path / "isthmus.yaml").write_text(REGISTRIES)
    monkeypatch.chdir(tmp_path)

    assert load(Path("isthmus.yaml"), {}) == load(tmp_path / "isthmus.yaml", {})


class TestReferences:
    def test_the_environment_is_read_where_it_is_named(self) -> None:
        text = 'registries: [{name: c, type: consul, address: "http://${env:HOST}:8500", token: "${env:T}"}]'

        (consul,) = config(text, HOST="consul.example", T="t0p").registries

        assert isinstance(consul, ConsulRegistry)
        assert (consul.address, consul.token) == ("http://consul.example:8500", "t0p")

    def test_a_file_is_read_without_the_line_end(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("t0p\n")
        text = b'registries: [{name: c, type: consul, token: "${file:token}"}]'

        (consul,) = parse(text, tmp_path / "isthmus.yaml", {}).registries

        assert isinstance(consul, ConsulRegistry)
        assert consul.token == "t0p"  # noqa: S105

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("${env:ABSENT}", "the environment has no ABSENT"),
            ("${file:absent}", "cannot read absent: No such file or directory"),
            ("${file:/}", "cannot read /: Is a directory"),
            ("${file:/dev/zero}", f"/dev/zero is larger than {MAX_BYTES} bytes"),
            ("${CONSUL_TOKEN}", "after ${ expected env:NAME} or file:path}"),
            ("${env:CONSUL_TOKEN", "after ${ expected env:NAME} or file:path}"),
            ("${env:}", "after ${ expected env:NAME} or file:path}"),
            ("${vault:token}", "after ${ expected env:NAME} or file:path}"),
        ],
    )
    def test_one_that_leads_nowhere_is_named(self, value: str, said: str) -> None:
        text = f'registries:\n- name: c\n  type: consul\n  token: "{value}"\n'

        assert error(text) == f"{PATH}:4: registries[0].token: {said}"

    @pytest.mark.parametrize("secret", ["s3cr3t\n", "s3cr3t\0", "s3\N{NO-BREAK SPACE}cr3t", "s3cr3t\udcff"])
    def test_a_secret_that_no_header_can_carry_is_refused_and_not_shown(self, secret: str) -> None:
        said = error("registries: [{name: c, type: consul, token: '${env:T}'}]", T=secret)

        assert (
            f"registries[0].token: has the character U+{ord(next(c for c in secret if not c.isprintable())):04X}"
            in said
        )
        assert "cr3t" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", f"1: expected a mapping with {FIELDS}, got nothing"),
        ("- a", f"1: expected a mapping with {FIELDS}, got a list"),
        ("mesh: {}", "1: registries is missing"),
        ("registries: []", "1: registries: expected a list with at least one entry, got an empty one"),
        ("registries: {a: 1}", "1: registries: expected a list with at least one entry, got a mapping"),
        ("registries: [3]", f"1: registries[0]: expected a mapping with type ({KINDS}), got a whole number"),
        ("registries:\n- {name: a}", f"2: registries[0]: type is missing; expected {KINDS}"),
        ("registries:\n- {name: a, type: zookeeper}", f"2: registries[0].type: expected {KINDS}, got 'zookeeper'"),
        ("registries: [{name: a, type: 3}]", f"1: registries[0].type: expected {KINDS}, got a whole number"),
        ("registries:\n- type: file\n  path: x", "2: registries[0]: name is missing"),
        (
            "registries:\n- {name: a, type: consul}\n- {name: b, type: file, path: x, colour: red}",
            "3: registries[1].colour: unknown field; accepted: name, outlier_detection, path, type",
        ),
        ("registry: []", f"1: registry: unknown field; did you mean registries? accepted: {FIELDS}"),
        ("registries: [{name: a, type: consul, token: 123}]",
            "1: registries[0].token: expected text, got a whole number (quote it)"),
        ("registries: [{name: a, type: consul, token: [s3cr3t]}]", "1: registries[0].token: expected text, got a list"),
        (
            "registries: [{name: a, type: consul, consistency: sometimes}]",
            "1: registries[0].consistency: expected consistent, default or stale, got 'sometimes'",
        ),
        (
            "registries: [{name: a, type: consul, default_protocol: udp}]",
            "1: registries[0].default_protocol: expected http, http2, grpc, grpc-web, https, tls or tcp, got 'udp'",
        ),
        (
            "registries: [{name: a, type: consul, heartbeat: 0}]",
            "1: registries[0].heartbeat: expected a number from 0.1 to 600, got 0",
        ),
        ("registries: [{name: a, type: consul, verify: 1}]",
            "1: registries[0].verify: expected true or false, got a whole number"),
        (
            "registries:\n- name: a\n  type: consul\n  address: ftp://x",
            "4: registries[0].address: 'ftp://x': expected http://host:port or https://host:port",
        ),
        ("registries: [{name: A, type: file, path: x}]",
            "1: registries[0].name: 'A': expected lower-case letters, digits and dashes, at most 63"),
        ("registries:\n- {name: a, type: file, path: x}\n- {name: a, type: file, path: y}",
            "3: registries[1].name: 'a' is the name of another registry"),
        ("registries: [{name: a, type: file, path: ''}]",
            "1: registries[0].path: expected a file, a directory or a pattern, got nothing"),
        (f"{REGISTRIES}xds: 3", "2: xds: expected a mapping with address, limits, load_interval, tls, got a whole number"),
        (f"{REGISTRIES}mesh:\n  domain: Mesh!", "3: mesh.domain: 'Mesh!': expected a lower-case domain such as mesh.example.com"),
        (f"{REGISTRIES}mesh: {{outbound_port: 70000}}",
            "2: mesh.outbound_port: expected a whole number from 1 to 65535, got 70000"),
        (f"{REGISTRIES}mesh: {{outbound_address: localhost}}",
            "2: mesh.outbound_address: 'localhost': expected an IP address such as 127.0.0.1"),
        (f"{REGISTRIES}mesh: {{virtual_ips: 127.64.0.0/33}}",
            "2: mesh.virtual_ips: '127.64.0.0/33': expected an IPv4 network such as 127.64.0.0/10"),
        (f"{REGISTRIES}mesh: {{virtual_ips: 127.64.0.1/32}}",
            "2: mesh.virtual_ips: '127.64.0.1/32': expected an IPv4 network such as 127.64.0.0/10"),
        (f"{REGISTRIES}xds: {{limits: {{streams: 0}}}}", "2: xds.limits.streams: expected a whole number of at least 1, got 0"),
        (f"{REGISTRIES}xds: {{limits: {{subscriptions: 100001}}}}",
            "2: xds.limits.subscriptions: expected a whole number from 1 to 100000, got 100001"),
        (f"{REGISTRIES}xds: {{limits: {{requests_per_second: 0}}}}",
            "2: xds.limits.requests_per_second: expected a number of at least 1, got 0"),
        (f"{REGISTRIES}xds: {{load_interval: 0.5}}", "2: xds.load_interval: expected a number from 1 to 3600, got 0.5"),
        (f"{REGISTRIES}xds: {{tls: {{cert_file: a.pem}}}}", "2: xds.tls: key_file is missing"),
        (f"{REGISTRIES}xds: {{tls: {{cert_file: a.pem, key_file: a.key, address: '127.0.0.1:15014'}}}}",
            "2: xds.tls.address: '127.0.0.1:15014' is the address of http as well; give it another port"),
        (f"{REGISTRIES}xds: {{address: 15010}}", "2: xds.address: expected text, got a whole number (quote it)"),
        (f"{REGISTRIES}xds: {{address: '15010'}}",
            "2: xds.address: '15010': expected host:port, such as 127.0.0.1:15010 or [::]:15010"),
        (f"{REGISTRIES}xds: {{address: '::1:15010'}}",
            "2: xds.address: '::1:15010': an IPv6 address stands in brackets, such as [::]:15010"),
        (f"{REGISTRIES}http: {{address: '127.0.0.1:99999'}}",
            "2: http.address: '127.0.0.1:99999': expected host:port, such as 127.0.0.1:15010 or [::]:15010"),
        (f"{REGISTRIES}http: {{address: '127.0.0.1:15010'}}",
            "2: http.address: '127.0.0.1:15010' is the address of xds as well; give it another port"),
        (f"{REGISTRIES}sync_timeout: soon", "2: sync_timeout: expected a number from 0 to 3600, got text"),
        (f"{REGISTRIES}sync_timeout: -1", "2: sync_timeout: expected a number from 0 to 3600, got -1"),
        (f"{REGISTRIES}sync_timeout: .inf", "2: sync_timeout: expected a number from 0 to 3600, got no finite number"),
        (f"{REGISTRIES}sync_timeout: .nan", "2: sync_timeout: expected a number from 0 to 3600, got no finite number"),
        (f"{REGISTRIES}guard: {{hold: -1}}", "2: guard.hold: expected seconds from 0 to 604800, got -1"),
        (f"{REGISTRIES}guard: {{shrink: 50}}", "2: guard.shrink: expected a share from 0 to 1, got 50"),
        (f"{REGISTRIES}guard: {{hodl: 1}}", "2: guard.hodl: unknown field; did you mean hold? accepted: hold, services, shrink"),
        (f"{REGISTRIES}guard: {{services: [{{name: a, shrink: 2}}]}}",
            "2: guard.services[0].shrink: expected a number from 0 to 1 or nothing, got 2"),
        (f"{REGISTRIES}guard: {{services: [{{hold: 2}}]}}", "2: guard.services[0]: name is missing"),
        (f"{REGISTRIES}doubt: {{remove: [Zombies]}}",
            ("2: doubt.remove[0]: expected ContainerAddress, FailedNode, Loopback, NoPorts, NoRenewal, PermanentKey, PortZero or "
             "Unroutable, got 'Zombies'")),
        ("registries: [{name: a, type: eureka, outlier_detection: often}]",
            ("1: registries[0].outlier_detection: expected true or false or a mapping with consecutive_5xx, "
             "consecutive_failures, ejection_time, interval, max_percent, got text")),
        ("registries: [{name: a, type: eureka, outlier_detection: {max_percent: 0}}]",
            "1: registries[0].outlier_detection.max_percent: expected a whole number from 1 to 100, got 0"),
        ("registries: [{name: a, type: file, path: [x, '']}]",
            "1: registries[0].path: expected a file, a directory or a pattern, got nothing"),
        (f"{REGISTRIES}merge: {{weights: {{local: much}}}}",
            "2: merge.weights: expected a mapping in which each entry is a whole number, got a mapping"),
        (f"{REGISTRIES}drain: {{grace: .inf}}", "2: drain.grace: expected seconds from 0 to 604800, got inf"),
        (f"{REGISTRIES}state_dir: ''", "2: state_dir: expected a directory, got nothing"),
        (f"{REGISTRIES}store: {{type: redis}}", "2: store.type: expected consul, directory or etcd, got 'redis'"),
        (f"{REGISTRIES}store: {{type: directory, path: x}}", "2: store.path: unknown field"),
        (f"{REGISTRIES}store: {{type: consul, address: consul}}",
            "2: store.address: 'consul': expected http://host:port or https://host:port"),
        (f"{REGISTRIES}store: {{type: consul, prefix: /}}", "2: store.prefix: '/': expected a folder such as isthmus/"),
        (f"{REGISTRIES}store: {{type: etcd, endpoints: ['http://a:1', 'https://b:1']}}",
            "2: store.endpoints: all http:// or all https://"),
        (f"{REGISTRIES}store: {{type: etcd, user: isthmus}}", "2: store: user and password: both or none"),
        ("registries:\n- {name: a, type: workloads}\n- {name: b, type: workloads}",
            "3: registries[1].type: there is a registry of type workloads already; one has them all"),
        (f"{REGISTRIES}{REGISTRIES}", "2: the key 'registries' stands twice, first on line 1"),
        ("registries: [", "1: not YAML"),
    ],
)  # fmt: skip
def test_an_error_names_the_place_and_what_is_accepted(text: str, said: str) -> None:
    """`file:line: path: what was expected, what was found`."""
    assert error(text).startswith(f"{PATH}:{said}")


@pytest.mark.parametrize(
    "address", ["http://bob:s3cr3t@consul:8500", "bob:s3cr3t@consul:8500", "http://bob:s3cr3t@consul:port"]
)
def test_a_password_in_an_address_is_refused_and_not_shown(address: str) -> None:
    said = error(f"registries: [{{name: a, type: consul, address: '{address}'}}]")

    assert "address" in said
    assert "s3cr3t" not in said


def test_a_value_from_the_environment_is_not_shown_where_words_are_expected() -> None:
    """Somebody who mixes up two variables does not find the token in the log."""
    said = error("registries: [{name: a, type: consul, consistency: '${env:T}'}]", T="s3cr3t")

    assert "expected consistent, default or stale" in said
    assert "s3cr3t" not in said


class TestLoad:
    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"/isthmus.yaml: No such file or directory$"):
            load(tmp_path / "isthmus.yaml", {})

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r": Is a directory$"):
            load(tmp_path, {})

    def test_a_file_that_is_too_large(self, tmp_path: Path) -> None:
        (tmp_path / "isthmus.yaml").write_bytes(b"#" * (MAX_BYTES + 1))

        with pytest.raises(ConfigError, match=f"larger than {MAX_BYTES} bytes"):
            load(tmp_path / "isthmus.yaml", {})


_WORDS = st.sampled_from(
    [
        *(
            "registries",
            "name",
            "type",
            "consul",
            "file",
            "path",
            "address",
            "token",
            "mesh",
            "domain",
            "guard",
            "hold",
        ),
        *("http://127.0.0.1:8500", "127.0.0.1:1", "${env:A}", "${file:b}", "${", "x\0", "::", "", "virtual_ips", "xds"),
    ]
)
_TEXT = _WORDS | st.text(max_size=5)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)
_REGISTRY = st.fixed_dictionaries(
    {"name": st.just("a") | _VALUES, "type": st.sampled_from(["consul", "file"]) | _VALUES},
    optional=dict.fromkeys(("path", "address", "token", "ca_file", "verify", "heartbeat", "consistency"), _VALUES),
)
_DOCUMENT = st.fixed_dictionaries(
    {"registries": st.lists(_REGISTRY, max_size=3) | _VALUES},
    optional={
        key: _VALUES | st.dictionaries(_TEXT, _VALUES, max_size=3)
        for key in ("mesh", "xds", "http", "guard", "drain", "sync_timeout", "state_dir", "x")
    },
)


def accepts_or_explains(text: bytes) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(text, PATH, {"A": "s"}), Config)


@given(st.binary(max_size=200))
def test_any_bytes_are_accepted_or_explained(text: bytes) -> None:
    accepts_or_explains(text)


@given(_DOCUMENT | _VALUES)
def test_any_document_is_accepted_or_explained(document: Any) -> None:
    """Nothing but ConfigError comes out, however near the document is to a good one."""
    accepts_or_explains(yaml.safe_dump(document).encode())
