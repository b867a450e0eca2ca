"""`isthmus intercept`, as far as it needs no kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run

AGENT = """
interceptionMode: TPROXY
intercept: {proxyUid: 1337, istioServiceExcludeCidr: 10.9.0.0/16}
services: [{name: reviews, ports: [{port: 9080}]}]
"""


@pytest.fixture
def agent_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    path.write_text(AGENT)
    return path


def test_flags_have_the_names_of_istio(run: Run) -> None:
    """The short and the long ones mean the same."""
    short = (
        "-p 1 -z 2 -u 3 -g 4 -m TPROXY -t 5 -r 6 -b 7 -d 8 -i 10.0.0.0/8 -x 10.9.0.0/16 -o 9 -q 10 -k docker0 -c eth9"
    )
    long = (
        "--envoy-port 1 --inbound-capture-port 2 --proxy-uid 3 --proxy-gid 4 --istio-inbound-interception-mode TPROXY"
        " --istio-inbound-tproxy-mark 5 --istio-inbound-tproxy-route-table 6 --istio-inbound-ports 7"
        " --istio-local-exclude-ports 8 --istio-service-cidr 10.0.0.0/8 --istio-service-exclude-cidr 10.9.0.0/16"
        " --istio-local-outbound-ports-exclude 9 --istio-outbound-ports 10 --kube-virt-interfaces docker0"
        " --istio-exclude-interfaces eth9"
    )

    shown = [run("intercept", *words.split(), "--dry-run", "--output", "json") for words in (short, long)]

    assert [done.status for done in shown] == [0, 0], shown
    assert shown[0].out == shown[1].out
    plan = json.loads(shown[0].out)["plan"]
    assert (plan["envoy_port"], plan["inbound"], plan["ports_exclude"], plan["ports"]) == (1, [7], [9], [10])


def test_flags_come_before_the_file(run: Run, agent_yaml: Path) -> None:
    done = run("intercept", "--config", str(agent_yaml), "-b", "9090", "-n", "--output", "json")

    plan = json.loads(done.out)["plan"]
    assert (plan["mode"], plan["inbound"], plan["networks_exclude"]) == ("TPROXY", [9090], ["10.9.0.0/16"])


def test_a_file_whose_envoy_takes_nothing(run: Run, agent_yaml: Path) -> None:
    agent_yaml.write_text(AGENT.replace("TPROXY", "NONE"))

    done = run("intercept", "--config", str(agent_yaml), "-n")

    assert (done.status, done.err) == (
        1,
        f"isthmus: {agent_yaml}: interceptionMode is NONE, so its Envoy takes nothing that is captured\n",
    )


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("-i *", "--proxy-uid: expected the user as which Envoy runs: its connections must not return"),
        ("-u 1 -b 22", "--istio-inbound-ports: 22 is never captured, it is SSH's, the agent's or Envoy's own"),
        ("-u 1", "nothing would be captured: give inbound ports"),
        ("-u 1 -i * --rollback-after 5", "--rollback-after: expected a duration such as 45s, 1m30s or 500ms, got '5'"),
        ("-u 1 -i * -m NONE", "--istio-inbound-interception-mode: expected REDIRECT or TPROXY, got 'NONE'"),
        ("-u 1 -i * --backend pf", "--backend: expected auto or nft or iptables-nft or iptables-legacy, got 'pf'"),
    ],
)
def test_wrong_words(run: Run, words: str, reason: str) -> None:
    """One sentence, and nothing is done."""
    done = run("intercept", *words.split(), "--dry-run")

    assert done.status == 2
    assert reason in done.err
    assert done.err.count("\n") == 1
