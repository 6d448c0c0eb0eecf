"""What a function or a class does, in 40 hex digits that change when its code does.

They do not change with comments, layout, documentation, annotations, names of local variables, or its own name and place; see
`bytecode` for what that means, and `definitions` for what of other code counts: what it calls and uses of the user's own code is
followed, of installed libraries the version counts. Works on code objects, so no source is needed, and gives the same for a
class that arrived by value. Belongs to one minor version of Python.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

from soma.store.walk import Walk


def code_digest(thing: Any, path: str = "") -> str:
    """The digest of a function or a class; of anything else that can be called, its `digest` as a value.

    Raises:
        IdentityError: something that it holds (a class attribute, a variable of a closure, a default) has no stable content.
    """
    named = thing if isinstance(thing, type | FunctionType) else None
    return Walk(path or getattr(thing, "__qualname__", type(thing).__name__), named).digest(thing)
