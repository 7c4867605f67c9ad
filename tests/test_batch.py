import csv
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import phantom_pipeline

from cxrdemo.errors import UnreadableImageError
from cxrdemo.labels import FINDINGS
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import Doubt, MaskingMode
from cxrdemo.ui import visit as visit_module
from cxrdemo.ui.batch import Batch
from cxrdemo.ui.line import Line
from cxrdemo.ui.models import Models

EXAMPLES = Path(visit_module.__file__).parent / "examples"
DICOM = (EXAMPLES / "synthetic-nodule.dcm").read_bytes()


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return phantom_pipeline()


@pytest.fixture
def batch(pipeline: Pipeline) -> Iterator[Batch]:
    batch = Batch(Models.of(pipeline), Line(), "tab")
    yield batch
    batch.clear()


def uploaded(tmp_path: Path, *files: tuple[str, bytes]) -> list[str]:
    paths = []
    for number, (name, content) in enumerate(files):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        paths.append(str(folder / name))
    return paths


def rows(batch: Batch) -> dict[str, dict]:
    return {row["name"]: dict(row) for row in batch.payload()["rows"]}


def records(batch: Batch) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(batch.csv().decode(), newline="")))


@pytest.mark.parametrize("at_once", [1, 2])
def test_every_file_is_read_and_the_bad_one_is_named(tmp_path: Path, at_once: int) -> None:
    batch = Batch(Models.of(phantom_pipeline(at_once=at_once)), Line(), "tab")
    paths = uploaded(tmp_path, ("=bad.png", b"junk" * 100), ("good.dcm", DICOM))
    assert batch.add(paths) == ""
    assert not any(Path(path).exists() for path in paths)
    *_, last = batch.read()
    assert last == "2 of 2 files read."
    table = rows(batch)
    assert list(table) == ["=bad.png", "good.dcm"]
    assert table["=bad.png"]["state"] == "failed"
    assert "Expected a chest X-ray" in table["=bad.png"]["remarks"]
    good = table["good.dcm"]
    assert good["state"] == "read"
    assert good["thumbnail"].startswith("data:image/png;base64,")
    assert set(good["maskings"]) == {"none", "loose", "tight"}
    bad, *found = records(batch)
    assert bad["file"] == "'=bad.png"
    assert bad["error"]
    assert len(found) == len(FINDINGS) * len(MaskingMode)
    assert {record["file"] for record in found} == {"good.dcm"}
    batch.clear()


def test_numbers_of_the_table_are_those_of_an_analysis(
    batch: Batch, pipeline: Pipeline, tmp_path: Path
) -> None:
    from cxrdemo.files import read_radiograph

    batch.add(uploaded(tmp_path, ("a.dcm", DICOM)))
    list(batch.read())
    analysis = pipeline.analyse(read_radiograph(DICOM))
    for mode, reading in analysis.readings.items():
        *cells, none = rows(batch)["a.dcm"]["maskings"][str(mode)]
        assert [cell["p"] for cell in cells] == reading.findings.probabilities.tolist()
        assert [cell["proven"] for cell in cells] == reading.findings.beats_chance.tolist()
        for index, cell in enumerate(cells):
            is_above = cell["p"] >= cell["points"][0]["threshold"]
            assert (is_above if cell["proven"] else None) == analysis.verdict(mode, index)
        assert none == {
            "p": reading.findings.no_finding,
            "proven": False,
            "ratio": None,
            "points": [],
        }


def test_files_are_kept_and_a_second_reading_does_not_lose_the_first(
    batch: Batch, tmp_path: Path
) -> None:
    batch.add(uploaded(tmp_path, ("a.dcm", DICOM)))
    list(batch.read())
    before = rows(batch)
    assert list(batch.read()) == ["1 of 1 files read."]
    assert rows(batch) == before
    # More files may be added to it, the same one too.
    more = tmp_path / "more"
    more.mkdir()
    batch.add(uploaded(more, ("b.dcm", DICOM), ("c.dcm", DICOM)))
    list(batch.read())
    table = rows(batch)
    assert [row["state"] for row in table.values()] == ["read"] * 3
    assert table["a.dcm"]["maskings"] == table["c.dcm"]["maskings"]


