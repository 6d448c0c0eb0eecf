"""`Federated`: one model learnt by clients that keep their data. Each round some of them go on from the global state, and what they come
to is averaged into the next one.

    r = Federated(net, {"north": (X1, y1), "south": (X2, y2)}, rounds=10, local_epochs=2, seed=0).fit()
    r.state, r.history

A client that raises, dies, or is late is left out of its round and named; too few make the round, and with it the run, fail. A round is all
or nothing, and where it begins is where the one before it ended.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soma import cluster
from soma.actors.refs import ObjectRef
from soma.cluster.hub import Subscriber
from soma.errors import QuorumError
from soma.events import MetricReported, RoundCompleted, RoundStarted
from soma.filters import ModuleFilter, mismatch, title_of
from soma.filters.seeds import seeded
from soma.runs import Run
from soma.train import recording
from soma.train.aggregation import NonFinite
from soma.train.aggregator import Aggregation
from soma.train.federated_clients import FunctionLearner, Learner, Local, ModuleLearner, function_learner, learner_of
from soma.train.federated_plan import Plan, Progress, RoundResult, aggregation_of
from soma.train.federated_rounds import Client, Hosts, Outcome, Round, Server
from soma.train.pytrees import flatten, is_tensor
from soma.train.servers import ServerOptimizer

Evaluate = Callable[[Any], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class FederatedResult(recording.Recorded):
    """What a training gave.

    Attributes:
        state: the last average.
        history: one entry for each round.
        model: of torch modules: the module with that state; else None.
        run_id: of its run, which is `run` if it was recorded; `soma runs show` takes it.
    """

    state: Any
    history: list[RoundResult]
    model: Any
    run_id: str


class Federated:
    """See the module.

    Args:
        model: a torch module or a filter that goes on from a state: `partial_fit(x, y, state)`, or a `fit` with a parameter `state`.
            None if the clients are functions.
        clients: name → (X, y), X alone, or a ref to either; or name → function `client(state, round) -> (state, samples[, metrics])`,
            which also gets `mu` and `seed` if it has such parameters. A list names them "0", "1", ….
        rounds: how many.
        aggregation: "fedavg" (the mean, weighted by rows), "median", "trimmed_mean", "krum", "multi_krum"; a function of states, or of
            states and weights; "fedavgm", "fedadagrad", "fedadam", "fedyogi" are FedAvg with that `server_optimizer`; "fedprox" wants `mu`.
        server_optimizer: what is done with the average, e.g. `FedAdam(lr=0.01)`; None makes it the new state.
        initial: the state that the first round begins with; by default a module's own weights, and nothing for other clients.
        local_epochs, batch_size, shuffle, loss_fn, optimizer: how a client trains; by default as the filter says. Optimizers begin anew
            in each round.
        mu: FedProx: mu/2 · ‖w − w_global‖² is added to the loss of torch modules; functions get it.
        fraction, clients_per_round: how many clients take part in a round, chosen by the seed.
        deadline: seconds that a round may take; who is not done is left out, and its process ended. None waits for all.
        quorum: how many of a round's clients must give an update: a whole number, or a share of them.
        max_failures: a client that is left out so many times in a row is not asked again; None asks for ever.
        on_nonfinite: an update with NaN or infinity raises NonFiniteError ("raise"), or its client is left out ("skip").
        seed: decides weights, who takes part, and what clients draw; None leaves the latter to chance.
        num_cpus: of each process that clients learn in; it may be a fraction.
        max_processes: how many of them; by default one for each client of a round, as far as there are CPUs. Clients take turns.
    """

    def __init__(self, model: Any, clients: Mapping[str, Any] | Sequence[Any], rounds: int, aggregation: str | Aggregation = "fedavg", *,
                 server_optimizer: ServerOptimizer | None = None, initial: Any = None, local_epochs: int | None = None,
                 batch_size: int | None = None, shuffle: bool | None = None, loss_fn: Any = None, optimizer: Any = None, mu: float = 0.0,
                 fraction: float | None = None, clients_per_round: int | None = None, deadline: float | None = None,
                 quorum: float = 0.5, max_failures: int | None = None, on_nonfinite: NonFinite = "raise", seed: int | None = 0,
                 num_cpus: float = 1, max_processes: int | None = None) -> None:
        named = dict(clients) if isinstance(clients, Mapping) else {str(i): c for i, c in enumerate(clients)}
        self._plan = Plan(names=tuple(map(str, named)), rounds=rounds, fraction=fraction, clients_per_round=clients_per_round,
                          deadline=deadline, quorum=quorum, max_failures=max_failures, seed=seed)
        self._local = Local(epochs=local_epochs, batch_size=batch_size, shuffle=shuffle, loss_fn=loss_fn, optimizer=optimizer, mu=mu)
        self._aggregation, self._server_optimizer = aggregation_of(aggregation, server_optimizer, mu)
        if on_nonfinite not in ("raise", "skip"):
            raise ValueError(f"on_nonfinite={on_nonfinite!r}: 'raise' or 'skip'")
        if max_processes is not None and (type(max_processes) is not int or max_processes < 1):
            raise ValueError(f"max_processes={max_processes!r}: a whole number from 1")
        self._on_nonfinite, self._initial, self._num_cpus, self._max_processes = on_nonfinite, initial, num_cpus, max_processes
        self._clients = dict(zip(self._plan.names, named.values(), strict=True))
        self._title = "clients" if model is None else title_of(model) if not isinstance(model, type) else model.__name__
        self._learners = self._learners_of(model)

    def _learners_of(self, model: Any) -> dict[str, Learner]:
        """How each client learns; what cannot be is refused here."""
        shared = None if model is None else learner_of(model, self._local, self._plan.rounds)
        learners: dict[str, Learner] = {}
        for name, client in self._clients.items():
            if shared is not None:
                if not isinstance(client, ObjectRef) and (problem := mismatch(*_pair(client))):
                    raise ValueError(f"client {name!r} has {problem}")
                learners[name] = shared
            elif callable(client):
                learners[name] = function_learner(name, client, self._local)
            else:
                raise TypeError(f"client {name!r} is {type(client).__name__} and model is None: give a model, or functions for clients")
        return learners

    def fit(self, *, evaluate: Evaluate | None = None, checkpoint: str | os.PathLike[str] | None = None, resume: bool = False,
            record: bool = True, progress: bool | None = None, listeners: Sequence[Subscriber] = ()) -> FederatedResult:
        """Play the rounds.

        Args:
            evaluate: called here with the state after each round; gives a dict of metrics.
            checkpoint: a file, replaced after each round.
            resume: go on from `checkpoint`, if it is there.
            record, progress, listeners: see `soma.runs`.

        Raises:
            QuorumError: too few clients gave an update; names those that did not, and why.
            StateMismatchError: a client's state differs in form; names path and client.
            NonFiniteError: see `on_nonfinite`.
            GroupBrokenError: the aggregator's process died; the last checkpoint is what remains.
        """
        plan = self._plan
        at = Progress.resumed(checkpoint, plan) if resume and checkpoint is not None else Progress()
        state = at.state if at.history else self._first_state()
        title = f"Federated({self._title}, {len(plan.names)} clients)"
        params = {"rounds": plan.rounds, "clients": len(plan.names), "clients_per_round": plan.chosen, "mu": self._local.mu}
        with recording.begin(title, seed=plan.seed, params=params, record=record, progress=progress, listeners=tuple(listeners)) as run:
            if len(at.history) < plan.rounds:
                torch = self._module() is not None or any(is_tensor(leaf.value) for leaf in flatten(state))
                with (Server(state, self._aggregation, self._server_optimizer, excluded=self._excluded(), memory=at.memory,
                             on_nonfinite=self._on_nonfinite, torch=torch) as server,
                      Hosts(self._processes(), self._num_cpus, run.told, torch=torch) as hosts):
                    state = _Playing(plan, run, server, hosts, evaluate, checkpoint).play(self._put(hosts), at, state)
        return FederatedResult(state, at.history, self._model_with(state), run.id)

    def _put(self, hosts: Hosts) -> list[Client]:
        """Learners and data under refs, each once; and processes that have imported what they need."""
        refs: dict[int, ObjectRef[Any]] = {}
        for learner in self._learners.values():
            refs.setdefault(id(learner), cluster.put(learner))
        hosts.warm(list(refs.values()))
        return [Client(name, refs[id(learner)], () if isinstance(learner, FunctionLearner) else _put_data(client))
                for (name, client), learner in zip(self._clients.items(), self._learners.values(), strict=True)]

    def _processes(self) -> int:
        most = min(self._plan.chosen, self._max_processes or self._plan.chosen)
        if not self._num_cpus:
            return most
        return max(1, min(most, int(cluster.available_resources().get("CPU", 0.0) / self._num_cpus)))

    def _module(self) -> ModuleFilter | None:
        learner = next(iter(self._learners.values()))
        return learner.filter if isinstance(learner, ModuleLearner) else None

    def _first_state(self) -> Any:
        module = self._module()
        if self._initial is not None or module is None:
            return self._initial
        with seeded(self._plan.seed):
            return {name: t.detach().cpu().clone() for name, t in module.make().state_dict().items()}

    def _excluded(self) -> list[str]:
        """What of a module is no weight: the server's optimizer leaves it alone."""
        module = self._module()
        if module is None or self._server_optimizer is None:
            return []
        made = module.make()
        trained = {name for name, p in made.named_parameters() if p.requires_grad}
        return [f"state[{name!r}]" for name in made.state_dict() if name not in trained]

    def _model_with(self, state: Any) -> Any:
        module = self._module()
        if module is None:
            return None
        made = module.make()
        made.load_state_dict(state)
        return made


