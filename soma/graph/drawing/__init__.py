"""A graph of filters as a picture: plain data in, SVG text out. Knows no graph and no plan, only boxes.

`columns` puts places of known size into columns and levels them, `groups` keeps groups together, and `frames` makes places of boxes, loops
and branches and so says where everything stands (`layout`). `picture` writes that down (`svg`). All of it is pure.
"""

from soma.graph.drawing.columns import Rect
from soma.graph.drawing.frames import Box, Layout, Pane, layout
from soma.graph.drawing.picture import svg

__all__ = ["Box", "Layout", "Pane", "Rect", "layout", "svg"]
