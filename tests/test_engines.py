import csv
import json
import locale
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BUNDLED
from fakes import TinyEncoder, all_of, noise_radiograph, tiny_classifier
from patience import PATIENCE_SECONDS

from benchmarks.setting import PlainNetworks
from cxrdemo import devices, engines
from cxrdemo.engines import Engine, cache_folder, compile_part, usable_engine
from cxrdemo.files import read_radiograph
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import Analysis, MaskingMode

needs_openvino = pytest.mark.skipif(
    "openvino" not in {d.name for d in metadata.distributions()},
    reason="openvino is not installed: pip install -r benchmarks/requirements.txt",
)

MIN_IOU = 0.995
MAX_CHANGE = 0.005
"""Of a probability."""


def assert_same_findings(plain: Analysis, fast: Analysis) -> None:
    """The accuracy that every fast path has to keep."""
    assert plain.lungs is not None
    assert fast.lungs is not None
    one, other = plain.lungs.inside, fast.lungs.inside
    assert (one & other).sum() / (one | other).sum() >= MIN_IOU
    for mode, reading in plain.readings.items():
        before, after = reading.findings, fast.readings[mode].findings
        assert np.abs(before.probabilities - after.probabilities).max() <= MAX_CHANGE
        np.testing.assert_array_equal(before.above, after.above)


def assert_same_results(plain: Analysis, fast: Analysis) -> None:
    """The accuracy of a fast path in fp32."""
    assert_same_findings(plain, fast)
    for mode, reading in plain.readings.items():
        after, before = (
            np.array([place.in_lungs for place in one.places], float)
            for one in (fast.readings[mode], reading)
        )
        np.testing.assert_allclose(after, before, atol=0.02, equal_nan=True)


def assert_same_heat_as_shown(plain: Analysis, fast: Analysis) -> None:
    """Compared as it is shown, against the peak: the share of a faint map means nothing."""
    for mode, reading in plain.readings.items():
        for index, heat in enumerate(reading.saliency):
            other_heat = fast.readings[mode].saliency[index]
            assert np.abs(heat.grid - other_heat.grid).max() <= 0.03 * plain.peak
            if heat.peak > 0.05 * plain.peak:
                shares = (r.readings[mode].places[index].in_lungs for r in (plain, fast))
                assert np.ptp(list(shares)) <= 0.02


@pytest.fixture(scope="module")
def plain(bundled_pipeline: Pipeline) -> Callable[[Path], Analysis]:
    """What the bundled networks give for an image with PyTorch in fp32; each is computed once."""
    return cache(lambda path: bundled_pipeline.analyse(read_radiograph(path)))


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the networks lie that OpenVINO was given: as in a user's cache, once for all tests."""
    return tmp_path_factory.mktemp("converted")


def real_images(data_folder: Path) -> list[Path]:
    """The first test image of each lung set, and the one DICOM file."""
    with (data_folder / "lungs" / "index.csv").open(newline="") as stream:
        tests = [case for case in csv.DictReader(stream) if case["split"] == "test"]
    names = {case["set"]: case["name"] for case in reversed(tests)}.values()
    images = [next((data_folder / "lungs" / "images").glob(f"{name}.*")) for name in names]
    dicoms = [p for p in (data_folder / "dicom").iterdir() if p.suffix == ".dcm"]
    return [*images, *dicoms]


def edge_sensitive_images(data_folder: Path) -> list[Path]:
    """Test images on which masks or first stages in bf16 moved a probability by 0.007 to 0.067."""
    names = ("00001153_004", "00001362_001", "00019395_010", "00000467_010", "00029826_000")
    return [data_folder / "nih" / "images" / f"{name}.jpg" for name in names]


def test_pytorch_is_always_usable() -> None:
    assert usable_engine("torch", "cuda") == ("torch", "")


