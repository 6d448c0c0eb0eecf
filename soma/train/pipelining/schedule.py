"""In which order the stages of a pipeline do their work. Pure: no processes, no tensors.

A batch is cut into micro-batches, and every stage takes each of them forward (F) and back (B) once. Stage s may take micro-batch m
forward when stage s - 1 has, and back when it went forward itself and stage s + 1 took it back. What a stage took forward and not yet back
is in flight: it keeps that micro-batch's activations.

    gpipe    all forward, then all back, last in first out: M in flight on each of S stages.
             Huang et al., GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism, 2019.
    1f1b     once the stages behind it are busy, a stage takes one back for each that it takes forward: S - s in flight on stage s.
             Narayanan et al., Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, 2021.

Both take 2 (M + S - 1) ticks if every F and B takes one, and both give the same gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Kind = Literal["F", "B"]
Order = tuple[tuple[Kind, int], ...]


class Turn(NamedTuple):
    """One stage's work on one micro-batch; `tick` is when, if all turns take equally long."""

    tick: int
    stage: int
    kind: Kind
    micro: int


def gpipe(stage: int, stages: int, micros: int) -> Order:
    """The order of one stage: all forward, then all back."""
    return *(("F", m) for m in range(micros)), *(("B", m) for m in reversed(range(micros)))


def one_forward_one_back(stage: int, stages: int, micros: int) -> Order:
    """The order of one stage: as many forward as there are stages behind it, then forward and back in turns."""
    ahead = min(stages - stage - 1, micros)
    order: list[tuple[Kind, int]] = [("F", m) for m in range(ahead)]
    for m in range(micros):
        if ahead + m < micros:
            order.append(("F", ahead + m))
        order.append(("B", m))
    return tuple(order)


SCHEDULES = {"gpipe": gpipe, "1f1b": one_forward_one_back}


def in_flight(order: Order) -> int:
    """The most micro-batches that a stage holds at once."""
    held = most = 0
    for kind, _ in order:
        held += 1 if kind == "F" else -1
        most = max(most, held)
    return most


def timeline(orders: Sequence[Order]) -> list[Turn]:
    """Every turn of every stage, each after those that it waits for.

    Raises:
        ValueError: these orders wait for each other for ever.
    """
    done: dict[tuple[int, Kind, int], int] = {}
    turns: list[Turn] = []
    places = [0] * len(orders)
    tick = 0
    while any(place < len(order) for place, order in zip(places, orders, strict=True)):
        starting = [Turn(tick, s, *order[places[s]]) for s, order in enumerate(orders)
                    if places[s] < len(order) and _is_ready(s, order[places[s]], len(orders), done)]
        if not starting:
            raise ValueError(f"these stages wait for each other: {[o[p:p + 1] for p, o in zip(places, orders, strict=True)]}")
        for turn in starting:
            done[turn.stage, turn.kind, turn.micro] = tick
            places[turn.stage] += 1
        turns += starting
        tick += 1
    return turns


def _is_ready(stage: int, turn: tuple[Kind, int], stages: int, done: dict[tuple[int, Kind, int], int]) -> bool:
    kind, micro = turn
    if kind == "F":
        return stage == 0 or (stage - 1, "F", micro) in done
    return (stage, "F", micro) in done and (stage == stages - 1 or (stage + 1, "B", micro) in done)


def scheduled(schedule: str, stages: int, micros: int) -> list[Turn]:
    """The timeline of a batch: the order in which the driver sends its calls. Calls of one caller to one actor run in the order sent, so
    this is also the order in which each stage works."""
    return timeline([SCHEDULES[schedule](s, stages, micros) for s in range(stages)])


def shares(rows: int, micros: int) -> list[slice]:
    """Where to cut `rows` rows into micro-batches, as equal as can be; never more of them than rows."""
    micros = min(micros, rows)
    size, more = divmod(rows, micros)
    starts = [m * size + min(m, more) for m in range(micros + 1)]
    return [slice(a, b) for a, b in zip(starts, starts[1:], strict=False)]
