"""How many threads a test computes with."""

import os


def threads() -> int:
    """A worker's share of two cores: under pytest-xdist, teams of threads slow each other."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    return max(1, min(2, os.cpu_count() or 1) // workers)
