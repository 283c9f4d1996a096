"""Calls ahead: made in threads before their results are needed, a few at a time, with the results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def mapped_ahead(function: Callable[[T], U], items: Iterable[T], *, num_threads: int) -> Iterator[U]:
    """The results of a function of each item, in order; at most two calls per thread are ahead of their need."""
    with ThreadPoolExecutor(num_threads) as pool:
        coming: deque[Future[U]] = deque()
        try:
            for item in items:
                coming.append(pool.submit(function, item))
                if len(coming) > 2 * num_threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
