"""Ids are unique without coordination, of fixed length, and sort by the caller's order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from soma.ids import DAEMON, ActorId, CallIds, incarnation_peer, new_actor_id, new_hex, object_id


def test_hex_ids_are_sixteen_digits_and_differ() -> None:
    ids = [new_hex() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(i) == 16 and set(i) <= set("0123456789abcdef") for i in ids)


def test_call_ids_of_one_process_are_unique_and_sort_in_their_order() -> None:
    take = CallIds()
    ids = [take() for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert {len(i) for i in ids} == {16}
    assert len({i[:8] for i in ids}) == 1


def test_call_ids_of_two_processes_differ() -> None:
    one, two = CallIds(), CallIds()
    assert {one() for _ in range(100)}.isdisjoint(two() for _ in range(100))


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, unique=True))
def test_objects_of_one_call_differ_and_name_their_call(indices: list[int]) -> None:
    call = CallIds()()
    objects = {object_id(call, i) for i in indices}
    assert len(objects) == len(indices)
    assert all(len(o) == 20 and o.startswith(call) for o in objects)
    assert object_id(call) == object_id(call, 0)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_each_incarnation_has_a_mailbox_of_its_own(m: int, n: int) -> None:
    actor = new_actor_id()
    assert (incarnation_peer(actor, m) == incarnation_peer(actor, n)) == (m == n)
    assert incarnation_peer(actor, m).startswith(actor)
    assert incarnation_peer(ActorId(actor), m) != DAEMON
