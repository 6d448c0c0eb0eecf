"""Which stage has which nodes, and what passes between stages. Pure: ids in, frozen plans out.

Partitions tile a graph: every node is in one of them, and what a stage takes comes from stages before it. It need not be the one right
before: an output goes straight to every stage that takes it, and the gradients that come back are summed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

INPUT = ""
"""Stands for the data among the ids of what a stage takes."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage.

    Attributes:
        nodes: (id, whose outputs it takes), in an order that respects inputs.
        takes: nodes of earlier stages whose outputs it takes.
        reads: whether it takes the data.
        gives: its nodes whose outputs later stages take.
        takers: of each of those, how many stages take it.
        leaves: its nodes whose outputs nobody takes: they have losses.
    """

    index: int
    nodes: tuple[tuple[str, tuple[str, ...]], ...]
    takes: tuple[str, ...]
    reads: bool
    gives: tuple[str, ...]
    takers: tuple[int, ...]
    leaves: tuple[str, ...]

    def __str__(self) -> str:
        return f"stage {self.index} ({', '.join(id for id, _ in self.nodes)})"


def chain(count: int) -> dict[str, tuple[str, ...]]:
    """The nodes of a list of modules: "0" → "1" → …"""
    return {str(i): (str(i - 1),) if i else () for i in range(count)}


def partitioned(nodes: Mapping[str, tuple[str, ...]], parts: Sequence[Sequence[str]]) -> tuple[StagePlan, ...]:
    """The stages.

    Args:
        nodes: id → whose outputs it takes, in an order that respects inputs.
        parts: the ids of each stage, in the order of the stages.

    Raises:
        ValueError: they do not tile the graph; names the nodes.
    """
    stage_of = _stages(nodes, parts)
    problems = [f"{after!r} (stage {stage_of[after]}) takes the output of {before!r} (stage {stage_of[before]})"
                for after, inputs in nodes.items() for before in inputs if stage_of[before] > stage_of[after]]
    if problems:
        raise ValueError(f"partitions are interleaved: {'; '.join(problems)}; a stage takes what earlier stages give")
    taken = {i for inputs in nodes.values() for i in inputs}
    takes = [tuple(dict.fromkeys(i for id, inputs in nodes.items() if stage_of[id] == s for i in inputs if stage_of[i] < s))
             for s in range(len(parts))]
    plans = []
    for s in range(len(parts)):
        own = tuple((id, inputs) for id, inputs in nodes.items() if stage_of[id] == s)
        gives = tuple(id for id, _ in own if any(id in some for some in takes))
        plans.append(StagePlan(
            s, own, takes[s], any(not inputs for _, inputs in own), gives, tuple(sum(id in some for some in takes) for id in gives),
            tuple(id for id, _ in own if id not in taken)))
    return tuple(plans)


def _stages(nodes: Mapping[str, tuple[str, ...]], parts: Sequence[Sequence[str]]) -> dict[str, int]:
    if not parts:
        raise ValueError("partitions: no stages; a pipeline has at least one")
    stage_of: dict[str, int] = {}
    for s, part in enumerate(parts):
        if isinstance(part, str) or not all(isinstance(id, str) for id in part):
            raise TypeError(f"partitions[{s}]={part!r}: a list of node ids")
        if not part:
            raise ValueError(f"partitions[{s}] is empty: every stage has a node")
        for id in part:
            if id not in nodes:
                near = difflib.get_close_matches(id, nodes, 1)
                raise ValueError(f"partitions[{s}]: there is no node {id!r}" + (f"; did you mean {near[0]!r}?" if near else "")
                                 + f" The nodes are {', '.join(nodes)}")
            if id in stage_of:
                raise ValueError(f"partitions: node {id!r} is claimed twice, by stages {stage_of[id]} and {s}")
            stage_of[id] = s
    if unclaimed := [id for id in nodes if id not in stage_of]:
        raise ValueError(f"partitions: no stage claims {', '.join(map(repr, unclaimed))}")
    return stage_of
