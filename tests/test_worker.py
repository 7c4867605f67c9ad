import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from patience import PATIENCE_SECONDS

from cxrdemo.worker import in_worker, side_by_side


def test_whoever_asks_one_thread_answers() -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(in_worker, threading.get_ident) for _ in range(8)]
        answered = {job.result() for job in asked}
    assert answered == {in_worker(threading.get_ident)}
    assert threading.get_ident() not in answered


def test_the_worker_does_not_wait_for_itself() -> None:
    assert in_worker(lambda: in_worker(threading.get_ident)) == in_worker(threading.get_ident)


def test_what_is_raised_reaches_the_caller_and_the_worker_goes_on() -> None:
    with pytest.raises(ZeroDivisionError):
        in_worker(lambda: 1 // 0)
    assert in_worker(lambda: 1) == 1


def test_work_side_by_side_counts_as_the_workers_own() -> None:
    """It may ask anything of the worker, which waits for it, and share its work out again."""
    prepared = []

    def work(item: int) -> int:
        inner = side_by_side(lambda i: i + item, [1, 2], at_once=2, prepare=lambda: None)
        return in_worker(lambda: sum(inner))

    asked = ThreadPoolExecutor(1).submit(
        side_by_side, work, [0, 10, 20], at_once=2, prepare=lambda: prepared.append(1)
    )
    assert asked.result(timeout=PATIENCE_SECONDS) == [3, 23, 43]
    assert len(prepared) <= 2


def test_a_thread_that_helped_does_not_stay_a_worker() -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(in_worker, threading.get_ident).result()
        here, there = pool.submit(
            lambda: (threading.get_ident(), in_worker(threading.get_ident))
        ).result()
    assert here != there


# From Python 3.12 on a fork beside threads gives a warning: that is what is tried here.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_has_a_worker_of_its_own() -> None:
    here = in_worker(os.getpid)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        there = pool.apply_async(in_worker, (os.getpid,)).get(timeout=60)
    assert there != here
