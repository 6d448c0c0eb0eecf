"""`soma.Graph`: what a user holds. It keeps the blueprint, the plan and the actors; the work is in builder, compile and runner.

Actors are made when they are first needed and end with `close()`, with the graph itself, or with the cluster. The state of
each filter lives in its actor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from soma import cluster
from soma.actors.handle import ActorHandle
from soma.errors import ClusterError, GraphError
from soma.filters import FilterActor
from soma.graph import runner
from soma.graph.builder import Blueprint, blueprint_of
from soma.graph.compile import compile_plan
from soma.graph.plan import Plan
from soma.graph.progress import progress_bar


class Graph:
    """A graph of filters, each in a process of its own.

        g = soma.Graph(Scale() >> (Small() | Large()) >> Vote())
        g.fit(X, y)
        g.forward(X2)

    A node with one predecessor gets its output; with several, `{predecessor id: output}`; with none, the graph's input. Nodes
    may also be named: `g = soma.Graph(); g.node("scale", Scale()); g.node("vote", Vote()); g.connect("scale", "vote")`.

    Every method that runs it raises the failing node's own exception, with a note naming the node; GraphError if the graph
    cannot be.
    """

    def __init__(self, expression: Any = None) -> None:
        self._blueprint = Blueprint() if expression is None else blueprint_of(expression)
        self._plan: Plan | None = None
        self._handles: dict[str, ActorHandle[FilterActor]] = {}

    def node(self, id: str, filter: Any) -> str:
        """Add a filter under an id of your own; gives the id back."""
        self._blueprint, self._plan = self._blueprint.with_node(id, filter), None
        return id

    def connect(self, before: str, after: str) -> None:
        """Send the output of one node to another. The nodes may be added later."""
        self._blueprint, self._plan = self._blueprint.with_edge(before, after), None

    def compile(self) -> Plan:
        """Check the graph and say how it will run; starts nothing. GraphError names every node at fault."""
        if self._plan is None:
            self._plan = compile_plan(self._blueprint)
        return self._plan

    def fit(self, X: Any, y: Any = None, *, progress: bool | None = None) -> Graph:
        """Fit every node that learns, in the order of the graph, and give the graph back.

        Args:
            X: input of the nodes without predecessors; any value, or a ref to one.
            y: targets, given to every `fit`; or a ref.
            progress: a bar on stderr: None where that is a terminal, True always, False never.
        """
        plan, handles = self._ready()
        with progress_bar("fit", len(plan.nodes), progress) as observe:
            runner.fit(plan, handles, X, y, observe)
        return self

    def forward(self, X: Any, *, progress: bool = False) -> Any:
        """The output of the last node for `X`; with several last nodes, `{id: output}`."""
        plan, handles = self._ready()
        leaves = plan.leaves
        with progress_bar("forward", len(plan.nodes), progress) as observe:
            outputs = runner.forward(plan, handles, X, leaves, observe)
        return outputs[leaves[0]] if len(leaves) == 1 else outputs

    def predict(self, X: Any) -> Any:
        """scikit-learn's word for `forward`."""
        return self.forward(X)

    def run(self, X: Any, *, progress: bool = False) -> dict[str, Any]:
        """Every node's output for `X`, by id."""
        plan, handles = self._ready()
        with progress_bar("run", len(plan.nodes), progress) as observe:
            return runner.forward(plan, handles, X, [n.id for n in plan.nodes], observe)

    def state(self) -> dict[str, Any]:
        """What each node has learnt, by id. Stateless nodes are left out."""
        plan, handles = self._ready()
        return runner.gather(plan, {id: handles[id].get_state.remote() for id in plan.trainable})

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Give every node that learns its state, as `state()` gave it. Missing and unknown ids are a GraphError."""
        plan, handles = self._ready()
        wanted, given = set(plan.trainable), set(state)
        if wanted != given:
            said = [f"no state for {', '.join(map(repr, sorted(wanted - given)))}"] if wanted - given else []
            said += [f"state for {', '.join(map(repr, sorted(given - wanted)))}, which no node learns"] if given - wanted else []
            raise GraphError("load_state: " + "; ".join(said))
        runner.gather(plan, {id: handles[id].set_state.remote(state[id]) for id in plan.trainable})

    def pids(self) -> dict[str, int]:
        """The process of each node."""
        plan, handles = self._ready()
        pids: dict[str, int] = runner.gather(plan, {n.id: handles[n.id].pid.remote() for n in plan.nodes})
        return pids

    def close(self) -> None:
        """End the graph's processes; what they learnt is gone with them. The next use starts new ones."""
        handles, self._handles = self._handles, {}
        with contextlib.suppress(ClusterError):  # a cluster that is gone took them along
            for handle in handles.values():
                if cluster.is_initialized():
                    cluster.kill(handle)

    def to_mermaid(self) -> str:
        """A flowchart that GitHub and notebooks draw."""
        return self.compile().to_mermaid()

    def _ready(self) -> tuple[Plan, dict[str, ActorHandle[FilterActor]]]:
        """The plan, with an actor for each node."""
        plan = self.compile()
        if not plan.nodes:
            raise GraphError("the graph has no nodes: soma.Graph(a >> b), or g.node(id, filter)")
        for node in plan.nodes:
            if node.id not in self._handles:
                self._handles[node.id] = runner.start_actor(node.id, self._blueprint.nodes[node.id])
        return plan, self._handles

    def __len__(self) -> int:
        return len(self._blueprint.nodes)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Graph:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        try:
            return f"Graph({self.compile().formula()})"
        except GraphError as e:
            return f"Graph({len(self)} nodes, cannot be compiled: {e})"
