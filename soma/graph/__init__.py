"""Graphs of filters: an expression is lowered to nodes and edges (builder), checked and ordered (compile) into a frozen plan,
and run by the public verbs (runner). Only the runner and `Graph` touch a cluster."""

from __future__ import annotations

from soma.errors import GraphError as GraphError
from soma.graph.graph import Graph as Graph
from soma.graph.plan import Empty as Empty
from soma.graph.plan import Execute as Execute
from soma.graph.plan import Parallel as Parallel
from soma.graph.plan import Plan as Plan
from soma.graph.plan import PlanNode as PlanNode
from soma.graph.plan import Sequence as Sequence
