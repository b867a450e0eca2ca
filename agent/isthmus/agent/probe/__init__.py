"""Is the application there? Probes as Kubernetes and WorkloadGroup write them, run by the agent (docs/registration.md)."""

from isthmus.agent.probe.config import ExecAction, GrpcAction, HttpGetAction, HttpHeader, Probe, TcpSocketAction
from isthmus.agent.probe.watch import MAX_AT_ONCE, watch_probe

__all__ = [
    "MAX_AT_ONCE",
    "ExecAction",
    "GrpcAction",
    "HttpGetAction",
    "HttpHeader",
    "Probe",
    "TcpSocketAction",
    "watch_probe",
]
