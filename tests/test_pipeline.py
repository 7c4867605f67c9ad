from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import (
    LUNGS_SPEC,
    BlindSegmenter,
    EllipseSegmenter,
    TinyEncoder,
    fake_pipeline,
    findings_spec,
    noise_radiograph,
    tiny_classifier,
    tiny_resnet,
    tiny_segmenter,
    with_pixels,
)
from safetensors.torch import save_file

from cxrdemo import backbones, sam
from cxrdemo.checkpoints import CheckpointStore, file_sha256
from cxrdemo.devices import HALF, Precision
from cxrdemo.errors import CheckpointError, NoLungsFoundError, PromptError
from cxrdemo.export import analysis_to_json
from cxrdemo.gate import check
from cxrdemo.inputs import KEPT_MEAN
from cxrdemo.lungs import Stroke, paint
from cxrdemo.phantom import Phantom
from cxrdemo.pipeline import CLICK_RADIUS, Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import METHODS, Analysis, MaskingMode, Side
from cxrdemo.segmenter import LungSegmenter


def numbers(analysis: Analysis) -> dict:
    """All that must not depend on time."""
    record = analysis_to_json(analysis)
    del record["seconds"], record["date"]
    return record


def test_every_masking_is_read_by_its_own_weights(pipeline: Pipeline, phantom: Phantom) -> None:
    analysis = pipeline.analyse(phantom.radiograph)
    assert list(analysis.readings) == list(MaskingMode)
    for mode, reading in analysis.readings.items():
        assert reading.mode is reading.findings.mode is mode
    logits = [reading.findings.logits for reading in analysis.readings.values()]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    assert np.abs(logits[1] - logits[2]).max() > 1e-3
    names = [use.name for use in analysis.checkpoints]
    assert names == [LUNGS_SPEC.name, *(findings_spec(mode).name for mode in MaskingMode)]


def test_kept_regions_are_nested(pipeline: Pipeline, phantom: Phantom) -> None:
    readings = pipeline.analyse(phantom.radiograph).readings
    none, loose, tight = (readings[mode].kept for mode in MaskingMode)
    assert none.all()
    assert (tight <= loose).all()
    assert 0 < tight.sum() < loose.sum() < none.sum()


def test_only_the_maskings_asked_for_are_read(pipeline: Pipeline, phantom: Phantom) -> None:
    analysis = pipeline.analyse(phantom.radiograph, maskings=[MaskingMode.TIGHT])
    assert list(analysis.readings) == [MaskingMode.TIGHT]


def test_a_masking_gives_the_same_numbers_alone_as_with_the_others(
    pipeline: Pipeline, phantom: Phantom
) -> None:
    together = pipeline.analyse(phantom.radiograph).readings[MaskingMode.LOOSE]
    alone = pipeline.analyse(phantom.radiograph, maskings=[MaskingMode.LOOSE])
    np.testing.assert_array_equal(
        together.findings.logits, alone.readings[MaskingMode.LOOSE].findings.logits
    )


def test_the_margin_moves_loose_alone(pipeline: Pipeline, phantom: Phantom) -> None:
    narrow = pipeline.analyse(phantom.radiograph, margin=0.03).readings
    wide = pipeline.analyse(phantom.radiograph, margin=0.18).readings
    for mode in MaskingMode:
        same = np.array_equal(narrow[mode].findings.logits, wide[mode].findings.logits)
        assert same is (mode is not MaskingMode.LOOSE)
    assert narrow[MaskingMode.LOOSE].margin == 0.03


def test_a_margin_outside_the_trained_range_is_said(pipeline: Pipeline, phantom: Phantom) -> None:
    assert not pipeline.analyse(phantom.radiograph, margin=0.2).warnings
    warnings = pipeline.analyse(phantom.radiograph, margin=0.3).warnings
    assert "outside the 2% to 20% seen in training" in warnings[0]


def test_without_lungs_only_none_is_read_and_the_rest_is_said(phantom: Phantom) -> None:
    analysis = fake_pipeline(BlindSegmenter()).analyse(phantom.radiograph)
    assert analysis.lungs is None
    assert list(analysis.readings) == [MaskingMode.NONE]
    text = " ".join(analysis.warnings)
    assert "No lung was found" in text
    assert "'loose' was left out" in text
    assert "'tight' was left out" in text


