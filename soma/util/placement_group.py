"""Placement groups, where programs written for Ray look for them."""

from __future__ import annotations

from soma.cluster import PlacementGroup as PlacementGroup
from soma.cluster import get_placement_group as get_placement_group
from soma.cluster import placement_group as placement_group
from soma.cluster import placement_group_table as placement_group_table
from soma.cluster import remove_placement_group as remove_placement_group
