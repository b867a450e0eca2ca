"""The `isthmus` command."""

from __future__ import annotations

import sys

import cyclopts

from isthmus.cli import bootstrap, demo, serve, status, version
from isthmus.cli.output import CommandError

app = cyclopts.App(
    name="isthmus",
    help="Carries the services of Consul and files into Envoy over xDS, without Kubernetes.",
    version=version.text,
    version_flags=[],
)
for module in (serve, bootstrap, status, demo, version):
    module.register(app)
app.register_install_completion_command()


def main() -> None:
    """Run the command line; an error is one sentence on standard error and status 1 (2 when the words are wrong)."""
    try:
        result = app(exit_on_error=False, print_error=True)
    except cyclopts.CycloptsError:
        sys.exit(2)
    except CommandError as e:
        sys.stderr.write(f"isthmus: {e}\n")
        sys.exit(e.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    sys.exit(result if isinstance(result, int) else 0)