def test_without_lungs_a_masking_asked_for_alone_is_an_error(phantom: Phantom) -> None:
    with pytest.raises(NoLungsFoundError, match="cannot be masked"):
        fake_pipeline(BlindSegmenter()).analyse(phantom.radiograph, maskings=[MaskingMode.TIGHT])


def test_without_checkpoints_no_finding_is_shown_and_it_is_said(
    tmp_path: Path, phantom: Phantom
) -> None:
    CheckpointStore(tmp_path, ()).save()
    empty = Pipeline.from_checkpoints(tmp_path)
    assert not empty.is_complete
    analysis = empty.analyse(phantom.radiograph)
    assert analysis.lungs is None
    assert not analysis.readings
    assert not analysis.checkpoints
    unread = "No classifier for masking 'none', 'loose', 'tight' is installed: no finding is shown."
    assert unread in analysis.warnings
    assert any("No lung segmenter is installed" in warning for warning in analysis.warnings)


def test_asking_for_no_masking_is_a_mistake(pipeline: Pipeline, phantom: Phantom) -> None:
    with pytest.raises(ValueError, match="at least one masking"):
        pipeline.analyse(phantom.radiograph, maskings=[])


@pytest.mark.parametrize("method", METHODS)
def test_the_method_changes_the_maps_and_nothing_else(
    pipeline: Pipeline, phantom: Phantom, method: str
) -> None:
    plain = pipeline.analyse(phantom.radiograph).readings[MaskingMode.NONE]
    other = pipeline.analyse(phantom.radiograph, method=method).readings[MaskingMode.NONE]
    np.testing.assert_array_equal(plain.findings.logits, other.findings.logits)
    assert {heat.method for heat in other.saliency} == {method}


def test_threads_give_what_one_after_the_other_gives(pipeline: Pipeline) -> None:
    images = [noise_radiograph(seed=seed) for seed in range(4)]
    methods = ["Grad-CAM", "Grad-CAM++", "Grad-CAM", "HiResCAM"]
    alone = [numbers(pipeline.analyse(i, method=m)) for i, m in zip(images, methods, strict=True)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(pipeline.analyse, i, method=m)
            for i, m in zip(images * 3, methods * 3, strict=True)
        ]
        together = [numbers(job.result()) for job in jobs]
    assert together == alone * 3


