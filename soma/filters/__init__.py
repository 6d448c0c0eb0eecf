"""Filters: Python objects with `forward(x, state)` and, if they learn, `fit(x, y=None) -> state`.

A filter is an ordinary object that works without a cluster; state is returned, never kept on it. `FilterActor` runs one in a
process of its own. Wiring them into graphs only makes values here (`Chain`, `Fork`); `soma.graph` gives those a meaning.
"""

from __future__ import annotations

from soma.errors import NotFittedError as NotFittedError
from soma.filters.actor import FilterActor as FilterActor
from soma.filters.marking import Filter as Filter
from soma.filters.marking import filter as filter
from soma.filters.options import FilterOptions as FilterOptions
from soma.filters.options import kind_of as kind_of
from soma.filters.options import label_of as label_of
from soma.filters.options import options_of as options_of
from soma.filters.options import title_of as title_of
from soma.filters.wiring import Chain as Chain
from soma.filters.wiring import Fork as Fork
from soma.filters.wiring import part_of as part_of
