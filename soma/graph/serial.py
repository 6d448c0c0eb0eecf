"""Plans as JSON and back. Every frozen class of a plan has a name here; nothing else is ever made from what is read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from soma.graph.plan import Plan, PlanNode
from soma.graph.steps import Branch, Cached, Composite, Empty, Execute, Loop, Parallel, Remote, Sequence, Stream

_CLASSES: dict[str, type] = {c.__name__: c for c in (
    Plan, PlanNode, Empty, Execute, Composite, Loop, Branch, Cached, Stream, Remote, Sequence, Parallel)}
VERSION = 1


def plan_to_json(plan: Plan) -> str:
    return json.dumps({"soma_plan": VERSION, "plan": _plain(plan)}, ensure_ascii=False)


def plan_from_json(text: str) -> Plan:
    """The plan.

    Raises:
        ValueError: it is no plan, or one of another version.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("soma_plan") != VERSION:
        raise ValueError(f"this is no plan of version {VERSION}: {text[:80]!r}")
    try:
        plan = _made(data["plan"])
    except (KeyError, TypeError, AttributeError) as e:
        raise ValueError(f"this plan cannot be read: {e!r}") from None
    if not isinstance(plan, Plan):
        raise ValueError(f"this is a {type(plan).__name__}, no plan")
    return plan


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return {"is": type(value).__name__, **fields}
    return value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made(v) for v in value)
    if isinstance(value, dict):
        return _CLASSES[value["is"]](**{k: _made(v) for k, v in value.items() if k != "is"})
    return value
