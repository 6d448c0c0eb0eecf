"""What an actor or task needs of a machine, as the daemon reads it.

Amounts are plain numbers. `where` is there only when something is asked of the node: {"tags": (…), "labels": (condition, …), "kind": text,
"strategy": ("DEFAULT" | "SPREAD" | "PACK",) | ("node", id, soft) | ("labels", (condition, …), (condition, …)) | ("group", id, bundle)},
where a condition is (label, "in" | "not in" | "exists" | "absent", (value, …)).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from soma.actors.admission import explain_infeasible
from soma.actors.admission.where import ANYWHERE, Condition, InGroup, NodeAffinity, NodeLabels, Strategy, Where
from soma.actors.options import Options
from soma.actors.strategies import strategy_of
from soma.errors import PlacementError, ProtocolError


def placing(options: Options, default_cpus: float, kind: str = "") -> dict[str, Any]:
    """The part of the options that the daemon places by, as plain data. `kind` is the class or function: what "SPREAD" spreads."""
    needs = {"num_cpus": float(default_cpus if options.num_cpus is None else options.num_cpus), "num_gpus": float(options.num_gpus or 0),
             "memory": int(options.memory or 0), "resources": {str(k): float(v) for k, v in options.resources.items()},
             "env": dict((options.runtime_env or {}).get("env_vars") or {})}
    if options.scheduling_strategy is None and not options.tags:
        return needs
    strategy = strategy_of(options.scheduling_strategy)
    where = Where(options.tags, (), strategy, kind if strategy == "SPREAD" else "")
    return needs if where == ANYWHERE else {**needs, "where": _plain(where)}


def _plain(where: Where) -> dict[str, Any]:
    match where.strategy:
        case NodeAffinity(node=node, soft=soft):
            strategy: tuple[Any, ...] = ("node", node, soft)
        case NodeLabels(hard=hard, soft=wishes):
            strategy = ("labels", _conditions(hard), _conditions(wishes))
        case InGroup(group=group, bundle=bundle):
            strategy = ("group", group, bundle)
        case name:
            strategy = (name,)
    return {"tags": where.tags, "labels": _conditions(where.labels), "kind": where.kind, "strategy": strategy}


def _conditions(conditions: Iterable[Condition]) -> tuple[tuple[Any, ...], ...]:
    return tuple((c.key, c.op, c.values) for c in conditions)


def where_of(needs: Mapping[str, Any]) -> Where:
    """What `placing` says of the node.

    Raises:
        ProtocolError: no process of ours would have sent this.
    """
    said = needs.get("where")
    if said is None:
        return ANYWHERE
    if type(said) is not dict or said.keys() != {"tags", "labels", "kind", "strategy"}:
        raise ProtocolError("where holds what it may not")
    tags, kind, strategy = said["tags"], said["kind"], said["strategy"]
    if not _texts(tags) or type(kind) is not str or type(strategy) is not tuple:
        raise ProtocolError("where holds what it may not")
    return Where(tags, _read_conditions(said["labels"]), _read_strategy(strategy), kind)


def is_bound(needs: Mapping[str, Any]) -> bool:
    """Whether it is bound to nodes by name or label, or to a placement group: whether it could ever run is for the head to say."""
    return "where" in needs and needs["where"]["strategy"][0] not in ("DEFAULT", "SPREAD", "PACK")


def _read_strategy(said: tuple[Any, ...]) -> Strategy:
    match said:
        case ("DEFAULT" | "SPREAD" | "PACK" as name,):
            found: Strategy = name
            return found
        case ("node", str(node), bool(soft)):
            return NodeAffinity(node, soft)
        case ("labels", hard, soft):
            return NodeLabels(_read_conditions(hard), _read_conditions(soft))
        case ("group", str(group), int(bundle)) if type(bundle) is int and -1 <= bundle < _FINITE:
            return InGroup(group, bundle)
    raise ProtocolError("where names no strategy")


def _read_conditions(said: Any) -> tuple[Condition, ...]:
    found = []
    for one in said if type(said) is tuple else (None,):
        match one:
            case (str(key), "in" | "not in" | "exists" | "absent" as op, tuple(values)) if _texts(values):
                found.append(Condition(key, op, values))
            case _:
                raise ProtocolError("where holds what is no condition of a label")
    return tuple(found)


def _texts(said: Any) -> bool:
    return type(said) is tuple and all(type(text) is str for text in said)


_FINITE = 1e15
_KEYS: dict[str, tuple[type, ...]] = {
    "num_cpus": (float,), "num_gpus": (float,), "memory": (int,), "resources": (dict,), "env": (dict,), "name": (str, type(None)),
    "namespace": (str,), "detached": (bool,), "max_restarts": (int,), "payload": (bytes,), "heavy": (tuple,), "where": (dict,),
    "environment": (bytes,)}


def check_options(options: Mapping[str, Any], *, actor: bool) -> None:
    """What a daemon makes sure of before it acts on what came in a message.

    Raises:
        ProtocolError: no process of ours would have sent this.
    """
    for key in (_KEYS if actor else ("num_cpus", "num_gpus", "memory", "resources", "env")):
        if key not in options and key not in ("where", "environment"):
            raise ProtocolError(f"option {key} is missing")
    for key, value in options.items():
        if key not in _KEYS or type(value) not in _KEYS[key]:
            raise ProtocolError(f"option {key} is a {type(value).__name__}")
    numbers = [options["num_cpus"], options["num_gpus"], options["memory"], *options["resources"].values()]
    if not all(type(n) in (int, float) and 0 <= n < _FINITE for n in numbers):
        raise ProtocolError("an amount of a resource is no number, or out of range")
    texts = [*options["env"].values(), *options.get("heavy", ())]
    if not all(type(text) is str and "\0" not in text for text in (*texts, *options["env"])):
        raise ProtocolError("env or heavy holds what is no text")
    where_of(options)
    if actor and (len(options["payload"]) != 20 or not -1 <= options["max_restarts"] < _FINITE):
        raise ProtocolError("payload or max_restarts is out of range")


def amounts(needs: Mapping[str, Any]) -> dict[str, float]:
    """`placing` as one mapping of resource names to amounts."""
    wanted = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], "memory": float(needs["memory"]), **needs["resources"]}
    return {k: v for k, v in wanted.items() if v}


def check_feasible(who: str, needs: Mapping[str, Any], totals: Mapping[str, float]) -> None:
    """PlacementError at once when no machine could ever satisfy the request."""
    wanted = amounts(needs)
    if any(v > totals.get(k, 0.0) for k, v in wanted.items()):
        raise PlacementError(f"{who} {explain_infeasible(wanted, totals)}")


def check_tags(who: str, asked: Sequence[str], there: Sequence[str]) -> None:
    """PlacementError at once when this machine is not marked with all that `asked` names."""
    if isinstance(asked, str):
        raise ValueError(f"tags={asked!r}: a tuple of strings, e.g. tags=({asked!r},)")
    if not set(asked) <= set(there):
        raise PlacementError(f"{who} asked for the tags {quoted(asked)}; this machine has {quoted(there) or 'none'}")


def quoted(names: Iterable[str]) -> str:
    """For people: "'big', 'ssd'"."""
    return ", ".join(map(repr, names))


_MOST_MARKS = 64
"""They go to every process."""


def marks(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags of a machine as `soma.init(tags=…)` was given them, each once.

    Raises:
        ValueError: something that is no tag.
    """
    found = (tags,) if isinstance(tags, str) else tuple(dict.fromkeys(tags))
    if isinstance(tags, str) or len(found) > _MOST_MARKS or not all(isinstance(t, str) and 0 < len(t) <= 256 for t in found):
        raise ValueError(f"tags={tags!r:.200}: at most {_MOST_MARKS} strings of 1 to 256 characters, e.g. tags=('big', 'ssd')")
    return found
