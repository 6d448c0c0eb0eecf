"""Training together: data-parallel, federated, in a pipeline, as a population; and the aggregations they are made of.

Everything here blocks as the other verbs do, records a run (see `soma.runs`), and is held in its tests to an answer computed another way.
torch is imported when it is first needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soma.actors.collective import AllReduce as AllReduce
    from soma.actors.collective import Group as Group
    from soma.runs.tensorboard import tensorboard_listener as tensorboard_listener
    from soma.train.aggregation import fedavg as fedavg
    from soma.train.aggregation import krum as krum
    from soma.train.aggregation import median as median
    from soma.train.aggregation import multi_krum as multi_krum
    from soma.train.aggregation import trimmed_mean as trimmed_mean
    from soma.train.aggregator import FedAvg as FedAvg
    from soma.train.data_parallel import DataParallel as DataParallel
    from soma.train.data_parallel import Trained as Trained
    from soma.train.federated import Federated as Federated
    from soma.train.federated import FederatedResult as FederatedResult
    from soma.train.federated_plan import RoundResult as RoundResult
    from soma.train.pipelining import Pipeline as Pipeline
    from soma.train.pipelining import PipelineResult as PipelineResult
    from soma.train.population import PopulationBased as PopulationBased
    from soma.train.population import PopulationResult as PopulationResult
    from soma.train.population import TorchMember as TorchMember
    from soma.train.population import Turn as Turn
    from soma.train.servers import FedAdagrad as FedAdagrad
    from soma.train.servers import FedAdam as FedAdam
    from soma.train.servers import FedAvgM as FedAvgM
    from soma.train.servers import FedYogi as FedYogi
    from soma.train.servers import ServerOptimizer as ServerOptimizer
    from soma.train.settings import EarlyStop as EarlyStop

_HOME = {
    **dict.fromkeys(("AllReduce", "Group"), "soma.actors.collective"),
    **dict.fromkeys(("fedavg", "krum", "median", "multi_krum", "trimmed_mean"), "soma.train.aggregation"),
    "FedAvg": "soma.train.aggregator",
    **dict.fromkeys(("DataParallel", "Trained"), "soma.train.data_parallel"),
    **dict.fromkeys(("Federated", "FederatedResult"), "soma.train.federated"),
    "RoundResult": "soma.train.federated_plan",
    **dict.fromkeys(("Pipeline", "PipelineResult"), "soma.train.pipelining"),
    **dict.fromkeys(("PopulationBased", "PopulationResult", "TorchMember", "Turn"), "soma.train.population"),
    **dict.fromkeys(("FedAdagrad", "FedAdam", "FedAvgM", "FedYogi", "ServerOptimizer"), "soma.train.servers"),
    "EarlyStop": "soma.train.settings",
    "tensorboard_listener": "soma.runs.tensorboard",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"soma.train has no {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
