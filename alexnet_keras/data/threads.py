"""Work on many images in threads of Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Found = TypeVar("Found")

#: images that a thread takes at a time: handing one over costs as much as reading a small one
SOME = 32


def in_threads(function: Callable[[int], Found], count: int, threads: int) -> Iterator[Found]:
    """`function` of 0 to `count - 1`, in this order, worked on by so many threads."""

    def some(first: int) -> list[Found]:
        return [function(index) for index in range(first, min(first + SOME, count))]

    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(some, range(0, count, SOME)):
            yield from found
