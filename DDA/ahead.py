"""Work that is prepared in threads while something else computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T, U = TypeVar("T"), TypeVar("U")


def prepared(
    function: Callable[[T], U], items: Iterable[T], *, threads: int, most: int | None = None
) -> Iterator[U]:
    """Yield ``function`` of each item, in order, computed in threads while the caller works.

    threads: with 0, each is computed when it is asked for. most: the most results that wait at the
    same time (default: two for each thread). An exception of ``function`` is raised in its item's
    place.

    Threads prepare, not processes: a process that forks while libraries run threads of their own
    may hang. The libraries that decode and degrade images let other threads run.
    """
    if not threads:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, "ahead")
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > (most or 2 * threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
