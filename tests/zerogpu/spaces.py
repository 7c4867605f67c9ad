"""Stands in for `spaces` on ZeroGPU: each call in a new fork, all that passes pickled.

Of what is raised there the caller learns the name alone, as from the real one.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import gradio as gr

_FORK = multiprocessing.get_context("fork")

forks: list[int] = []
"""Ids of the processes that have answered."""


def GPU(*, duration: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: N802
    assert duration > 0

    def decorate(task: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*args: Any) -> Any:
            here, there = _FORK.Pipe()
            process = _FORK.Process(target=_work, args=(task, there), daemon=True)
            process.start()
            there.close()
            here.send(args)
            try:
                is_good, answer = here.recv()
            except EOFError:
                is_good, answer = False, "GPU task aborted"
            process.join()
            forks.append(process.pid)
            if not is_good:
                raise gr.Error(answer)
            return answer

        return ask

    return decorate


def _work(task: Callable[..., Any], connection: Any) -> None:
    args = connection.recv()
    try:
        connection.send((True, task(*args)))
    except Exception as error:
        connection.send((False, type(error).__name__))
