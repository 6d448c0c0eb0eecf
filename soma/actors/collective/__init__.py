"""Collective calls: ranks that meet at an `AllReduce` actor and then combine arrays among themselves."""

from __future__ import annotations

from soma.actors.collective.allreduce import AllReduce as AllReduce
from soma.actors.collective.group import Group as Group
