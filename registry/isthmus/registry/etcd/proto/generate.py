"""Make the Python messages from rpc.proto.

python registry/isthmus/registry/etcd/proto/generate.py            write them beside this file
python registry/isthmus/registry/etcd/proto/generate.py --check    exit 1 if they differ from what would be written
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]
PROTO = HERE.relative_to(ROOT) / "rpc.proto"
"""Below a root of its own, since a process knows a file of messages by its path and has no two of the same."""

_RUNTIME_CHECK = re.compile(r"^_runtime_version\.ValidateProtobufRuntimeVersion\(.*?^\)\n", re.MULTILINE | re.DOTALL)
_RUNTIME_IMPORT = "from google.protobuf import runtime_version as _runtime_version\n"
_VERSION = re.compile(r"^# Protobuf Python Version: .*\n", re.MULTILINE)

_STRICT = (
    (re.compile(r"\b_Mapping(?!\[| as)(?=[,\]])"), "_Mapping[str, object]"),
    (re.compile(r"\*\*kwargs\)"), "**kwargs: object)"),
)


def generate() -> dict[Path, str]:
    """File name to text."""
    with tempfile.TemporaryDirectory() as folder:
        status = protoc.main(["protoc", f"-I{ROOT}", f"--python_out={folder}", f"--pyi_out={folder}", str(PROTO)])
        if status != 0:
            raise SystemExit(f"protoc exited with {status}; it says above why")
        out = Path(folder) / PROTO.parent
        module, stub = (out / "rpc_pb2.py").read_text(), (out / "rpc_pb2.pyi").read_text()
    # protoc has the module refuse every runtime that is older than itself. What the module uses is as old as protobuf 4, and
    # pyproject.toml allows older ones than the grpcio-tools that generated it.
    module = _VERSION.sub("", _RUNTIME_CHECK.sub("", module.replace(_RUNTIME_IMPORT, "")))
    for pattern, replacement in _STRICT:
        stub = pattern.sub(replacement, stub)
    return {HERE / "rpc_pb2.py": module, HERE / "rpc_pb2.pyi": stub}


def main() -> int:
    """Write or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    differing = {path: text for path, text in generate().items() if not path.exists() or path.read_text() != text}
    for path, text in differing.items():
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)}: differs from rpc.proto; run: python {Path(__file__).name}\n")
        else:
            path.write_text(text)
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
