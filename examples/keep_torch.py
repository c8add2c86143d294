"""Tensors spread over the ranks of torch.distributed, kept as versions of one series: rank 0 commits for all.

torchrun --nproc-per-node 2 examples/keep_torch.py file:///tmp/keep_torch
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist

import pagescan


def keep(store: pagescan.Store, series: pagescan.Series, note: str = "") -> int:
    """One version of what all ranks hold, by its number; every rank calls this. It raises on every rank, or on none."""
    mine: Any
    try:
        mine = series.prepare()
    except pagescan.PagescanError as error:  # the others wait for this rank: tell them
        mine = error
    parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(mine, parts)
    answer: list[Any] = [_commit(store, parts, note) if parts is not None else None]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    series.settle()
    return int(answer[0])


def _commit(store: pagescan.Store, parts: list[Any], note: str) -> int | Exception:
    try:
        for part in parts:
            if isinstance(part, Exception):
                raise part
        return store.commit(parts, note).number
    except pagescan.PagescanError as error:
        return error


def main(url: str) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    weights = torch.zeros(1_000_000)
    with pagescan.open_store(url) as store, store.series("training", part=f"rank{rank}", weights=weights) as series:
        for step in range(3):
            weights[step * 1000 : step * 1000 + 100] += 1 + rank
            number = keep(store, series, note=f"step {step}")
            if rank == 0:
                version = store.versions("training")[-1]
                print(f"version {number}: {version.written_pages} pages of {len(version.buffers)} buffers")
        series.restore(1)
        print(f"rank {rank} is back at version 1: the sum of its weights is {weights.sum():.0f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
