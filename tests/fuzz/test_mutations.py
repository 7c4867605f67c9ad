import pytest
from mutations import mutated, outcome, seeds

from cxrdemo.files import read_radiograph

FINE = {"read", "UnreadableImageError", "UnsupportedImageError"}


def test_every_whole_file_is_read() -> None:
    for name, data in seeds().items():
        assert read_radiograph(data).hw == (80, 72), name


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_broken_files_are_read_or_refused_in_words(first: int) -> None:
    assert {outcome(number) for number in range(first, first + 50)} <= FINE


def test_a_number_names_the_same_file() -> None:
    assert mutated(7) == mutated(7)
    assert len({mutated(number)[1] for number in range(50)}) > 45
