"""What an actor or task needs of a machine, as the daemon reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from soma.actors.admission import explain_infeasible
from soma.actors.options import Options
from soma.errors import PlacementError, ProtocolError


def placing(options: Options, default_cpus: float) -> dict[str, Any]:
    """The part of the options that the daemon places by, as plain data. (Tags are checked by who asks: see `check_tags`.)"""
    return {"num_cpus": float(default_cpus if options.num_cpus is None else options.num_cpus), "num_gpus": float(options.num_gpus or 0),
            "memory": int(options.memory or 0), "resources": {str(k): float(v) for k, v in options.resources.items()},
            "env": dict((options.runtime_env or {}).get("env_vars") or {})}


_FINITE = 1e15
_KEYS: dict[str, tuple[type, ...]] = {
    "num_cpus": (float,), "num_gpus": (float,), "memory": (int,), "resources": (dict,), "env": (dict,), "name": (str, type(None)),
    "namespace": (str,), "detached": (bool,), "max_restarts": (int,), "payload": (bytes,), "heavy": (tuple,)}


def check_options(options: Mapping[str, Any], *, actor: bool) -> None:
    """What a daemon makes sure of before it acts on what came in a message.

    Raises:
        ProtocolError: no process of ours would have sent this.
    """
    for key in (_KEYS if actor else ("num_cpus", "num_gpus", "memory", "resources", "env")):
        if key not in options:
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
