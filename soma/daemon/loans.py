"""Task workers: processes that run functions, lent to whoever has tasks while the resources they need are free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from soma.actors.admission import InGroup
from soma.actors.admission.infeasible import why_never
from soma.actors.lifecycle import Phase
from soma.actors.placing import amounts, check_options, where_of
from soma.daemon.orders import Machine, Wanted
from soma.ids import ActorId, new_actor_id, new_hex
from soma.transport import messages as m

if TYPE_CHECKING:
    from soma.daemon.head import Head
    from soma.daemon.resident import Resident

KEEP_IDLE = 4
"""Idle workers kept for the next task, beyond one per CPU."""
_SAME_PROCESS = ("env", "num_cpus", "memory")
"""Options that a process is made with: a worker serves only tasks that agree in them."""


@dataclass(slots=True)
class Loan:
    """A worker and who has it."""

    worker: Resident
    borrower: str
    request: bytes
    """What it answered."""


class Loans:
    """Requests that wait are in the daemon's admission queue; here are the workers and who has them."""

    def __init__(self, head: Head) -> None:
        self._d = head
        self._asked: dict[str, m.LeaseWorker] = {}
        self._idle: list[Resident] = []
        self._loans: dict[ActorId, Loan] = {}

    def ask(self, msg: m.LeaseWorker) -> None:
        """Lend a worker as soon as there is room for what it shall run."""
        check_options(msg.options, actor=False)
        holder = new_hex()
        self._asked[holder] = msg
        self._d.book.put("asked", msg.request, (msg.peer, msg.options))
        try:
            wanted = Wanted(amounts(msg.options), where_of(msg.options), False, self._d.node_of(msg.peer))
            self._d.when_admitted(holder, wanted, lambda machine: self._lend(holder, machine))
        except ValueError as e:
            self._forget(holder)
            self._d.answer(msg.peer, msg.request, error="ValueError", text=str(e))

    def _forget(self, holder: str) -> m.LeaseWorker:
        msg = self._asked.pop(holder)
        self._d.book.drop("asked", msg.request)
        return msg

    def _lend(self, holder: str, machine: Machine) -> None:
        msg = self._forget(holder)
        worker = self._idle_worker(msg.options, machine)
        if worker is None:
            create = m.CreateActor(b"", new_actor_id(), "", "TaskWorker", {**msg.options, "detached": True}, (), b"")
            worker = self._d.residents.create(create, is_worker=True)
            worker.holder = holder
            self._d.residents.start(worker, machine)
        else:
            self._idle.remove(worker)
            worker.holder = holder
        self._loans[worker.actor] = Loan(worker, msg.peer, msg.request)
        self._d.residents.note(worker)
        self._d.book.put("loan", worker.actor, (msg.peer, msg.request))
        self._d.answer(msg.peer, msg.request, {"actor": worker.actor})

    def _idle_worker(self, options: dict[str, Any], machine: Machine) -> Resident | None:
        if options["num_gpus"] or _group_of(options):
            return None  # its process must be made with its GPUs, and ends with its group
        return next((w for w in self._idle if w.machine is machine and all(w.options[k] == options[k] for k in _SAME_PROCESS)), None)

    def give_back(self, msg: m.ReturnWorker) -> None:
        """A borrower is done with a worker, or withdraws a request. (If that crossed our answer, the worker comes back as well.)"""
        if msg.request:
            for holder, asked in list(self._asked.items()):
                if asked.request == msg.request:
                    self._withdraw(holder)
            return
        loan = self._loans.get(ActorId(msg.actor))
        if loan is not None and loan.borrower == msg.peer:
            self._free(loan)

    def _withdraw(self, holder: str) -> None:
        self._forget(holder)
        self._d.not_admitted(holder)

    def _free(self, loan: Loan) -> None:
        worker = loan.worker
        del self._loans[worker.actor]
        self._d.book.drop("loan", worker.actor)
        self._d.release(worker.holder)
        worker.holder = ""
        self._d.residents.note(worker)
        keep = int(self._d.totals.get("CPU", 0)) + KEEP_IDLE
        bound = worker.options["num_gpus"] or _group_of(worker.options)
        if bound or len(self._idle) >= keep or self._d.leaving(worker.machine) or worker.life.phase not in (Phase.READY, Phase.STARTING):
            self._d.stop(worker, "killed", graceful=False)
        else:
            self._idle.append(worker)
        self._d.admit()

    def refuse(self, holder: str) -> None:
        """A request that can never be met any more."""
        msg = self._asked.get(holder)
        if msg is not None:
            self._withdraw(holder)
            why = why_never(self._d.pools, amounts(msg.options), where_of(msg.options))
            self._d.answer(msg.peer, msg.request, error="PlacementError", text=f"a task {why}")

    def group_removed(self, group: str) -> None:
        """Who waits for room inside a placement group never gets any; workers lent there are ended with it."""
        for holder, msg in list(self._asked.items()):
            if _group_of(msg.options) == group:
                self._withdraw(holder)
                self._d.answer(msg.peer, msg.request, error="PlacementError", text=f"the placement group {group} was removed")
        for loan in list(self._loans.values()):
            if _group_of(loan.worker.options) == group:
                self._d.stop(loan.worker, "group", graceful=False)

    def end_idle(self, machine: Machine | None = None) -> None:
        """Nobody is there who might have tasks; or this machine takes none any more."""
        for worker in [w for w in self._idle if machine is None or w.machine is machine]:
            self._d.stop(worker, "killed", graceful=False)

    def on_gone(self, r: Resident) -> None:
        """A worker died."""
        self._loans.pop(r.actor, None)
        self._d.book.drop("loan", r.actor)
        if r in self._idle:
            self._idle.remove(r)

    def peer_died(self, peer: str) -> None:
        """A borrower is gone: what it had running has nobody to answer to."""
        for holder, msg in list(self._asked.items()):
            if msg.peer == peer:
                self._withdraw(holder)
        for loan in list(self._loans.values()):
            if loan.borrower == peer:
                self._d.stop(loan.worker, "owner", graceful=False)


    def adopt(self, loans: Mapping[Any, tuple[str, bytes]], asked: Mapping[Any, tuple[str, dict[str, Any]]]) -> None:
        """What an earlier head lent and was asked for. It says again to whom it lent what: its answer may be lost with it."""
        for worker in self._d.residents.by_id.values():
            if not worker.is_worker:
                continue
            loan = loans.get(worker.actor)
            if loan is not None:
                self._loans[worker.actor] = Loan(worker, *loan)
                self._d.answer(loan[0], loan[1], {"actor": worker.actor})
            elif worker.life.phase in (Phase.READY, Phase.STARTING):
                self._idle.append(worker)
        for request, (peer, options) in list(asked.items()):
            self.ask(m.LeaseWorker(bytes(request), peer, options))


def _group_of(options: dict[str, Any]) -> str:
    """The placement group it runs in; "" if in none."""
    strategy = where_of(options).strategy
    return strategy.group if isinstance(strategy, InGroup) else ""
