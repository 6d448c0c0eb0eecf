"""Model-parallel training: a network cut into stages, each in a process of its own; see `Pipeline`."""

from __future__ import annotations

from soma.train.pipelining.pipeline import Pipeline as Pipeline
from soma.train.pipelining.pipeline import PipelineResult as PipelineResult
