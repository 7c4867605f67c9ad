"""`cxrdemo analyse --ray`: the same work on each file, by worker processes of a Ray cluster.

Each worker loads the weights once and writes the results of its files itself, so inputs, results
and checkpoints must lie under the same path on every machine. Only outcomes travel.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from cxrdemo.commands.one_file import Analyse, Job, Outcome, do_file
from cxrdemo.commands.places import Place
from cxrdemo.errors import SettingError

LOCAL: Final = "local"
_IN_HAND: Final = 2
"""Files that a worker is given at a time, so that it never waits for the next."""

Make = Callable[[], Analyse]


class Worker:
    """One process of the cluster."""

    def __init__(self, make: Make, job: Job) -> None:
        """Loads the weights.

        Args:
            make: Gives what analyses a radiograph.
            job: What is done with every file.
        """
        self._analyse, self._job = make(), job

    def do(self, place: Place) -> Outcome:
        """Reads, analyses and writes one file."""
        return do_file(self._analyse, place, self._job)


def share_out(
    address: str,
    make: Make,
    job: Job,
    places: Sequence[Place],
    *,
    uses_gpu: bool,
    tell: Callable[[Outcome], Outcome],
    should_stop: Callable[[], bool],
) -> list[Outcome]:
    """Does files on a cluster, one worker for each of its cores, or GPUs.

    A worker that dies is started anew and its files are given out again; results are written whole
    or not at all, so nothing is left half done.

    Args:
        address: Of the cluster; "auto" for the one of this environment, "local" for one of this
            machine's cores, which ends with the run.
        make: Gives what analyses a radiograph; called once in each worker.
        job: What is done with every file.
        places: The files.
        uses_gpu: Whether a worker needs a GPU of its own.
        tell: Called with each outcome, in the order in which they come.
        should_stop: Whether to give out no further file.

    Raises:
        SettingError: If Ray is not installed, there is no such cluster, or it has no GPU.
    """
    ray = _connected(address)
    try:
        kind = "GPU" if uses_gpu else "CPU"
        count = min(int(ray.cluster_resources().get(kind, 0)), len(places))
        if count < 1:
            raise SettingError(f"The Ray cluster has no {kind} for a worker.")
        needs = {"num_cpus": 1, "num_gpus": 1 if uses_gpu else 0}
        remote = ray.remote(**needs, max_restarts=-1, max_task_retries=2)(Worker)
        shared = ray.put(job)
        workers = [remote.remote(make, shared) for _ in range(count)]
        return _all_done(ray, workers, places, tell, should_stop)
    finally:
        ray.shutdown()


def _all_done(
    ray: Any,
    workers: Sequence[Any],
    places: Sequence[Place],
    tell: Callable[[Outcome], Outcome],
    should_stop: Callable[[], bool],
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    waiting = list(reversed(places))
    in_hand: dict[Any, tuple[Any, Place]] = {}

    def give_to(worker: Any) -> None:
        if waiting and not should_stop():
            place = waiting.pop()
            in_hand[worker.do.remote(place)] = (worker, place)

    for worker in [*workers] * _IN_HAND:
        give_to(worker)
    while in_hand:
        done, _ = ray.wait(list(in_hand), num_returns=1, timeout=1)
        for ticket in done:
            worker, place = in_hand.pop(ticket)
            try:
                outcome = ray.get(ticket)
            except ray.exceptions.RayError as error:
                reason = f"Its worker failed ({type(error).__name__}). Run the command again."
                outcome = Outcome(place, "failed", reason=reason)
            outcomes.append(tell(outcome))
            give_to(worker)
    return outcomes


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise SettingError("--ray needs Ray: in the clone, give `pip install '.[ray]'`.") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    # Without an address Ray would join whatever cluster runs, or ran, on this machine.
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, **options, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        if address == LOCAL:
            raise SettingError(
                f"Ray did not start here ({error}). Run the command again, or leave out --ray."
            ) from error
        raise SettingError(
            f"There is no Ray cluster at {address!r}. Start one with `ray start --head`, or use "
            "--ray local."
        ) from error
    return ray
