"""Graphs of filters: an expression is written down (builder), taken apart (lowering), checked and ordered (compile) into a frozen plan;
a walk decides what runs next, and an execution does it by the public verbs. Only what runs a graph touches a cluster."""

from __future__ import annotations

from soma.errors import GraphError as GraphError
from soma.graph.explaining import Explanation as Explanation
from soma.graph.graph import Graph as Graph
from soma.graph.plan import Plan as Plan
from soma.graph.plan import PlanNode as PlanNode
from soma.graph.steps import Branch as Branch
from soma.graph.steps import Cached as Cached
from soma.graph.steps import Composite as Composite
from soma.graph.steps import Empty as Empty
from soma.graph.steps import Execute as Execute
from soma.graph.steps import Loop as Loop
from soma.graph.steps import Parallel as Parallel
from soma.graph.steps import Remote as Remote
from soma.graph.steps import Sequence as Sequence
from soma.graph.steps import Stream as Stream
