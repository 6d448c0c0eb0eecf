"""`soma.init(local=True)`: everything in the calling process, for a debugger. See `engine`."""

from soma.actors.local.engine import LocalEngine as LocalEngine
