"""One suite, every engine: each test here runs once in the driver's own process and once with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module", params=["local", "processes"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """A cluster of four CPUs for all tests of a file; the value says of which kind."""
    import soma

    options: dict[str, Any] = {"local": True} if request.param == "local" else {"log_to_driver": False}
    with soma.init(num_cpus=4, resources={"license": 2}, **options):
        yield request.param
