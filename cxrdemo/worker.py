"""The one thread in which networks compute, whoever asks, and the threads it shares its work with.

So analyses queue, and PyTorch stays fast: its OpenMP library gives every thread that computes a
team of its own, and once the teams together outnumber the cores it lets none of them spin between
two layers. On two cores an analysis asked for by a second thread took a third longer.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_pool = ThreadPoolExecutor(1, thread_name_prefix="networks")
_here: Final = threading.local()
"""Has `computes` in a thread whose work is the worker's."""


def in_worker(work: Callable[[], Made]) -> Made:
    """Does some work in that thread, after all that was asked for before, and waits for it.

    Args:
        work: What to do; what the worker itself asks for, at any depth, is done at once.

    Returns:
        What the work returned; what it raised is raised here.
    """
    if getattr(_here, "computes", False):
        return work()
    return _pool.submit(_as_worker, work).result()


def side_by_side(
    work: Callable[[Item], Made],
    items: Sequence[Item],
    *,
    at_once: int,
    prepare: Callable[[], None],
) -> list[Made]:
    """Does some work on several items at a time while the worker waits.

    Args:
        work: What to do with an item, in a thread of its own. That thread counts as the worker:
            what it asks of `in_worker` it does itself.
        items: What to do it with. Until all are done nobody else gets an answer, so let them be
            few.
        at_once: How many threads.
        prepare: What each of them does first, such as to take a share of the cores.

    Returns:
        What the work returned, in the order of the items.
    """

    def begin() -> None:
        _here.computes = True
        prepare()

    def share() -> list[Made]:
        with ThreadPoolExecutor(at_once, initializer=begin) as pool:
            return list(pool.map(work, items))

    return in_worker(share)


def _begin_fork() -> None:
    """Gives a forked process a worker of its own: threads do not come along."""
    global _pool
    _pool = ThreadPoolExecutor(1, thread_name_prefix="networks")


os.register_at_fork(after_in_child=_begin_fork)


def _as_worker(work: Callable[[], Made]) -> Made:
    _here.computes = True
    return work()
