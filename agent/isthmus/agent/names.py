"""The mesh's names on this machine: the DNS server, and what the bridge tells it."""

from __future__ import annotations

from pathlib import Path

import grpc
from prometheus_client import CollectorRegistry

from isthmus.agent.config import AgentConfig, TlsConfig
from isthmus.agent.dns.config import Address, DnsConfig, listening, upstreams
from isthmus.agent.dns.names import Names, to_node
from isthmus.agent.dns.resolv import read_resolv_conf
from isthmus.agent.dns.server import DnsServer, ListenError


class NamesOfMesh:
    """From `start` to `stop`; `run` follows the bridge."""

    def __init__(self, config: AgentConfig, dns: DnsConfig, registry: CollectorRegistry) -> None:
        self._server = DnsServer(dns, None, read_resolv_conf(), registry)
        self._names = Names(
            config.bridges,
            to_node(config.node, config.service_cluster),
            Path(config.config_path),
            self._server.replace,
            self._server.metrics,
            credentials=_credentials(config.discovery_tls),
        )
        self._restored = False

    async def start(self) -> None:
        """Answer, with the names that an agent before this one was told, if there were any.

        Raises:
            ListenError: a port is taken.

        """
        self._restored = self._names.restore()
        try:
            await self._server.start()
        except ListenError as e:
            raise ListenError(f"{e} (dns.listen); dns: {{enabled: false}} does without") from None

    async def stop(self) -> None:
        """Answer no more."""
        await self._server.stop()

    async def run(self) -> None:
        """Follow the bridge until cancelled."""
        await self._names.run()

    @property
    def known(self) -> bool:
        """Whether names are answered, be they those of an agent before this one."""
        return self._restored or self._names.synced

    def problems(self) -> list[str]:
        """What is wrong, in sentences for an operator."""
        return [*self._server.problems(), *self._names.problems()]


def resolvers(dns: DnsConfig | None) -> tuple[Address, ...]:
    """The servers that this machine's Envoy asks: those behind the agent's DNS, and none in particular when there is no such DNS.

    The agent's would say of a server that is also a service of the mesh that it is at Envoy itself.
    """
    if dns is None:
        return ()
    own = listening(dns)
    wanted = upstreams(dns) or read_resolv_conf().nameservers
    # Envoy knows no scopes (fe80::1%eth0).
    return tuple(a for a in dict.fromkeys(wanted) if a not in own and "%" not in a.host)


def _credentials(tls: TlsConfig | None) -> grpc.ChannelCredentials | None:
    """Those of the files.

    Raises:
        OSError: one cannot be read.

    """
    if tls is None:
        return None
    own = [Path(p).read_bytes() if p else None for p in (tls.ca_file, tls.key_file, tls.cert_file)]
    return grpc.ssl_channel_credentials(*own)
