"""Task workers: processes that run functions, lent to whoever has tasks while the CPUs they need are free."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soma.actors.lifecycle import Phase
from soma.actors.placing import amounts
from soma.ids import ActorId, new_actor_id
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.node import Daemon
    from soma.daemon.residents import Resident

KEEP_IDLE = 4
"""Idle workers kept for the next task, beyond one per CPU."""


@dataclass(slots=True)
class Loan:
    """A worker and who has it."""

    worker: Resident
    borrower: str
    request: bytes


class Loans:
    """Requests in the order they came, workers by what their environment is."""

    def __init__(self, daemon: Daemon) -> None:
        self._d = daemon
        self._asked: deque[m.LeaseWorker] = deque()
        self._idle: list[Resident] = []
        self._loans: dict[ActorId, Loan] = {}

    def ask(self, msg: m.LeaseWorker) -> None:
        self._asked.append(msg)
        self.admit()

    def admit(self) -> None:
        """Lend while there is room. Requests that do not fit wait; smaller ones may pass."""
        for msg in list(self._asked):
            worker = self._free_worker(msg.options)
            actor = worker.actor if worker else new_actor_id()
            if not self._d.pool.try_acquire(actor, amounts(msg.options)):
                continue
            self._asked.remove(msg)
            if worker is None:
                worker = self._make(actor, msg)
            else:
                self._idle.remove(worker)
            self._loans[worker.actor] = Loan(worker, msg.peer, msg.request)
            self._d.answer(msg.peer, msg.request, {"actor": worker.actor})

    def _free_worker(self, options: dict[str, Any]) -> Resident | None:
        """An idle worker whose process was made for the same environment; GPU tasks always get a fresh one."""
        if options["num_gpus"]:
            return None
        for worker in self._idle:
            if worker.options["env"] == options["env"] and worker.options["num_cpus"] == options["num_cpus"]:
                return worker
        return None

    def _make(self, actor: ActorId, msg: m.LeaseWorker) -> Resident:
        create = m.CreateActor(b"", actor, "", "TaskWorker", {**msg.options, "detached": True}, (), b"")
        worker = self._d.residents.create(create, is_worker=True)
        self._d.residents.start(worker)
        return worker

    def on_ready(self, r: Resident) -> None:
        return

    def give_back(self, msg: m.ReturnWorker) -> None:
        """A borrower is done with a worker, or withdraws a request (whose answer may be on its way: it sends that back too)."""
        if msg.request:
            for asked in list(self._asked):
                if asked.request == msg.request:
                    self._asked.remove(asked)
            return
        loan = self._loans.get(ActorId(msg.actor))
        if loan is not None and loan.borrower == msg.peer:
            self._free(loan)

    def _free(self, loan: Loan) -> None:
        del self._loans[loan.worker.actor]
        self._d.pool.release(loan.worker.actor)
        keep = int(self._d.settings.num_cpus) + KEEP_IDLE
        if loan.worker.options["num_gpus"] or len(self._idle) >= keep or loan.worker.life.phase not in (Phase.READY, Phase.STARTING):
            self._d.stop(loan.worker, "killed", graceful=False)
        else:
            self._idle.append(loan.worker)
        self._d.admit()

    def on_gone(self, r: Resident) -> None:
        self._loans.pop(r.actor, None)
        if r in self._idle:
            self._idle.remove(r)

    def peer_died(self, peer: str) -> None:
        """A borrower is gone: what it had running has nobody to answer to."""
        self._asked = deque(a for a in self._asked if a.peer != peer)
        for loan in list(self._loans.values()):
            if loan.borrower == peer:
                self._d.stop(loan.worker, "owner", graceful=False)
