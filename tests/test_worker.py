import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cxrdemo.worker import in_worker


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
