"""The short run of `make load`, over fakes."""

import pytest
from fakes import closing_event_loops, phantom_pipeline
from load import Report, put_under_load, same, served

from cxrdemo.phantom import make_phantom
from cxrdemo.rendering import encode_png, grey

pytestmark = [
    pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def test_every_visitor_gets_the_answer_of_a_visitor_alone() -> None:
    files = [
        encode_png(grey(make_phantom(seed=seed, hw=(400, 360)).radiograph)) for seed in (1, 2, 3)
    ]
    with closing_event_loops(), served(phantom_pipeline(at_once=2), files) as site:
        report = put_under_load(site, clients=5, seconds=120, rounds=2)
    assert report.wrong == []
    assert report.failed == []
    assert report.answered == dict.fromkeys(range(5), 2)
    assert site.visits.line.is_wanted is False


def test_a_wrong_answer_would_be_noticed() -> None:
    right = {"none": [0.1, 0.2]}
    assert same(right, right)
    assert not same({"none": [0.1, 0.3]}, right)
    assert not same({}, right)
    report = Report(wrong=["client 1"])
    assert "wrong: 1" in next(report.words())
