"""`TorchGroup`: the collective calls of a group over `torch.distributed`: nccl for GPUs, or gloo.

Its connections are not encrypted, so its ranks are on one machine; `ActorGroup` is for several. Has what
`soma.actors.collective.Group` has. torch's errors about peers become GroupBrokenError. One in a process at a time, as torch has
it.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any, Self

from soma.errors import GroupBrokenError

NEVER = datetime.timedelta(days=365)
"""Ranks may compute as long as they want; a death is noticed by its connection."""


class Store:
    """The actor at whose TCP store the ranks of torch's groups meet."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        from torch.distributed import TCPStore

        self._host, self._store = host, TCPStore(host, 0, is_master=True, wait_for_workers=False)

    def address(self) -> tuple[str, int]:
        return self._host, self._store.port


class TorchGroup:
    """See the module. `address` is (host, port) of a TCP store."""

    def __init__(self, rank: int, size: int, backend: str, group: Any) -> None:
        self.rank, self.size, self.backend = rank, size, backend
        self._group = group
        self._broken = ""

    @classmethod
    def join(cls, address: tuple[str, int, str], rank: int, size: int, backend: str) -> TorchGroup:
        """Meet the others at `address`: host and port of the store, and a name that no other group there has.

        Raises:
            GroupBrokenError: they did not come.
        """
        import torch.distributed as dist

        host, port, name = address
        try:
            store = dist.PrefixStore(name, dist.TCPStore(host, port, is_master=False, wait_for_workers=False))
            if dist.is_initialized():
                dist.destroy_process_group()
            with _interface(host):
                dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=NEVER)
        except RuntimeError as e:
            raise GroupBrokenError(f"rank {rank} met nobody at {host}:{port}: {e}") from e
        return cls(rank, size, backend, dist.group.WORLD)

    def all_reduce(self, array: Any, op: str = "sum", *, check: bool = False) -> bool:
        """As `Group.all_reduce`."""
        import torch
        import torch.distributed as dist

        ops = {"sum": dist.ReduceOp.SUM, "mean": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
        if op not in ops:
            raise ValueError(f"op={op!r}: one of {', '.join(ops)}")
        tensor = self._tensor(array)
        if op == "mean" and not tensor.is_floating_point():
            raise ValueError(f"op='mean' of {tensor.dtype} is no whole number: reduce a float array, or use op='sum'")
        with self._call("all_reduce"):
            dist.all_reduce(tensor, ops[op], group=self._group)
        if op == "mean":
            tensor /= self.size
        self._give_back(array, tensor)
        return not check or not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())

    def broadcast(self, array: Any, root: int = 0) -> None:
        import torch.distributed as dist

        tensor = self._tensor(array)
        with self._call("broadcast"):
            dist.broadcast(tensor, root, group=self._group)
        self._give_back(array, tensor)

    def all_gather(self, array: Any) -> Any:
        """As `Group.all_gather`: an array, shape (size, *array.shape)."""
        import torch
        import torch.distributed as dist

        own = self._tensor(array)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        with self._call("all_gather"):
            dist.all_gather(rows, own, group=self._group)
        return torch.stack(rows).cpu().numpy()

    def reduce_scatter(self, array: Any, op: str = "sum") -> Any:
        """As `Group.reduce_scatter`."""
        whole = self._tensor(array).clone()
        self.all_reduce(whole, op)
        return whole.reshape(-1).tensor_split(self.size)[self.rank].cpu().numpy()

    def barrier(self) -> None:
        import torch.distributed as dist

        with self._call("barrier"):
            dist.barrier(group=self._group)

    def abort(self, why: str) -> None:
        """Leave; the others' next call fails."""
        self._broken = self._broken or why
        self.close()

    def close(self) -> None:
        import torch.distributed as dist

        if self._group is not None:
            self._group = None
            with contextlib.suppress(RuntimeError):  # its peers are gone already
                dist.destroy_process_group()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close()

    def _tensor(self, array: Any) -> Any:
        import torch

        tensor = torch.as_tensor(array).detach()
        return tensor.cuda() if self.backend == "nccl" and tensor.device.type == "cpu" else tensor

    def _give_back(self, array: Any, tensor: Any) -> None:
        """What was moved to a GPU for the call comes back in place."""
        import torch

        if tensor.device != torch.as_tensor(array).device:
            torch.as_tensor(array).detach().copy_(tensor)

    @contextlib.contextmanager
    def _call(self, what: str) -> Iterator[None]:
        if self._group is None:
            raise GroupBrokenError(self._broken or f"rank {self.rank} has left the group")
        try:
            yield
        except RuntimeError as e:
            self.abort(f"{what} cannot finish: {e}")
            raise GroupBrokenError(f"a rank is gone; {what} cannot finish: {str(e).splitlines()[0]}") from e


@contextlib.contextmanager
def _interface(host: str) -> Iterator[None]:
    """gloo looks up this machine's name to find an address; on one machine it is to use the loopback."""
    import os

    if host not in ("127.0.0.1", "localhost") or "GLOO_SOCKET_IFNAME" in os.environ:
        yield
        return
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        yield
    finally:
        del os.environ["GLOO_SOCKET_IFNAME"]
