"""The agent's DNS with the names of a hosts file: `python -m bench.agent.dns_server FILE`. Prints where it listens, as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from isthmus.agent.dns.config import DnsConfig
from isthmus.agent.dns.resolv import ResolvConf
from isthmus.agent.dns.server import DnsServer
from isthmus.agent.dns.table import NameTable, Record, read


async def main(hosts: Path) -> None:
    """Serve until killed."""
    table = NameTable.of(map(read, _records(hosts)))
    server = DnsServer(DnsConfig(listen=("127.0.0.1:0",)), table, ResolvConf(), CollectorRegistry())
    await server.start()
    print(json.dumps({"address": str(server.addresses[0])}), flush=True)
    await asyncio.Event().wait()


def _records(hosts: Path) -> Iterator[Record]:
    for line in hosts.read_text().splitlines():
        address, name = line.split()
        yield Record(name, (address,), (("http", 9080),))


if __name__ == "__main__":
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(Path(sys.argv[1])))
