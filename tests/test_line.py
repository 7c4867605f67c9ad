import threading
from collections.abc import Callable

import pytest

from cxrdemo.errors import BusyError
from cxrdemo.ui.line import Line, Place


def is_served(place: Place) -> bool:
    """Whether it is a place's turn, without waiting."""
    looks = iter([False])
    list(place.wait(lambda: next(looks, True)))  # looks once
    return place._line._served is place


def served_in_turn(line: Line, places: dict[str, Place]) -> list[str]:
    """Whose turn comes after whose, each leaving at once."""
    order = []
    left = dict(places)
    while left:
        (name,) = [name for name, place in left.items() if is_served(place)]
        order.append(name)
        left.pop(name).leave()
    return order


def test_visitors_are_served_in_the_order_in_which_they_asked() -> None:
    line = Line()
    places = {name: line.join(name) for name in "abc"}
    assert served_in_turn(line, places) == ["a", "b", "c"]


def test_nobody_is_served_twice_while_another_has_waited_since() -> None:
    """A batch of many files asks for its next place as soon as it has left the one before."""
    line, order = Line(), []
    batch = line.join("batch")
    visitors = {name: line.join(name) for name in ("early", "late")}
    for _ in range(3):
        assert is_served(batch) or not visitors or any(map(is_served, visitors.values()))
        batch.leave()
        batch = line.join("batch", again=True)
        for name, place in list(visitors.items()):
            if is_served(place):
                order.append(name)
                visitors.pop(name).leave()
        assert is_served(batch)
        order.append("batch")
    assert order[:3] == ["early", "late", "batch"]


def test_a_visitor_who_asks_for_much_does_not_push_back_the_others() -> None:
    line = Line()
    flood = {f"flood {i}": line.join("flood") for i in range(5)}
    one = line.join("one")
    order = served_in_turn(line, {**flood, "one": one})
    assert order.index("one") == 1
    assert [name for name in order if name != "one"] == list(flood)


def test_the_place_is_told_whenever_it_changes() -> None:
    line = Line()
    first, second, third = (line.join(name) for name in "abc")
    told: list[int] = []
    waits = third.wait()
    told.append(next(waits))
    first.leave()
    told.append(next(waits))
    second.leave()
    told.extend(waits)
    assert told == [2, 1]


def test_whoever_is_first_does_not_wait() -> None:
    assert list(Line().join("a").wait()) == []


@pytest.mark.parametrize("serve_first", [True, False])
def test_a_place_that_is_left_calls_the_next(serve_first: bool) -> None:
    line = Line()
    with line.join("a"):
        second, third = line.join("b"), line.join("c")
        if not serve_first:
            second.leave()
    if serve_first:
        assert is_served(second)
        second.leave()
    assert is_served(third)


def test_what_is_called_off_stops_waiting() -> None:
    line = Line()
    first = line.join("a")
    second = line.join("b")
    looks = iter([False, False, True])
    assert list(second.wait(lambda: next(looks))) == [1]
    second.leave()
    first.leave()
    assert not line.is_wanted


def test_a_full_line_sends_newcomers_away_but_nobody_half_done() -> None:
    line = Line(longest=2)
    served = line.join("a")
    for name in "bc":
        line.join(name)
    with pytest.raises(BusyError, match="2 others are waiting"):
        line.join("d")
    served.leave()
    line.join("d")
    line.join("a", again=True)


def test_a_closed_line_sends_everybody_away() -> None:
    line = Line()
    line.join("a")
    place, raised = line.join("b"), threading.Event()

    def wait() -> None:
        with pytest.raises(BusyError, match="stopped"):
            list(place.wait())
        raised.set()

    thread = in_thread(wait)
    line.close()
    thread.join(10)
    assert raised.is_set()
    with pytest.raises(BusyError, match="stopped"):
        line.join("c")


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
