"""What all tests share: Hypothesis profiles and the flag that rewrites golden files."""

from __future__ import annotations

import os

import hypothesis
import pytest
import structlog

# Starting servers forks; gRPC would say on standard error each time that it does not mind.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

for _name, _examples in (("dev", 100), ("ci", 300), ("nightly", 5_000)):
    hypothesis.settings.register_profile(
        _name, max_examples=_examples, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files; review them as a diff")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(autouse=True)
def _default_logging() -> None:
    """A test that configures logging does not do it for the next one."""
    structlog.reset_defaults()
