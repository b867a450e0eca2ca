"""The agent's DNS by itself, without an Envoy: `python dns_program.py DIRECTORY BRIDGE CONFIG`.

CONFIG is the section `dns` of agent.yaml, as JSON. Prints `ready` once it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from isthmus.agent.dns.config import DnsConfig
from isthmus.agent.dns.names import Names, to_node
from isthmus.agent.dns.resolv import read_resolv_conf
from isthmus.agent.dns.server import DnsServer
from isthmus.agent.duration import decode


async def main(directory: Path, bridge: str, section: str) -> None:
    """Serve until SIGTERM."""
    config = msgspec.json.decode(section, type=DnsConfig, dec_hook=decode)
    server = DnsServer(config, None, read_resolv_conf(), CollectorRegistry())
    names = Names([bridge], to_node("vm-1", "reviews"), directory, server.replace, server.metrics)
    names.restore()
    await server.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    following = asyncio.create_task(names.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
