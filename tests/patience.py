"""How long a test waits for what must come, on a slow machine too: only a fault takes so long."""

import time
from collections.abc import Callable
from typing import Final

PATIENCE_SECONDS: Final = 240


def until(holds: Callable[[], bool]) -> bool:
    """Waits until something holds; False if it never does."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
