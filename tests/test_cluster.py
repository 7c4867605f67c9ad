"""`--ray`: the same work, by two worker processes of a local cluster."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import fake_pipeline
from test_analyse import draw, names_in, read

from cxrdemo.commands.cluster import share_out
from cxrdemo.commands.one_file import Job, is_finished
from cxrdemo.commands.places import find_inputs
from cxrdemo.errors import SettingError
from cxrdemo.results import ALL_MASKINGS, GRAD_CAM

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

HERE = Path(__file__).resolve().parent


@dataclass
class Marking:
    """Analyses as the fakes do, and leaves a file for each process that did."""

    folder: Path

    def __call__(self):
        analyse = fake_pipeline().analyse
        (self.folder / str(os.getpid())).touch()
        return analyse


@pytest.fixture
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    start = ray.init

    def patiently(**options):
        """Ray gives its node 30 s, which a busy machine may exceed."""
        for _ in range(4):
            try:
                return start(num_cpus=2, **options)
            except RuntimeError:
                ray.shutdown()
        return start(num_cpus=2, **options)

    monkeypatch.setattr(ray, "init", patiently)
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parent}{os.pathsep}{HERE}")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


@pytest.mark.usefixtures("_two_cores")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")
def test_two_workers_share_the_files_and_the_next_run_knows_what_is_done(tmp_path: Path) -> None:
    source, out, workers = tmp_path / "in", tmp_path / "out", tmp_path / "workers"
    workers.mkdir()
    for seed in range(6):
        draw(source / f"p{seed % 2}" / f"{seed}.png", seed)
    (source / "broken.png").write_bytes(b"broken")
    places = find_inputs([str(source)], out=out).places
    job = Job(out, ALL_MASKINGS, None, GRAD_CAM, frozenset({"json", "mask"}), settings="s")
    told: list[str] = []
    outcomes = share_out(
        "local",
        Marking(workers),
        job,
        places,
        uses_gpu=False,
        tell=lambda outcome: told.append(outcome.status) or outcome,
        should_stop=lambda: False,
    )
    assert sorted(told) == ["done"] * 6 + ["failed"]
    assert {outcome.place for outcome in outcomes} == set(places)
    assert len(names_in(workers)) == 2
    assert len(names_in(out)) == 6 * 2 + 1
    assert "maskings" in read(out / "p1" / "5.png.json")
    assert "error" in read(out / "broken.png.json")
    assert [is_finished(place, job) for place in places] == [False] + [True] * 6


def test_no_cluster_is_told_with_a_remedy(tmp_path: Path) -> None:
    job = Job(tmp_path, ALL_MASKINGS, None, GRAD_CAM, frozenset({"json"}), settings="s")
    with pytest.raises(SettingError, match="ray start --head"):
        share_out(
            "nonsense://nowhere",
            Marking(tmp_path),
            job,
            [],
            uses_gpu=False,
            tell=lambda outcome: outcome,
            should_stop=lambda: False,
        )


def test_a_local_cluster_that_does_not_start_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(address: str, **options):
        assert address == "local"
        raise RuntimeError("The node timed out.")

    monkeypatch.setattr(ray, "init", too_late)
    job = Job(tmp_path, ALL_MASKINGS, None, GRAD_CAM, frozenset({"json"}), settings="s")
    with pytest.raises(SettingError, match=r"did not start here .The node timed out"):
        share_out(
            "local",
            Marking(tmp_path),
            job,
            [],
            uses_gpu=False,
            tell=lambda outcome: outcome,
            should_stop=lambda: False,
        )
