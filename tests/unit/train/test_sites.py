"""Where ranks go: held to what a simple count of all placements says."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.errors import PlacementError
from soma.train.sites import Site, room, site_of


def machine(id: str, cpus: float = 4, gpus: float = 0, *, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"node_id": id, "totals": {"CPU": cpus, "GPU": gpus, "memory": 1000.0}, "capabilities": {"tags": list(tags)}}


TWO = [machine("a"), machine("b", 8, tags=("big",))]


@pytest.mark.parametrize("backend, n, options, machines, expected", [
    ("auto", 2, {"num_cpus": 9}, TWO[:1], Site("shm")),
    ("auto", 2, {"num_gpus": 1}, TWO[:1], Site("nccl")),
    ("actors", 2, {}, TWO[:1], Site("actors", far=True)),
    ("actors", 1, {}, TWO, Site("actors", far=True)),
    ("auto", 2, {"num_cpus": 2}, TWO, Site("shm", "a")),
    ("auto", 4, {"num_cpus": 2}, TWO, Site("shm", "b")),
    ("gloo", 2, {"tags": ("big",)}, TWO, Site("gloo", "b")),
    ("auto", 5, {"num_cpus": 2}, TWO, Site("actors", far=True)),
    ("auto", 2, {"num_gpus": 1}, [machine("a", gpus=1), machine("b", gpus=1)], Site("actors", far=True)),
    ("auto", 2, {"num_gpus": 1}, [machine("a", gpus=1), machine("b", gpus=2)], Site("nccl", "b")),
    ("parameter_server", 2, {"num_cpus": 1}, TWO, Site("parameter_server", "a")),
    ("parameter_server", 5, {"num_cpus": 2}, TWO, Site("parameter_server", far=True)),
])
def test_where(backend: str, n: int, options: dict[str, Any], machines: Any, expected: Site) -> None:
    assert site_of(backend, n, options, machines, ("gone", "a")) == expected


def test_the_largest_where_none_is_near() -> None:
    assert site_of("shm", 2, {}, TWO, ("gone", None)).node == "b"


def test_one_that_is_full_comes_last() -> None:
    held = {"reserved": {"somebody": {"CPU": 3.0}}}
    assert site_of("shm", 2, {"num_cpus": 1}, [TWO[0] | held, TWO[1]], ("a",)).node == "b"
    assert site_of("shm", 2, {"num_cpus": 1}, [TWO[0] | held, TWO[1] | {"reserved": {"x": {"CPU": 7.0}, "y": {}}}], ("a",)).node == "a"


@pytest.mark.parametrize("backend", ["shm", "gloo", "nccl"])
def test_what_is_refused_says_what_would_do(backend: str) -> None:
    with pytest.raises(PlacementError, match=rf"'{backend}' .* none of the 2 machines can hold 3 ranks, each with num_cpus=4: .*'actors'"):
        site_of(backend, 3, {"num_cpus": 4}, TWO)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.booleans()), max_size=3), st.integers(0, 3), st.integers(0, 4),
       st.booleans(), st.integers(0, 6))
def test_room_is_what_can_be_placed(offers: list[tuple[int, int, bool]], cpus: int, memory: int, tagged: bool, most: int) -> None:
    machines = [{"node_id": str(i), "totals": {"CPU": c, "memory": m}, "capabilities": {"tags": ["x"] * t}}
                for i, (c, m, t) in enumerate(offers)]
    options = {"num_cpus": cpus, "memory": memory, "tags": ("x",) if tagged else ()}
    placed = [sum(counts) for counts in product(range(most + 1), repeat=len(offers))
              if all(n * cpus <= c and n * memory <= m and (t or not tagged or not n) for n, (c, m, t) in zip(counts, offers, strict=True))]
    assert room(options, machines, most) == min(most, max(placed))
