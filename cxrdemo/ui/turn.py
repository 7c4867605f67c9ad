"""Which of a visitor's wishes is the last one; what was asked for before it ends itself."""

from __future__ import annotations

import threading
from dataclasses import dataclass


class Turn:
    """Hands out a ticket when something is asked for.

    Whatever waits or computes with a ticket looks at it between two stages, so that Stop, Clear
    and another file hold from that moment on. Gradio's own `cancels` frees the queue while the
    thread still computes, and cannot end a run for the sake of another image (6.31).
    """

    def __init__(self) -> None:
        """Nothing was asked for yet."""
        self._number = 0
        self._lock = threading.Lock()

    def start(self) -> Ticket:
        """A ticket for something new; the ones before no longer stand."""
        with self._lock:
            self._number += 1
            return Ticket(self, self._number)

    def join(self) -> Ticket:
        """A ticket for a question about what is there; it stands as long as that does."""
        return Ticket(self, self._number)

    def end(self) -> None:
        """Calls off all that was asked for."""
        self.start()

    def stands(self, number: int) -> bool:
        """Whether nothing has ended what got this number."""
        return number == self._number


@dataclass(frozen=True)
class Ticket:
    """Handed out by a `Turn`."""

    turn: Turn
    number: int

    def is_off(self) -> bool:
        """Whether it was called off."""
        return not self.turn.stands(self.number)