def test_numbers_of_a_doubtful_image_are_withheld_until_asked_for(
    monkeypatch: pytest.MonkeyPatch, batch: Batch, tmp_path: Path
) -> None:
    doubt = Doubt("inverted", "Bones are dark.")
    monkeypatch.setattr("cxrdemo.pipeline.check", lambda *_: (doubt,))
    batch.add(uploaded(tmp_path, ("inverted.dcm", DICOM)))
    list(batch.read())
    (row,) = rows(batch).values()
    assert (row["state"], row["maskings"]) == ("withheld", {})
    assert "Bones are dark" in row["remarks"]
    (record,) = records(batch)
    assert record["probability"] == ""
    assert "Bones are dark" in record["doubts"]
    batch.accept(row["id"])
    (shown,) = rows(batch).values()
    assert shown["state"] == "read"
    assert set(shown["maskings"]) == {"none", "loose", "tight"}
    assert not any(cell["proven"] for row in shown["maskings"].values() for cell in row)
    assert "Bones are dark" in shown["remarks"]
    assert all(record["probability"] and record["doubts"] for record in records(batch))


def test_others_are_served_after_each_file(pipeline: Pipeline, tmp_path: Path) -> None:
    """Two at a time where nobody waits; one, and then the other's turn, where somebody does."""
    line, order = Line(), []
    batch = Batch(Models.of(phantom_pipeline(at_once=2)), line, "batch")
    batch.add(uploaded(tmp_path, *((f"{n}.dcm", DICOM) for n in range(5))))
    reading = batch.read()
    served = threading.Thread(target=lambda: order.append(("visitor", len(read_of(batch)))))

    def read_of(batch: Batch) -> list[str]:
        with line.join("visitor") as place:
            list(place.wait())
            return [row["name"] for row in batch.payload()["rows"] if row["state"] == "read"]

    next(reading)  # two are read, and the place is given up
    served.start()
    list(reading)
    served.join(30)
    ((_, read_before),) = order
    assert read_before < 5
    batch.clear()


def test_a_batch_tells_its_place_and_stops_while_it_waits(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    line = Line()
    batch = Batch(Models.of(pipeline), line, "batch")
    batch.add(uploaded(tmp_path, ("a.dcm", DICOM)))
    with line.join("somebody else"):
        reading = batch.read()
        assert next(reading) == "0 of 1 files read. Waiting: 1 reading before yours."
        assert "Stopped" in batch.stop()
        assert list(reading) == []
    assert [row["state"] for row in batch.payload()["rows"]] == ["waiting"]
    list(batch.read())
    assert [row["state"] for row in batch.payload()["rows"]] == ["read"]
    batch.clear()


def test_stop_ends_after_the_file_that_is_being_read(batch: Batch, tmp_path: Path) -> None:
    batch.add(uploaded(tmp_path, *((f"{n}.dcm", DICOM) for n in range(3))))
    reading = batch.read()
    assert "left" in next(reading)
    batch.stop()
    assert list(reading) == []
    assert [row["state"] for row in batch.payload()["rows"]] == ["read", "waiting", "waiting"]


def test_the_number_of_files_is_bounded_and_the_rest_is_deleted(
    monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXRDEMO_MAX_BATCH", "2")
    batch = Batch(Models.of(pipeline), Line(), "tab")
    paths = uploaded(tmp_path, *((f"{n}.dcm", b"x") for n in range(5)))
    assert "3 files were not taken" in batch.add(paths)
    assert len(batch) == 2
    assert not any(Path(path).exists() for path in paths)
    batch.clear()


def test_a_cleared_list_leaves_no_file(batch: Batch, tmp_path: Path) -> None:
    batch.add(uploaded(tmp_path, ("a.dcm", DICOM)))
    folder = batch.folder
    batch.clear()
    assert not folder.exists()
    assert batch.payload()["rows"] == []


def test_arrows_go_through_the_list_in_the_order_shown(batch: Batch, tmp_path: Path) -> None:
    batch.add(uploaded(tmp_path, ("a", b"1"), ("b", b"2"), ("c", b"3")))
    ids = [row["id"] for row in batch.payload()["rows"]]
    batch.open(ids[0], [ids[2], ids[0], ids[1]])
    assert batch.place == (2, 3)
    assert batch.opened() == b"1"
    batch.step(-1)
    assert batch.opened() == b"3"
    batch.step(-1)  # there is none before
    assert batch.place == (1, 3)
    batch.clear()
    with pytest.raises(UnreadableImageError, match="no longer in the list"):
        batch.opened()


def test_a_csv_travels_in_the_answer_and_leaves_nothing_on_the_disk(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    batch.add(uploaded(tmp_path, ("a.dcm", b"junk")))
    list(batch.read())
    download = batch.payload(with_csv=True)["csv"]
    assert download["url"].startswith("data:text/csv")
    assert list(tmp_path.rglob("*.csv")) == []
