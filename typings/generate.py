"""Make the type stubs of the xDS messages, from the descriptors of the installed xds-protos wheel.

    python typings/generate.py            write them beside this file
    python typings/generate.py --check    exit 1 if they differ from what would be written

xds-protos ships no types. Its modules carry their descriptors, and protoc needs nothing else. Only the files in `ROOTS`
and what they import are covered; google.protobuf has stubs of its own (types-protobuf).
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]

ROOTS = (
    "envoy/config/accesslog/v3/accesslog.proto",
    "envoy/config/bootstrap/v3/bootstrap.proto",
    "envoy/config/cluster/v3/cluster.proto",
    "envoy/config/core/v3/config_source.proto",
    "envoy/config/endpoint/v3/endpoint.proto",
    "envoy/config/listener/v3/listener.proto",
    "envoy/config/route/v3/route.proto",
    "envoy/data/dns/v3/dns_table.proto",
    "envoy/extensions/access_loggers/file/v3/file.proto",
    "envoy/extensions/filters/http/router/v3/router.proto",
    "envoy/extensions/filters/listener/http_inspector/v3/http_inspector.proto",
    "envoy/extensions/filters/listener/original_dst/v3/original_dst.proto",
    "envoy/extensions/filters/listener/original_src/v3/original_src.proto",
    "envoy/extensions/filters/listener/tls_inspector/v3/tls_inspector.proto",
    "envoy/extensions/filters/network/http_connection_manager/v3/http_connection_manager.proto",
    "envoy/extensions/filters/network/tcp_proxy/v3/tcp_proxy.proto",
    "envoy/extensions/network/dns_resolver/cares/v3/cares_dns_resolver.proto",
    "envoy/extensions/retry/host/previous_hosts/v3/previous_hosts.proto",
    "envoy/extensions/transport_sockets/raw_buffer/v3/raw_buffer.proto",
    "envoy/extensions/transport_sockets/tls/v3/tls.proto",
    "envoy/extensions/upstreams/http/v3/http_protocol_options.proto",
    "envoy/service/discovery/v3/ads.proto",
    "envoy/service/discovery/v3/discovery.proto",
    "envoy/service/load_stats/v3/lrs.proto",
    "envoy/service/status/v3/csds.proto",
    "google/rpc/status.proto",
)
HERE = Path(__file__).resolve().parent


def module_of(proto: str) -> str:
    """The Python module that protoc names for a proto file."""
    return proto.removesuffix(".proto").replace("-", "_").replace("/", ".") + "_pb2"


def descriptors() -> dict[str, FileDescriptor]:
    """The roots and all they import, every file after its imports."""
    found: dict[str, FileDescriptor] = {}

    def visit(file: FileDescriptor) -> None:
        if file.name not in found:
            for imported in file.dependencies:
                visit(imported)
            found[file.name] = file

    for root in ROOTS:
        visit(importlib.import_module(module_of(root)).DESCRIPTOR)
    return found


def stubs() -> dict[Path, str]:
    """Path below `typings/` to text."""
    files = descriptors()
    described = FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(described.file.add())
    wanted = [name for name in files if not name.startswith("google/protobuf/")]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        descriptor_set = out / "descriptors.binpb"
        descriptor_set.write_bytes(described.SerializeToString(deterministic=True))
        status = protoc.main(["protoc", f"--descriptor_set_in={descriptor_set}", f"--pyi_out={out}", *wanted])
        if status != 0:
            raise SystemExit(f"protoc exited with {status}; it says above why")
        return {path.relative_to(out): _strict(path.read_text()) for path in sorted(out.rglob("*.pyi"))}


_STRICT = (
    (re.compile(r"\b_Mapping(?!\[| as)(?=[,\]])"), "_Mapping[str, object]"),
    (re.compile(r"^(\w+): _ClassVar\[(.+)\]$", re.MULTILINE), r"\1: \2"),
    (re.compile(r"\*\*kwargs\)"), "**kwargs: object)"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
)


def _strict(text: str) -> str:
    """What protoc writes, made strict: type arguments, no ClassVar outside classes, typed kwargs."""
    for pattern, replacement in _STRICT:
        text = pattern.sub(replacement, text)
    return text.rstrip("\n") + "\n"


def main() -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    wanted = stubs()
    present = {path.relative_to(HERE): path.read_text() for path in sorted(HERE.rglob("*_pb2.pyi"))}
    differing = sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    if check:
        for path in differing:
            print(
                f"typings/{path}: differs from the installed xds-protos; run: python typings/generate.py",
                file=sys.stderr,
            )
        return 1 if differing else 0
    for path in differing:
        target = HERE / path
        if path in wanted:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(wanted[path])
        else:
            target.unlink()
    print(f"{len(wanted)} stubs, {len(differing)} rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main())