class _Playing:
    """One `fit`."""

    def __init__(self, plan: Plan, run: Run, server: Server, hosts: Hosts, evaluate: Evaluate | None,
                 checkpoint: str | os.PathLike[str] | None) -> None:
        self._plan, self._run, self._server, self._hosts = plan, run, server, hosts
        self._evaluate, self._checkpoint = evaluate, checkpoint

    def play(self, clients: list[Client], at: Progress, state: Any) -> Any:
        """The rounds that are left; `at` keeps up with them. Gives the last state."""
        plan, by_name = self._plan, {c.name: c for c in clients}
        where: Any = cluster.put(state)
        for number in range(len(at.history), plan.rounds):
            chosen = plan.sample(number, at.failures)
            if not chosen:
                raise QuorumError(f"round {number}: every client was left out {plan.max_failures} times in a row: {at.last_reasons()}")
            self._run.emit(RoundStarted, round=number, rounds=plan.rounds, clients=chosen)
            now = Round(number, self._hosts, self._server, plan.deadline, plan.seed)
            outcome = now.play([by_name[name] for name in chosen], plan.needed(len(chosen)), where)
            where = outcome.state
            last = number == plan.rounds - 1
            if last or self._evaluate is not None or self._checkpoint is not None:
                with self._server.explained():
                    state = cluster.get(where)
            at.add(self._told(number, outcome, state), state)
            if self._checkpoint is not None:
                with self._server.explained():
                    at.memory = cluster.get(self._server.handle.memory.remote())
                at.write(self._checkpoint, plan)
        return state

    def _told(self, number: int, outcome: Outcome, state: Any) -> RoundResult:
        """What a round came to, as its events say it."""
        samples, left_out = dict(outcome.closed.samples), dict(outcome.closed.left_out)
        for client, metrics in outcome.metrics.items():
            if client in samples:
                for name, value in metrics.items():
                    self._run.emit(MetricReported, name=name, value=value, step=number, node=client)
        figures = _weighted({c: outcome.metrics.get(c, {}) for c in samples}, samples)
        if self._evaluate is not None:
            figures |= (evaluated := _evaluated(self._evaluate, state))
            for name, value in evaluated.items():
                self._run.emit(MetricReported, name=name, value=value, step=number)
        self._run.emit(RoundCompleted, round=number, rounds=self._plan.rounds, clients=tuple(samples), left_out=left_out,
                       samples=sum(samples.values()), duration_ms=outcome.seconds * 1e3, metrics=figures)
        return RoundResult(number, samples, left_out, figures, outcome.seconds)


def _weighted(metrics: Mapping[str, Mapping[str, float]], samples: Mapping[str, float]) -> dict[str, float]:
    """The mean of each metric over the samples of the clients that gave it."""
    names = dict.fromkeys(name for given in metrics.values() for name in given)
    return {name: math.fsum(given[name] * samples[c] for c, given in metrics.items() if name in given)
            / math.fsum(samples[c] for c, given in metrics.items() if name in given) for name in names}


def _evaluated(evaluate: Evaluate, state: Any) -> dict[str, float]:
    given = evaluate(state)
    try:
        return {str(name): float(value) for name, value in dict(given).items()}
    except (TypeError, ValueError):
        raise TypeError(f"evaluate gave {given!r:.80}; it must give a dict of numbers") from None


def _pair(client: Any) -> tuple[Any, Any]:
    return client if isinstance(client, tuple) and len(client) == 2 else (client, None)


def _put_data(client: Any) -> tuple[ObjectRef[Any], ...]:
    parts = (client,) if isinstance(client, ObjectRef) else _pair(client)
    return tuple(p if isinstance(p, ObjectRef) else cluster.put(p) for p in parts)
