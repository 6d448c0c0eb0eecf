"""Population-based training: several members train at once, and the worse ones go on from the better ones' states with other
hyper-parameters. What is decided is pure (`spaces`, `evolution`); `processes` and `keeping` act."""

from __future__ import annotations

from soma.train.population.evolution import Turn as Turn
from soma.train.population.modules import TorchMember as TorchMember
from soma.train.population.trainer import PopulationBased as PopulationBased
from soma.train.population.trainer import PopulationResult as PopulationResult
