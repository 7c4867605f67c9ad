import tempfile
from pathlib import Path

import pytest
from mutations import KINDS, mutated, outcome

FINE = {"read", "UnreadableImageError", "UnsupportedImageError", "CheckpointError", "DataError"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_whole_file_is_read(kind: str) -> None:
    for data in KINDS[kind].seeds().values():
        with tempfile.TemporaryDirectory() as folder:
            KINDS[kind].read(data, Path(folder))


@pytest.mark.parametrize("first", range(0, 400, 50))
def test_broken_images_are_read_or_refused_in_words(first: int) -> None:
    assert {outcome("images", number) for number in range(first, first + 50)} <= FINE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "images"])
def test_what_else_is_broken_is_read_or_refused_in_words(kind: str) -> None:
    found = {outcome(kind, number) for number in range(150)}
    assert found <= FINE
    assert len(found) > 1  # not all is refused


def test_a_number_names_the_same_file() -> None:
    assert mutated("images", 7) == mutated("images", 7)
    assert len({mutated("images", number)[1] for number in range(50)}) > 45
