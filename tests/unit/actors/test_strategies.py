"""`scheduling_strategy=`: checked where it is written, and what travels of it comes back the same or is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.actors.admission import ANYWHERE, Condition, InGroup, NodeAffinity, NodeLabels, Where
from soma.actors.options import Options
from soma.actors.placing import check_options, is_bound, placing, where_of
from soma.actors.strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)
from soma.errors import ProtocolError
from soma.transport import messages as m
from soma.transport.frames import pack, unpack


@dataclass(frozen=True)
class Group:
    id: str = "00ff"
    bundle_count: int = 2


LABELS = NodeLabelSchedulingStrategy({"zone": In("a", "b"), "disk": "ssd"}, {"spot": DoesNotExist(), "gpu": Exists(), "os": NotIn("x")})
NODES: dict[Any, Any] = {
    "DEFAULT": "DEFAULT", "SPREAD": "SPREAD", "PACK": "PACK",
    NodeAffinitySchedulingStrategy("n1"): NodeAffinity("n1"), NodeAffinitySchedulingStrategy("n1", soft=True): NodeAffinity("n1", True),
    PlacementGroupSchedulingStrategy(Group()): InGroup("00ff"), PlacementGroupSchedulingStrategy(Group(), 1): InGroup("00ff", 1),
}
LABEL_CONDITIONS = NodeLabels((Condition("disk", "in", ("ssd",)), Condition("zone", "in", ("a", "b"))),
                              (Condition("gpu", "exists"), Condition("os", "not in", ("x",)), Condition("spot", "absent")))


def travelled(options: Options, kind: str = "f") -> Where:
    """As a daemon reads it."""
    lease = unpack(pack(m.LeaseWorker(b"r", "d-1", placing(options, 1.0, kind))))
    check_options(lease.options, actor=False)
    return where_of(lease.options)


@pytest.mark.parametrize(("strategy", "expected"), [*NODES.items(), (LABELS, LABEL_CONDITIONS)], ids=str)
def test_what_travels_comes_back(strategy: Any, expected: Any) -> None:
    where = travelled(Options(scheduling_strategy=strategy, tags=("big",)))
    assert where == Where(("big",), (), expected, "f" if expected == "SPREAD" else "")
    assert hash(where) == hash(travelled(Options(scheduling_strategy=strategy, tags=("big",))))
    assert is_bound(placing(Options(scheduling_strategy=strategy), 1.0)) == (not isinstance(strategy, str))


def test_who_asks_nothing_of_the_node_sends_nothing() -> None:
    assert "where" not in placing(Options(), 1.0) and "where" not in placing(Options(scheduling_strategy="DEFAULT"), 1.0)
    assert travelled(Options()) == ANYWHERE


@pytest.mark.parametrize("wrong", ["default", "NODE", 1, ["SPREAD"], object(), Group(), In("a")])
def test_what_is_no_strategy_is_named_at_the_call(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"scheduling_strategy=.*'SPREAD', 'PACK', NodeAffinitySchedulingStrategy"):
        Options().merge({"scheduling_strategy": wrong})


@pytest.mark.parametrize(("make", "text"), [
    (lambda: NodeAffinitySchedulingStrategy(""), "node_id=''"),
    (lambda: NodeAffinitySchedulingStrategy("n", 1), "soft=1"),  # type: ignore[arg-type]
    (lambda: PlacementGroupSchedulingStrategy("g"), "placement_group='g'"),  # type: ignore[arg-type]
    (lambda: PlacementGroupSchedulingStrategy(Group(), 2), "placement_group_bundle_index=2: from 0 to 1, or -1"),
    (lambda: PlacementGroupSchedulingStrategy(Group(), True), "placement_group_bundle_index=True"),
    (lambda: PlacementGroupSchedulingStrategy(Group(), 0, True), "placement_group_capture_child_tasks=True"),  # type: ignore[arg-type]
    (lambda: NodeLabelSchedulingStrategy({"zone": 1}), r"hard=\{'zone': 1\}"),  # type: ignore[dict-item]
    (lambda: NodeLabelSchedulingStrategy({}, {"": "a"}), r"soft=\{'': …\}"),
    (lambda: NodeLabelSchedulingStrategy("zone"), "hard='zone'"),  # type: ignore[arg-type]
    (lambda: In(), r"In\(\): at least one string"), (lambda: NotIn("a", 2), r"NotIn\('a', 2\)"),  # type: ignore[arg-type]
])
def test_mistakes_are_named(make: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


GOOD = {"tags": (), "labels": (), "kind": "", "strategy": ("DEFAULT",)}
BAD: list[Any] = [
    "SPREAD", {}, {**GOOD, "more": 1}, {**GOOD, "tags": "big"}, {**GOOD, "tags": (1,)}, {**GOOD, "kind": None}, {**GOOD, "labels": 1},
    {**GOOD, "labels": (("zone", "in"),)}, {**GOOD, "labels": (("zone", "near", ("a",)),)}, {**GOOD, "labels": (("zone", "in", (1,)),)},
    *({**GOOD, "strategy": s} for s in (
        "PACK", (), ("FAST",), ("DEFAULT", 1), ("node", "n"), ("node", "n", 1), ("node", b"n", True), ("group", "g", -2),
        ("group", "g", True), ("group", 1, 0), ("labels", (), None), ("labels", ((),), ()))),
]


@pytest.mark.parametrize("said", BAD, ids=repr)
def test_what_no_process_of_ours_would_send_is_refused(said: Any) -> None:
    needs = {**placing(Options(), 1.0), "where": said}
    with pytest.raises(ProtocolError):
        check_options(needs, actor=False)


plain = st.recursive(st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "in", "node", "PACK"]) | st.binary(max_size=2),
                     lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=4))


@given(plain, st.sampled_from([*GOOD, "where"]))
def test_whatever_comes_is_a_where_or_refused(said: Any, key: str) -> None:
    try:
        where = where_of({"where": said if key == "where" else {**GOOD, key: said}})
    except ProtocolError:
        return
    assert isinstance(where, Where) and isinstance(hash(where), int)


def test_a_condition_in_words() -> None:
    conditions = (Condition("a"), Condition("b", "absent"), Condition("c", "in", ("x",)), Condition("d", "not in", ("x",)),
                  Condition("e", "in", ("x", "y")), Condition("f", "not in", ("x", "y")))
    assert [str(c) for c in conditions] == ["any a", "no b", "c='x'", "d other than 'x'", "e in ('x', 'y')", "f not in ('x', 'y')"]
