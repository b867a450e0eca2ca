"""The `isthmus` command."""

from __future__ import annotations

import os
import sys

import cyclopts

from isthmus.cli.output import CommandError, note

COMMANDS = {
    "serve": "isthmus.cli.serve:app",
    "agent": "isthmus.cli.agent:app",
    "intercept": "isthmus.cli.intercept:app",
    "bootstrap": "isthmus.cli.bootstrap:app",
    "services": "isthmus.cli.status:services_app",
    "proxy-status": "isthmus.cli.status:proxy_status_app",
    "registries": "isthmus.cli.registries:app",
    "workloads": "isthmus.cli.workloads:app",
    "workload": "isthmus.cli.workload:app",
    "holds": "isthmus.cli.holds:app",
    "parity": "isthmus.cli.parity:app",
    "doctor": "isthmus.cli.doctor:app",
    "explain": "isthmus.cli.explain:app",
    "demo": "isthmus.cli.demo:app",
    "completion": "isthmus.cli.completion:app",
    "version": "isthmus.cli.version:app",
}
"""Imported when they are used: a listing does not wait for a server's libraries."""

app = cyclopts.App(
    name="isthmus",
    help="Carries the services of Consul, Eureka, etcd, Nomad and files into Envoy over xDS, without Kubernetes.",
    help_format="plaintext",
    help_epilogue="Exit status: 0 done, 1 could not be done, 2 wrong command line, 3 done, and not all is well.",
    version_flags=["--version"],
)
for name, path in COMMANDS.items():
    app.command(path, name=name)


def main() -> None:
    """Run the command line; an error is one sentence on standard error and status 1 (2 when the words are wrong)."""
    words = sys.argv[1:]
    if not words or words[0] in app.help_flags:
        for command in COMMANDS:
            app[command]  # imported, for its first sentence is in the list
    try:
        result = app(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except cyclopts.CycloptsError as e:
        note(str(e))
        sys.exit(2)
    except CommandError as e:
        note(str(e))
        sys.exit(e.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read it has seen enough. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(result if isinstance(result, int) else 0)