def test_a_missing_openvino_is_told_in_every_analysis(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(_: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(engines, "version", absent)
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": 1, "checkpoints": []}))
    pipeline = Pipeline.from_checkpoints(tmp_path, engine="openvino")
    analysis = pipeline.analyse(noise_radiograph())
    assert any("openvino is not installed" in warning for warning in analysis.warnings)


def test_openvino_leaves_the_gpu_to_pytorch() -> None:
    engine, reason = usable_engine("openvino", "cuda")
    assert engine == "torch"
    assert "CPU alone" in reason


def test_converted_networks_go_where_caches_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/cxrdemo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "cxrdemo"


@needs_openvino
def test_a_compiled_part_computes_the_same_and_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = TinyEncoder().eval().requires_grad_(False)
    run = compile_part(network, network, shapes=[(1, 3, 64, 64)], key="tiny", folder=tmp_path)
    image = torch.rand(1, 3, 64, 64)
    expected = network(image)
    torch.testing.assert_close(run(image), expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(engines, "_convert", lambda *_: pytest.fail("converted again"))
    again = compile_part(network, network, shapes=[(1, 3, 64, 64)], key="tiny", folder=tmp_path)
    torch.testing.assert_close(again(image), expected, rtol=1e-4, atol=1e-5)


@needs_openvino
def test_parts_compiled_at_once_leave_the_process_its_locale(tmp_path: Path) -> None:
    before = locale.setlocale(locale.LC_ALL)
    networks = [TinyEncoder().eval().requires_grad_(False) for _ in range(4)]

    def compiled(number: int) -> None:
        network = networks[number % 4]
        key = f"tiny-{number % 4}"
        compile_part(network, network, shapes=[(1, 3, 64, 64)], key=key, folder=tmp_path)

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(compiled, range(40)))
        assert locale.setlocale(locale.LC_ALL) == before
    finally:
        locale.setlocale(locale.LC_ALL, before)


@needs_openvino
def test_each_precision_is_compiled_for_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TinyEncoder().eval().requires_grad_(False)
    image = torch.rand(1, 3, 64, 64)
    for precision in ("fp32", "bf16", "fp32", "bf16"):
        run = compile_part(
            network,
            network,
            shapes=[(1, 3, 64, 64)],
            key="tiny",
            precision=precision,
            folder=tmp_path,
        )
        torch.testing.assert_close(run(image), network(image), rtol=0.05, atol=0.05)
    compiled = {path.parent.name for path in tmp_path.rglob("*.blob")}
    assert compiled == {"fp32", "bf16"}


@needs_openvino
def test_other_weights_are_converted_anew(tmp_path: Path) -> None:
    image = torch.rand(1, 3, 64, 64)
    for seed in range(2):
        torch.manual_seed(seed)
        network = TinyEncoder().eval().requires_grad_(False)
        run = compile_part(
            network, network, shapes=[(1, 3, 64, 64)], key=f"tiny-{seed}", folder=tmp_path
        )
        torch.testing.assert_close(run(image), network(image), rtol=1e-4, atol=1e-5)


@needs_openvino
def test_a_signal_after_compiled_parts_are_gone_does_no_harm(tmp_path: Path) -> None:
    program = f"""
import gc, os, signal, torch
from pathlib import Path
from cxrdemo.engines import compile_part
network = torch.nn.Conv2d(3, 4, 3).eval().requires_grad_(False)
parts = [
    compile_part(network, network, shapes=[(1, 3, 64, 64)], key="k", folder=Path({str(tmp_path)!r}))
    for _ in range(2)
]
while parts:
    parts.pop(0)(torch.zeros(1, 3, 64, 64))
    gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    command = [sys.executable, "-X", "faulthandler", "-c", program]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert (ended.returncode, ended.stdout) == (0, "heard\n"), ended.stderr


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on hardware that has it; elsewhere the same numbers come more slowly."""
    monkeypatch.setattr(devices, "has_bf16", lambda device: True)


@pytest.mark.usefixtures("with_bf16")
@pytest.mark.parametrize("engine", ["torch", pytest.param("openvino", marks=needs_openvino)])
def test_the_fastest_precision_gives_the_same_results_on_real_images(
    engine: Engine, plain: Callable[[Path], Analysis], data_folder: Path, converted: Path
) -> None:
    fast = Pipeline.from_checkpoints(BUNDLED, precision="auto", engine=engine, cache=converted)
    paths = real_images(data_folder) + edge_sensitive_images(data_folder)
    for path in paths:
        analyses = plain(path), fast.analyse(read_radiograph(path))
        assert [use.precision for use in analyses[1].checkpoints] == ["fp32", *["bf16"] * 3]
        assert_same_findings(*analyses)
        assert_same_heat_as_shown(*analyses)


@needs_openvino
def test_openvino_gives_the_same_results_on_real_images(
    plain: Callable[[Path], Analysis], data_folder: Path, converted: Path
) -> None:
    fast = Pipeline.from_checkpoints(BUNDLED, engine="openvino", cache=converted)
    for path in real_images(data_folder):
        assert_same_results(plain(path), fast.analyse(read_radiograph(path)))


def test_the_plain_way_gives_the_same_results_on_real_images(
    bundled_pipeline: Pipeline, plain: Callable[[Path], Analysis], data_folder: Path
) -> None:
    """What the benchmark calls the plain way: eager modules, masks measured at native size."""
    networks = PlainNetworks.load(BUNDLED)
    for path in real_images(data_folder):
        radiograph = read_radiograph(path)
        fast = plain(path)
        assert fast.lungs is not None
        lungs = networks.lungs(radiograph.pixels)
        assert (lungs & fast.lungs.inside).sum() / (lungs | fast.lungs.inside).sum() >= MIN_IOU
        regions = networks.kept(lungs)
        inputs = networks.as_inputs(networks.masked(radiograph.pixels, lungs))
        for mode in MaskingMode:
            logits = networks.logits(mode, inputs[mode], regions[mode])
            spec = bundled_pipeline.classifier_spec(mode)
            assert spec is not None
            scale, offset, threshold = np.array(
                [(label.scale, label.offset, label.threshold) for label in spec.labels]
            ).T
            expected = 1 / (1 + np.exp(-(scale * logits + offset)))
            found = fast.readings[mode].findings
            assert np.abs(found.probabilities - expected).max() <= MAX_CHANGE
            np.testing.assert_array_equal(found.above, expected >= threshold)


def test_a_part_run_elsewhere_is_what_the_classifier_uses() -> None:
    plain = tiny_classifier(MaskingMode.NONE)
    doubled = type(plain)(
        plain.spec, plain.network, later=lambda features: 2 * plain._later(features)
    )
    pixels = noise_radiograph().pixels
    _, once = plain.classify(pixels, all_of(pixels))
    _, twice = doubled.classify(pixels, all_of(pixels))
    torch.testing.assert_close(twice.activations, 2 * once.activations)


def test_the_page_needs_no_pytorch_of_its_own() -> None:
    code = "import sys, cxrdemo.ui.page, cxrdemo.ui.serve; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=BUNDLED.parent).returncode == 0
