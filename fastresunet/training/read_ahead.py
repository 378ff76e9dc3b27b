"""Read files while the network computes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Source = TypeVar("Source")
Item = TypeVar("Item")
MOST_THREADS = 8


def read_ahead(sources: Iterable[Source], read: Callable[[Source], Item], ahead: int) -> Iterator[Item]:
    """Yield ``read(source)`` for each source in order, while threads read the next ones.

    Threads are enough: the decoders of images let other threads run.

    Args:
        sources: what to read, for example paths.
        read: reads one of them.
        ahead: how many are read, or have been, before they are asked for; this bounds the memory.

    Raises:
        Exception: whatever ``read`` raises, when its item's turn comes.
    """
    rest = iter(sources)
    waiting: deque[Future[Item]] = deque()
    with ThreadPoolExecutor(min(ahead, MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            waiting.extend(pool.submit(read, source) for source in islice(rest, ahead))
            while waiting:
                item = waiting.popleft().result()
                waiting.extend(pool.submit(read, source) for source in islice(rest, 1))
                yield item
        finally:
            for future in waiting:
                future.cancel()


def batches(items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """Yield lists of ``batch_size`` items, the last one shorter; items read before a failure come out before it.

    Args:
        items: what to collect.
        batch_size: items in a list.

    Raises:
        Exception: whatever ``items`` raises, after a list of what came before.
    """
    batch: list[Item] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == batch_size:
                yield batch
                batch = []
    except Exception:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
