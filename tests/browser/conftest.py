from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import (
    PhantomSegmenter,
    closing_event_loops,
    findings_spec,
    known_phantoms,
    tiny_resnet,
)
from patience import PATIENCE_SECONDS
from visitors import free_port

from cxrdemo.classifier import FindingClassifier
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import MaskingMode
from cxrdemo.specs import Estimate, OperatingPoint

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    # WebGL without a graphics card.
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from browser.tabs import DICOM, Site, Watched, served, upload  # noqa: E402  needs playwright


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    marks = [
        pytest.mark.browser,
        pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
        # Gradio's queue statistics use what pandas 4 will drop.
        pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning"),
    ]
    for item in items:
        if here in item.path.parents:
            for mark in marks:
                item.add_marker(mark)


@pytest.fixture(scope="package")
def site() -> Iterator[Site]:
    sync_api.expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    pipeline = Pipeline(
        PhantomSegmenter(known_phantoms()), {mode: _classifier(mode) for mode in MaskingMode}
    )
    with ExitStack() as stack:
        stack.enter_context(closing_event_loops())
        page, url = stack.enter_context(served(pipeline, free_port()))
        playwright = stack.enter_context(sync_api.sync_playwright())
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        stack.callback(browser.close)
        yield Site(url, page, pipeline, browser)


def _classifier(mode: MaskingMode) -> FindingClassifier:
    """A fake with two operating points, the second one never reached."""
    spec = findings_spec(mode)
    labels = tuple(
        replace(
            label,
            sensitivity=Estimate(0.7, 0.6, 0.8, 20),
            specificity=Estimate(0.6, 0.5, 0.7, 200),
            others=(OperatingPoint("high specificity", 0.999, "test"),),
        )
        for label in spec.labels
    )
    seed = list(MaskingMode).index(mode)
    return FindingClassifier(replace(spec, labels=labels), tiny_resnet(seed=seed))


@pytest.fixture
def watched(site: Site) -> Iterator[Watched]:
    with ExitStack() as stack:
        tabs = Watched(site, stack)
        yield tabs
        assert tabs.complaints == []
        assert tabs.went_out(local=(site.url,)) == []


@pytest.fixture
def tab(watched: Watched) -> Any:
    """A desktop tab with an image read to its end."""
    tab = watched.open()
    upload(tab, DICOM.read_bytes())
    return tab


@pytest.fixture
def look() -> Iterator[Callable[[Any, str], None]]:
    """Has axe look at a tab in a state; the test fails in the end by all that it found."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is missing"
    ).Axe()
    found = []

    def look(tab: Any, state: str) -> None:
        sync_api.expect(tab.locator("p.loading:visible")).to_have_count(0)
        # axe (4.12) reads `-webkit-text-fill-color`, which nothing is painted with there.
        is_forced = tab.evaluate("matchMedia('(forced-colors: active)').matches")
        options = {"rules": {"color-contrast": {"enabled": not is_forced}}}
        for violation in axe.run(tab, options=options).response["violations"]:
            nodes = [node["html"][:200] for node in violation["nodes"]]
            found.append((state, violation["id"], nodes))

    yield look
    assert found == [], found
