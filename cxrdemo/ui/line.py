"""The line in which visitors wait for the networks, each served in turn. Knows nothing of gradio.

Gradio's own queue cannot be used for this: it holds a generator's place to its end, so that a batch
makes everybody wait, and what waits in it can neither be told its place nor be called off.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

from cxrdemo.errors import BusyError

MAX_WAITING: Final = 32
"""Who comes when so many wait already is told to come back."""

_LOOK_SECONDS: Final = 0.25
"""How often somebody in the line looks whether the visitor has called it off."""


class Line:
    """Serves one place at a time, and nobody twice while another has waited since.

    Whoever comes back, such as a batch after each file, is put behind everybody whose visitor was
    served less often (start-time fair queueing with places of one size).
    """

    def __init__(self, longest: int = MAX_WAITING) -> None:
        """An empty line.

        Args:
            longest: How many may wait.
        """
        self._longest = longest
        self._changed = threading.Condition()
        self._waiting: list[Place] = []
        self._served: Place | None = None
        self._round = 0
        self._rounds: dict[str, int] = {}
        self._arrivals = itertools.count()
        self._is_closed = False

    def join(self, visitor: str, *, again: bool = False) -> Place:
        """Takes a place; leave it (`with`) whether it was served or not.

        Args:
            visitor: Whoever asks, such as the session's name.
            again: Whether more of the same work is asked for, which is not sent away half done.

        Raises:
            BusyError: If the line is full, or closed because the server ends.
        """
        with self._changed:
            if self._is_closed:
                raise BusyError("The server is being stopped; nothing more is read.")
            if len(self._waiting) >= self._longest and not again:
                raise BusyError(
                    f"The server is busy: {len(self._waiting)} others are waiting already. Try "
                    "again in a minute."
                )
            self._rounds = {name: at for name, at in self._rounds.items() if at >= self._round}
            at = max(self._round, self._rounds.get(visitor, -1) + 1)
            self._rounds[visitor] = at
            place = Place(self, (at, next(self._arrivals)))
            self._waiting.append(place)
            self._call()
            return place

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    def close(self) -> None:
        """Sends everybody away who waits, and whoever comes."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _call(self) -> None:
        """Calls the next one; the lock is held."""
        if self._served is None and self._waiting:
            self._served = min(self._waiting, key=lambda place: place.rank)
            self._waiting.remove(self._served)
            self._round = self._served.rank[0]
        self._changed.notify_all()

    def _ahead(self, place: Place) -> int:
        served = self._served is not None
        return served + sum(other.rank < place.rank for other in self._waiting)

    def _leave(self, place: Place) -> None:
        with self._changed:
            if place in self._waiting:
                self._waiting.remove(place)
            if self._served is place:
                self._served = None
            self._call()


class Place:
    """One place in a line."""

    def __init__(self, line: Line, rank: tuple[int, int]) -> None:
        """Made by `Line.join`.

        Args:
            line: The line.
            rank: Round and arrival; the lowest is served next.
        """
        self._line = line
        self.rank: Final = rank

    def wait(self, is_off: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Waits to be served.

        Args:
            is_off: Whether waiting has become pointless.

        Yields:
            How many are served before, whenever that has changed; nothing if it is this one's turn
            at once. Ends when it is, or when `is_off` says so.

        Raises:
            BusyError: If the line is closed meanwhile.
        """
        line, told = self._line, 0
        while not is_off():
            with line._changed:
                if line._is_closed:
                    raise BusyError("The server is being stopped; nothing more is read.")
                if line._served is self:
                    return
                ahead = line._ahead(self)
                if ahead == told:
                    line._changed.wait(_LOOK_SECONDS)
                    continue
            told = ahead
            yield ahead

    def leave(self) -> None:
        """Gives the place up; the next one is served."""
        self._line._leave(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
