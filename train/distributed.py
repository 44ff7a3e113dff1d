"""The processes that train together: one, or as many as torchrun started (DistributedDataParallel)."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mcr_infer.errors import ConfigError

_PATIENCE = timedelta(hours=6)
"""How long the others wait for the first process: it decodes the archive once for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among those that train together."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Run the body in the first process, and only then in the others: they find what it made."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def agree(self, value: int) -> bool:
        """Tell whether every process has the same number."""
        mine = torch.tensor([value, -value], device=self.device)
        if self.size > 1:
            dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        return mine.tolist() == [value, -value]

    def total(self, value: Tensor) -> Tensor:
        """Sum a tensor over the processes, without gradients."""
        if self.size > 1:
            value = value.clone(memory_format=torch.contiguous_format)  # nccl takes no other
            dist.all_reduce(value)
        return value

    def gather(self, rows: Tensor) -> Tensor:
        """Stack the rows [N, ...] of all processes in rank order [size * N, ...]; gradients flow back to each owner."""
        return _Gather.apply(rows, self) if self.size > 1 else rows


@contextlib.contextmanager
def open_world(device: str) -> Iterator[World]:
    """Join the processes of torchrun, or be the only one; raises `ConfigError` where there is no GPU for this process."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    place = torch.device(device)
    if device == "cuda":
        local, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= found:
            raise ConfigError(
                f"run.device is 'cuda' and this process wants GPU {local}, but {found} are visible: start fewer "
                "processes (torchrun --nproc-per-node), or set run.device = 'cpu'"
            )
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if size == 1:
        yield World(rank=0, size=1, device=place)
        return
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield World(rank=rank, size=size, device=place)
    finally:
        dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """all_gather whose backward pass sums, for each row, the gradients of all processes (each used every row)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        ctx.world = world
        parts = [torch.empty_like(rows) for _ in range(world.size)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = ctx.world.total(gradients[0])
        count = len(total) // ctx.world.size
        return total[ctx.world.rank * count : (ctx.world.rank + 1) * count], None
