"""The one thread in which networks compute, whoever asks.

So analyses queue, and PyTorch stays fast: its OpenMP library gives every thread that computes a
team of its own, and once the teams together outnumber the cores it lets none of them spin between
two layers. On two cores an analysis asked for by a second thread took a third longer.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

Made = TypeVar("Made")

_NAME: Final = "networks"

_pool: Final = ThreadPoolExecutor(1, thread_name_prefix=_NAME)


def in_worker(work: Callable[[], Made]) -> Made:
    """Does some work in that thread, after all that was asked for before, and waits for it.

    Args:
        work: What to do; work of the worker itself is done at once.

    Returns:
        What the work returned; what it raised is raised here.
    """
    if threading.current_thread().name.startswith(_NAME):
        return work()
    return _pool.submit(work).result()
