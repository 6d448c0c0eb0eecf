"""What `scheduling_strategy=` takes, where programs written for Ray look for it."""

from __future__ import annotations

from soma.actors.strategies import DoesNotExist as DoesNotExist
from soma.actors.strategies import Exists as Exists
from soma.actors.strategies import In as In
from soma.actors.strategies import NodeAffinitySchedulingStrategy as NodeAffinitySchedulingStrategy
from soma.actors.strategies import NodeLabelSchedulingStrategy as NodeLabelSchedulingStrategy
from soma.actors.strategies import NotIn as NotIn
from soma.actors.strategies import PlacementGroupSchedulingStrategy as PlacementGroupSchedulingStrategy
