"""What runs in the process that holds the model: slots. Knows no HTTP."""

from __future__ import annotations

from soma.serve.slots.actor import SlotActor as SlotActor
from soma.serve.slots.async_actor import AsyncSlotActor as AsyncSlotActor
from soma.serve.slots.health import HealthBoard as HealthBoard
from soma.serve.slots.scope import current_scope as current_scope
from soma.serve.slots.terms import Ended as Ended
from soma.serve.slots.terms import Job as Job
from soma.serve.slots.terms import Limits as Limits
from soma.serve.slots.terms import SetUp as SetUp
from soma.serve.slots.terms import Source as Source
