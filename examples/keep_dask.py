"""An array spread over Dask workers, kept as versions of one series: each worker writes its part, the client commits.

python examples/keep_dask.py file:///tmp/keep_dask
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

import pagescan


class Shard:
    """One worker's part of the array, tracked where it lies. A Dask actor."""

    def __init__(self, url: str, rank: int):
        self.weights = pagescan.zeros(1_000_000, dtype=np.float32)
        self.store = pagescan.open_store(url)
        self.series = self.store.series("training", part=f"rank{rank}", weights=self.weights)

    def train(self, step: int) -> None:
        self.weights[step * 1000 : step * 1000 + 100] += 1

    def prepare(self) -> pagescan.Prepared:
        return self.series.prepare()

    def settle(self) -> None:
        self.series.settle()

    def restore(self, version: int) -> int:
        return self.series.restore(version)


def keep(store: pagescan.Store, shards: list[Any], note: str = "") -> pagescan.Version:
    """One version of what all shards hold. If this raises, there is none, and what is due stays due."""
    parts = [future.result() for future in [shard.prepare() for shard in shards]]
    version = store.commit(parts, note)
    for future in [shard.settle() for shard in shards]:
        future.result()
    return version


def main(url: str) -> None:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        pagescan.open_store(url) as store,
    ):
        workers = sorted(client.scheduler_info()["workers"])
        shards = [
            client.submit(Shard, url, rank, actor=True, workers=[worker]).result()
            for rank, worker in enumerate(workers)
        ]
        for step in range(3):
            for future in [shard.train(step) for shard in shards]:
                future.result()
            version = keep(store, shards, note=f"step {step}")
            print(f"version {version.number}: {version.written_pages} pages of {len(version.buffers)} buffers")
        copied = [future.result() for future in [shard.restore(1) for shard in shards]]
        print(f"back to version 1: {copied} bytes copied on the workers")
        weights = store.read("training", 1)
        print({name: int(array.sum()) for name, array in weights.items()})


if __name__ == "__main__":
    main(sys.argv[1])