def test_side_by_side_gives_what_one_after_the_other_gives() -> None:
    alone = fake_pipeline()
    pipeline = Pipeline(alone._segmenter, alone._classifiers, at_once=2)
    images = [noise_radiograph(seed=seed) for seed in range(5)]
    before = torch.get_num_threads()
    shares = []

    def work(image: Radiograph) -> Analysis:
        shares.append(torch.get_num_threads())
        pipeline.find(image)  # anything may be asked of the pipeline
        return pipeline.analyse(image)

    together = pipeline.side_by_side(work, images)
    assert torch.get_num_threads() == before
    assert shares == [max(1, before // 2)] * 5
    for image, found in zip(images, together, strict=True):
        expected = alone.analyse(image)
        for mode, reading in expected.readings.items():
            np.testing.assert_allclose(
                found.readings[mode].findings.logits, reading.findings.logits, atol=1e-5
            )
    with pytest.raises(ZeroDivisionError):
        pipeline.side_by_side(lambda _: 1 // 0, images)
    assert torch.get_num_threads() == before
    pipeline.analyse(images[0])  # the worker goes on


def test_stock_medsam_is_shown_each_lungs_box(phantom: Phantom) -> None:
    seen = []

    class Stock(EllipseSegmenter):
        def find_lungs(self, embedding, *, boxes=None):  # type: ignore[no-untyped-def]
            seen.append(boxes)
            return super().find_lungs(embedding)

    stock = Stock(replace(LUNGS_SPEC, name="medsam", prompt="lung-boxes"))
    both = Pipeline(stock, {}, coarse=EllipseSegmenter())
    analysis = both.analyse(phantom.radiograph)
    height, width = phantom.radiograph.hw
    right, left = seen[0].values()
    # The ellipses: centres at 0.3 and 0.7 of the width, half axes 0.14 and 0.3, grown by 3 %.
    assert right == pytest.approx(
        (0.152 * width, 0.182 * height, 0.448 * width, 0.818 * height), abs=2
    )
    assert left[0] == pytest.approx(0.552 * width, abs=2)
    assert [use.role for use in analysis.checkpoints] == ["lung boxes", "lungs"]


def test_stock_medsam_without_a_source_of_boxes_is_refused() -> None:
    stock = tiny_segmenter(replace(LUNGS_SPEC, prompt="lung-boxes"))
    with pytest.raises(CheckpointError, match="know no lungs by themselves"):
        Pipeline(stock, {})


def test_a_missing_medsam_file_is_named(tmp_path: Path) -> None:
    CheckpointStore(tmp_path, ()).save()
    with pytest.raises(CheckpointError, match=r"no MedSAM file medsam_vit_b\.pth"):
        Pipeline.from_checkpoints(tmp_path, medsam=tmp_path / "medsam_vit_b.pth")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A complete checkpoint folder of tiny networks."""
    monkeypatch.setattr(
        sam,
        "ARCHITECTURES",
        {
            "sam-tiny-64": sam.Architecture(
                lambda size: sam.SamNetwork(TinyEncoder(), input_size=size, stride=8),
                lambda _: LUNGS_SPEC.inputs,
            )
        },
    )
    monkeypatch.setattr(backbones, "ARCHITECTURES", {"resnet-tiny": tiny_resnet})
    specs = [LUNGS_SPEC, *(findings_spec(mode) for mode in MaskingMode)]
    networks = [tiny_segmenter()._network, *(tiny_classifier(mode).network for mode in MaskingMode)]
    listed = []
    for spec, network in zip(specs, networks, strict=True):
        save_file(network.state_dict(), tmp_path / spec.file)
        listed.append(replace(spec, sha256=file_sha256(tmp_path / spec.file)))
    CheckpointStore(tmp_path, tuple(listed)).save()
    return tmp_path


def test_loaded_checkpoints_give_what_the_networks_gave(folder: Path) -> None:
    loaded = Pipeline.from_checkpoints(folder)
    assert loaded.is_complete
    by_hand = Pipeline(tiny_segmenter(), {mode: tiny_classifier(mode) for mode in MaskingMode})
    image = noise_radiograph()
    ours = loaded.analyse(image, maskings=[MaskingMode.NONE]).readings[MaskingMode.NONE]
    theirs = by_hand.analyse(image, maskings=[MaskingMode.NONE]).readings[MaskingMode.NONE]
    # Loaded networks lie channels last in memory, and so add in another order.
    np.testing.assert_allclose(ours.findings.logits, theirs.findings.logits, rtol=1e-5, atol=1e-5)


def test_only_the_classifiers_asked_for_are_loaded(folder: Path) -> None:
    (folder / findings_spec(MaskingMode.NONE).file).unlink()
    finder = Pipeline.from_checkpoints(folder, maskings=())
    assert finder.find(noise_radiograph()).lungs.sides.shape == (160, 144)
    assert all(finder.classifier_spec(mode) is None for mode in MaskingMode)
    part = Pipeline.from_checkpoints(folder, maskings=[MaskingMode.TIGHT])
    assert part.classifier_spec(MaskingMode.TIGHT) is not None
    with pytest.raises(CheckpointError, match="is missing"):
        Pipeline.from_checkpoints(folder)


def test_a_size_that_no_cell_fits_is_refused_when_loaded(folder: Path) -> None:
    store = CheckpointStore.open(folder)
    odd = replace(store.specs[0], inputs=replace(store.specs[0].inputs, hw=(70, 70)))
    replace(store, specs=(odd, *store.specs[1:])).save()
    with pytest.raises(CheckpointError, match=r"inputs of 70 px.*a multiple of 32"):
        Pipeline.from_checkpoints(folder)


def test_an_unknown_architecture_is_refused(folder: Path) -> None:
    store = CheckpointStore.open(folder)
    changed = replace(store.specs[0], architecture="unet")
    replace(store, specs=(changed, *store.specs[1:])).save()
    with pytest.raises(CheckpointError, match="names the architecture 'unet'"):
        Pipeline.from_checkpoints(folder)


@pytest.mark.parametrize("add", [True, False])
def test_a_click_is_obeyed_whatever_the_network_answers(add: bool) -> None:
    pipeline = Pipeline(tiny_segmenter(), {})
    first = pipeline.find(noise_radiograph(hw=(200, 180)))
    at = (90.0, 100.0)
    found = pipeline.correct(first, click=at, add=add)
    rows, columns = np.indices((200, 180)) + 0.5
    disc = np.hypot(columns - at[0], rows - at[1]) <= CLICK_RADIUS * 200
    assert (found.lungs.inside[disc] == add).all()
    # No later answer takes it back.
    for again in (
        pipeline.correct(found, click=(30.0, 40.0), add=not add),
        pipeline.correct(found, box=(10.0, 10.0, 170.0, 190.0)),
        pipeline.correct(found, strokes=[Stroke(((20.0, 150.0),), 6.0, True)]),
    ):
        assert (again.lungs.inside[disc] == add).all()
        assert again.strokes[0] == found.strokes[0]


def test_a_brush_needs_no_network() -> None:
    pipeline = fake_pipeline()
    first = pipeline.find(noise_radiograph(hw=(200, 180)))
    stroke = Stroke(((10.0, 10.0), (60.0, 10.0)), 5.0, True)
    found = pipeline.correct(first, strokes=[stroke])
    np.testing.assert_array_equal(found.lungs.sides, paint(first.lungs, [stroke]).sides)
    assert found.strokes == (stroke,)


def test_every_analysis_carries_its_doubts(phantom: Phantom) -> None:
    pipeline, noise = fake_pipeline(), noise_radiograph()
    doubts = pipeline.analyse(noise).doubts
    assert doubts == check(noise, pipeline.find_lungs(noise)) != ()
    assert pipeline.side_by_side(lambda one: pipeline.analyse(one).doubts, [noise]) == [doubts]
    found = fake_pipeline(BlindSegmenter()).analyse(phantom.radiograph)
    assert [doubt.kind for doubt in found.doubts] == ["not-a-chest-x-ray"], "no lung was found"
    unseen = Pipeline(None, {MaskingMode.NONE: tiny_classifier(MaskingMode.NONE)})
    assert unseen.analyse(phantom.radiograph).doubts == ()


def test_kept_cells_are_pooled_with_and_without_lungs() -> None:
    parts = {
        mode: tiny_classifier(mode, size=128, pooling="kept", fill=KEPT_MEAN)
        for mode in MaskingMode
    }
    radiograph = noise_radiograph(hw=(160, 144))
    analysis = Pipeline(EllipseSegmenter(), parts).analyse(radiograph)
    assert not any("less than half" in warning for warning in analysis.warnings)
    for reading in analysis.readings.values():
        given = reading.saliency[0].placement.shares(reading.kept, (4, 4)) > 0.5
        assert all(not heat.grid[~given].any() for heat in reading.saliency)
    (only,) = Pipeline(BlindSegmenter(), parts).analyse(radiograph).readings.values()
    assert only.mode is MaskingMode.NONE
    assert only.chance is None
    assert only.findings.logits.tobytes() == (
        analysis.readings[MaskingMode.NONE].findings.logits.tobytes()
    )


def test_what_the_masking_leaves_is_where_heat_is_counted_and_what_chance_is_told_of() -> None:
    radiograph = noise_radiograph(hw=(160, 144))
    by_pooling = {}
    for pooling in ("all", "kept"):
        parts = {mode: tiny_classifier(mode, size=128, pooling=pooling) for mode in MaskingMode}
        analysis = Pipeline(EllipseSegmenter(), parts).analyse(radiograph)
        by_pooling[pooling] = analysis.readings
        assert analysis.lungs is not None
        area = analysis.lungs.inside.mean()
    whole = {pooling: readings[MaskingMode.NONE].chance for pooling, readings in by_pooling.items()}
    assert whole["all"] == pytest.approx(area, abs=0.02)
    # Cells that the bars beside the image cut count less.
    assert whole["all"] < whole["kept"] < 1.2 * area
    readings = by_pooling["kept"]
    assert readings[MaskingMode.TIGHT].chance == pytest.approx(1.0)
    for place in readings[MaskingMode.TIGHT].places:
        assert place.in_lungs is None or place.in_lungs == pytest.approx(1.0)
    loose = readings[MaskingMode.LOOSE]
    assert loose.chance is not None
    # Cells at the rim, which lie in the margin, count less than those of the lungs.
    assert area / loose.kept.mean() < loose.chance < 1
    # Weights that pool over all cells can find something anywhere.
    assert by_pooling["all"][MaskingMode.TIGHT].chance == pytest.approx(area, abs=0.02)


def test_a_mask_too_small_for_any_cell_is_read_with_a_remark() -> None:
    parts = {MaskingMode.TIGHT: tiny_classifier(MaskingMode.TIGHT, size=128, pooling="kept")}
    pipeline = Pipeline(EllipseSegmenter(), parts)
    radiograph = noise_radiograph(hw=(160, 160))
    found = pipeline.find_lungs(radiograph)
    sides = np.zeros((160, 160), np.uint8)
    sides[60:80, 60:75] = Side.RIGHT
    analysis = pipeline.analyse(
        radiograph, lungs=replace(found, sides=sides), maskings=[MaskingMode.TIGHT]
    )
    assert np.isfinite(analysis.readings[MaskingMode.TIGHT].findings.logits).all()
    (remark,) = (w for w in analysis.warnings if "less than half of every cell" in w)
    assert "'tight'" in remark


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_stays_near_fp32(phantom: Phantom, precision: Precision) -> None:
    plain, half = (
        Pipeline(
            EllipseSegmenter(),
            {mode: tiny_classifier(mode, precision=asked) for mode in MaskingMode},
        ).analyse(phantom.radiograph)
        for asked in ("fp32", precision)
    )
    assert [use.precision for use in half.checkpoints] == ["fp32", *[precision] * 3]
    for mode in MaskingMode:
        a, b = plain.readings[mode].findings.logits, half.readings[mode].findings.logits
        assert np.abs(a - b).max() < 0.1 * np.abs(a).max()
        assert not np.array_equal(a, b)


def test_weights_are_frozen() -> None:
    segmenter = tiny_segmenter()
    assert not any(p.requires_grad for p in segmenter._network.parameters())
    assert not segmenter._network.training
    assert torch.is_grad_enabled()


def test_a_click_changes_the_mask_without_another_look_at_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline = Pipeline(tiny_segmenter(), {})
    radiograph = noise_radiograph()
    found = pipeline.find(radiograph)
    monkeypatch.setattr(LungSegmenter, "embed", None)
    corrected = pipeline.correct(found, click=(40.0, 50.0), add=True)
    assert corrected.embedding is found.embedding
    assert not np.array_equal(corrected.lungs.logits, found.lungs.logits)
    with pytest.raises(PromptError, match="outside"):
        pipeline.correct(found, click=(4000.0, 50.0))
    with pytest.raises(PromptError):
        pipeline.correct(found)


def test_a_box_changes_the_mask_inside_itself_alone() -> None:
    pipeline = Pipeline(tiny_segmenter(), {})
    found = pipeline.find(noise_radiograph(hw=(160, 160)))
    corrected = pipeline.correct(found, box=(0.0, 0.0, 80.0, 160.0))
    half = found.lungs.logits.shape[1] // 2
    np.testing.assert_array_equal(corrected.lungs.logits[:, half:], found.lungs.logits[:, half:])
    assert not np.array_equal(corrected.lungs.logits[:, :half], found.lungs.logits[:, :half])


def test_an_analysis_takes_the_mask_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = fake_pipeline()
    radiograph = noise_radiograph()
    whole = pipeline.analyse(radiograph)
    assert whole.lungs is not None
    half = replace(whole.lungs, sides=np.where(whole.lungs.sides == Side.RIGHT, 1, 0).astype("u1"))
    monkeypatch.setattr(LungSegmenter, "embed", None)
    again = pipeline.analyse(radiograph, lungs=half)
    assert again.lungs is half
    kept = again.readings[MaskingMode.TIGHT].kept
    np.testing.assert_array_equal(kept, half.inside)


def test_probes_read_each_margin_and_what_lies_outside_the_lungs() -> None:
    pipeline = fake_pipeline()
    radiograph = noise_radiograph()
    analysis = pipeline.analyse(radiograph, margin=0.08)
    assert analysis.lungs is not None
    *steps, probes = pipeline.probe(radiograph, analysis.lungs, (0.02, 0.08))
    # Others may be served after each question.
    assert [len(step.curve) for step in steps] == [0, 1]
    assert [margin for margin, _ in probes.curve] == [0.02, 0.08]
    np.testing.assert_array_equal(
        probes.curve[1][1].logits, analysis.readings[MaskingMode.LOOSE].findings.logits
    )
    # Whatever lies inside the lungs cannot change the outside probe.
    assert probes.outside is not None
    pixels = np.where(analysis.lungs.inside, 0.5, radiograph.pixels)
    (painted,) = pipeline.probe(with_pixels(radiograph, pixels), analysis.lungs, ())
    assert painted.outside is not None
    np.testing.assert_array_equal(painted.outside.logits, probes.outside.logits)
    assert painted.curve == ()
