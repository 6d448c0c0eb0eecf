"""What the nodes that steer say: a loop's end, a branch's label. Anything that cannot be read is an error, never a guess."""

from __future__ import annotations

from typing import Any

from soma.errors import GraphError
from soma.filters import label_text

_STOPS = {"done": True, "stop": True, "continue": False}


def stops(value: Any, loop: str, until: str) -> bool:
    """Whether a loop ends: True, "done", "stop" and {"done": True} say so; False, "continue" and {"done": False} that it goes on.

    Raises:
        GraphError: anything else; names the loop and the node.
    """
    plain = _plain(value)
    if isinstance(plain, dict) and set(plain) == {"done"}:
        plain = _plain(plain["done"])
        if isinstance(plain, str):  # {"done": "stop"} is more than anybody should say
            plain = None
    if isinstance(plain, bool):
        return plain
    if isinstance(plain, str) and plain in _STOPS:
        return _STOPS[plain]
    raise GraphError(f"loop {loop!r}: {until!r} gave {value!r:.80}, which says neither stop nor go on: give True, 'done', 'stop' or "
                     "{'done': True}; or False, 'continue' or {'done': False}")


def label(value: Any, branch: str, condition: str) -> str:
    """The label in what a condition gave: a text, a bool, or {"branch": label}.

    Raises:
        GraphError: anything else; names the branch and the node.
    """
    plain = _plain(value)
    if isinstance(plain, dict) and set(plain) == {"branch"}:
        plain = _plain(plain["branch"])
    found = label_text(plain)
    if found is None:
        raise GraphError(f"branch {branch!r}: {condition!r} gave {value!r:.80}, which is no label: give a text, a bool or "
                         "{'branch': label}")
    return found


def _plain(value: Any) -> Any:
    """A bool or text that numpy or torch wraps, as itself."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value
