"""Hosts for tests of several machines, and the directory in which their modules find each other."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import hosts as network  # found by the line above
from machines import Machines, machines, soma

missing = functools.cache(network.missing)


@pytest.fixture
def hosts() -> Iterator[network.Hosts]:
    """Three hosts on one machine."""
    if why := missing():
        pytest.skip(f"no hosts on this machine: {why}")
    with network.hosts() as made:
        yield made


@pytest.fixture(scope="module")
def well() -> Iterator[Machines]:
    """A cluster for all tests that harm nobody."""
    if why := missing():
        pytest.skip(f"no hosts on this machine: {why}")
    with network.hosts() as hosts, machines(hosts) as made:
        yield made
        soma(hosts[0], "stop")
        for host in hosts:
            if host.pids():
                soma(host, "stop")
        hosts.wait_until_nothing_is_left(5)
