"""Which process runs what, on which machine: the pure core of the scheduler. `Scheduling` decides, `events` is what it is told and says.

From below: `rooms` (what is free), `units` (what shares a process), `reasons` (words), `attempt` (one try), `planning` (which tries),
`core` (who is placed, who waits).
"""

from __future__ import annotations

from soma.actors.scheduling.core import Scheduling as Scheduling
from soma.actors.scheduling.core import replay as replay
from soma.actors.scheduling.events import Event as Event
from soma.actors.scheduling.events import Facts as Facts
from soma.actors.scheduling.events import Instruction as Instruction
from soma.actors.scheduling.events import Machine as Machine
from soma.actors.scheduling.events import Place as Place
from soma.actors.scheduling.events import Process as Process
from soma.actors.scheduling.events import Refuse as Refuse
from soma.actors.scheduling.events import Release as Release
from soma.actors.scheduling.events import Request as Request
from soma.actors.scheduling.events import Submit as Submit
from soma.actors.scheduling.events import Task as Task
from soma.actors.scheduling.events import Waiting as Waiting
from soma.actors.scheduling.events import Withdraw as Withdraw
from soma.actors.scheduling.events import as_dict as as_dict
from soma.actors.scheduling.events import event_of as event_of
from soma.actors.scheduling.events import instruction_of as instruction_of
from soma.actors.scheduling.events import request_of as request_of
