"""Filters: Python objects with `forward(x, state)` and, if they learn, `fit(x, y=None) -> state`.

A filter is an ordinary object that works without a cluster; state is returned, never kept on it. `FilterActor` runs filters in a
process of their own. Wiring them into graphs only makes values here (`Chain`, `Fork`, …); `soma.graph` gives those a meaning.
"""

from __future__ import annotations

from soma.filters.actor import FilterActor as FilterActor
from soma.filters.evolving import Position as Position
from soma.filters.evolving import trail_after as trail_after
from soma.filters.identity import Identity as Identity
from soma.filters.identity import identity_of as identity_of
from soma.filters.marking import Filter as Filter
from soma.filters.marking import filter as filter
from soma.filters.modules import ModuleFilter as ModuleFilter
from soma.filters.modules import Training as Training
from soma.filters.options import FilterOptions as FilterOptions
from soma.filters.options import kind_of as kind_of
from soma.filters.options import options_of as options_of
from soma.filters.options import title_of as title_of
from soma.filters.parameters import label_of as label_of
from soma.filters.parameters import parameters_of as parameters_of
from soma.filters.parameters import resolved as resolved
from soma.filters.parameters import searched as searched
from soma.filters.parameters import with_parameters as with_parameters
from soma.filters.reporting import progress as progress
from soma.filters.reporting import report as report
from soma.filters.rows import mismatch as mismatch
from soma.filters.rows import rows_of as rows_of
from soma.filters.rows import take as take
from soma.filters.schema import Schema as Schema
from soma.filters.schema import cannot_meet as cannot_meet
from soma.filters.searching import Search as Search
from soma.filters.searching import search as search
from soma.filters.seeds import derived as derived
from soma.filters.summary import summary_of as summary_of
from soma.filters.tasks import Keeping as Keeping
from soma.filters.tasks import Report as Report
from soma.filters.tasks import Shape as Shape
from soma.filters.tasks import Stored as Stored
from soma.filters.tasks import Task as Task
from soma.filters.wiring import GRAPH as GRAPH
from soma.filters.wiring import Branch as Branch
from soma.filters.wiring import Chain as Chain
from soma.filters.wiring import Fork as Fork
from soma.filters.wiring import Loop as Loop
from soma.filters.wiring import Wired as Wired
from soma.filters.wiring import branch as branch
from soma.filters.wiring import is_graph as is_graph
from soma.filters.wiring import label_text as label_text
from soma.filters.wiring import loop as loop
from soma.filters.wiring import part_of as part_of
