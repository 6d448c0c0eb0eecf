"""soma: actors in processes of their own for Python machine learning.

Importing it is cheap: names are looked up when they are first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from soma.actors.handle import ActorClass as ActorClass
    from soma.actors.handle import ActorHandle as ActorHandle
    from soma.actors.handle import ActorMethod as ActorMethod
    from soma.actors.handle import RemoteFunction as RemoteFunction
    from soma.actors.methods import method as method
    from soma.actors.refs import ObjectRef as ObjectRef
    from soma.actors.refs import ObjectRefGenerator as ObjectRefGenerator
    from soma.cluster import available_resources as available_resources
    from soma.cluster import cancel as cancel
    from soma.cluster import cluster_resources as cluster_resources
    from soma.cluster import exit_actor as exit_actor
    from soma.cluster import get as get
    from soma.cluster import get_actor as get_actor
    from soma.cluster import get_placement_group as get_placement_group
    from soma.cluster import get_runtime_context as get_runtime_context
    from soma.cluster import init as init
    from soma.cluster import is_initialized as is_initialized
    from soma.cluster import kill as kill
    from soma.cluster import nodes as nodes
    from soma.cluster import on_event as on_event
    from soma.cluster import placement_group as placement_group
    from soma.cluster import placement_group_table as placement_group_table
    from soma.cluster import put as put
    from soma.cluster import remote as remote
    from soma.cluster import remove_placement_group as remove_placement_group
    from soma.cluster import shutdown as shutdown
    from soma.cluster import status as status
    from soma.cluster import tell as tell
    from soma.cluster import wait as wait
    from soma.filters import Schema as Schema
    from soma.filters import branch as branch
    from soma.filters import filter as filter
    from soma.filters import loop as loop
    from soma.filters import progress as progress
    from soma.filters import report as report
    from soma.filters import search as search
    from soma.graph import Graph as Graph
    from soma.store import Cache as Cache
    from soma.study import Study as Study

_HOME = {
    **dict.fromkeys(("ActorClass", "ActorHandle", "ActorMethod", "RemoteFunction"), "soma.actors.handle"),
    "method": "soma.actors.methods",
    **dict.fromkeys(("ObjectRef", "ObjectRefGenerator"), "soma.actors.refs"),
    **dict.fromkeys(("available_resources", "cancel", "cluster_resources", "exit_actor", "get", "get_actor", "get_placement_group",
                     "get_runtime_context", "init", "is_initialized", "kill", "nodes", "on_event", "placement_group",
                     "placement_group_table", "put", "remote", "remove_placement_group", "shutdown", "status", "tell", "wait"),
                    "soma.cluster"),
    **dict.fromkeys(("Schema", "branch", "filter", "loop", "progress", "report", "search"), "soma.filters"),
    "Graph": "soma.graph",
    "Study": "soma.study",
    "Cache": "soma.store",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is not None:
        value = getattr(importlib.import_module(home), name)
        if name == "Graph":  # what is built upon graphs has verbs there: see soma.graph.above
            offer = importlib.import_module("soma.graph.above").offer
            offer("study", lambda: importlib.import_module("soma.study.graphs").GraphStudy)
            offer("serve", lambda: importlib.import_module("soma.serve").run)
    else:
        errors = importlib.import_module("soma.errors")

        value = getattr(errors, name, None)
        if value is None:
            try:
                return importlib.import_module(f"soma.{name}")
            except ModuleNotFoundError as e:
                if e.name != f"soma.{name}":
                    raise
            raise AttributeError(f"soma has no {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    errors = importlib.import_module("soma.errors")

    return sorted({*globals(), *_HOME, *(n for n in vars(errors) if n.endswith(("Error", "Exceeded")))})
