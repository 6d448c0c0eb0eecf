"""The cache of graph runs: what was computed once is looked up, not computed again.

`digest` and `code_digest` say what a value or a piece of code *is*, the same in every process; `Cache` keeps values under keys that
callers make from them by `combine`, in memory, on disk, and in a shared place; `maintenance` keeps its directory tidy.
"""

from soma.store.cache import Cache, CacheSpec
from soma.store.code import code_digest
from soma.store.digesting import combine, digest
from soma.store.records import Hit, Made

__all__ = ["Cache", "CacheSpec", "Hit", "Made", "code_digest", "combine", "digest"]
