"""Whom an agent's Envoy asks for host names, on a machine where everybody else asks the agent."""

from __future__ import annotations

from pathlib import Path

from isthmus.agent.dns.saved import Held, Saved
from tests.servers.agent import AgentProcess
from tests.servers.bridge import BridgeProcess
from tests.servers.netns import network
from tests.servers.scripted_dns import ScriptedDns, knows
from tests.unit.agent.dns.test_names import mk_resource
from tests.wait import eventually

NAME = "bridge.corp.example"


async def test_a_name_that_leads_programs_to_envoy_does_not_lead_envoy_to_itself(tmp_path: Path) -> None:
    """The bridge's host is also a name of the mesh: Envoy asks the servers behind the agent's DNS, and reaches it."""
    with network("hub", "vm") as (hub, vm):
        bridge = BridgeProcess(
            tmp_path / "bridge", [{"name": "local", "type": "file", "path": str(tmp_path)}], 15001, hub
        )
        bridge.start()
        resolv = tmp_path / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.15\noptions timeout:1 attempts:1\n")
        vm.run("mount", "--bind", resolv, "/etc/resolv.conf")
        xds_port = bridge.xds.rpartition(":")[2]
        settings = {
            "discoveryAddress": f"{NAME}:{xds_port}",
            "dns": {"listen": ["127.0.0.15:53"], "upstream": [hub.address]},
        }
        agent = AgentProcess(tmp_path / "vm", settings, vm)
        Saved(tmp_path / "vm" / "state").save({"bridge": Held("1", mk_resource({NAME: "127.64.0.1"}, {"xds": 1}))})
        try:
            async with ScriptedDns(knows(bridge_corp_example=hub.address), hub):
                await bridge.ready()
                agent.start()
                await eventually(lambda: "dns.listening" in agent.output(), "the agent's DNS answers", 20)
                assert vm.run("getent", "ahostsv4", NAME).split()[0] == "127.64.0.1"
                await agent.ready()
        finally:
            agent.close()
            bridge.stop()
