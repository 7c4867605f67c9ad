import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cxrdemo.placement import Placement

SIZES = [(300, 200), (200, 300), (64, 64), (1000, 777), (90, 1024)]


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("kind", ["letterbox", "stretch"])
def test_points_and_boxes_round_trip(source: tuple[int, int], kind: str) -> None:
    placement = Placement.make(kind, source, (224, 224))
    height, width = source
    box = np.array([[0, 0, width, height], [width / 4, height / 3, width / 2, height]], np.float32)
    corners = placement.boxes(box).reshape(-1, 2)
    np.testing.assert_allclose(placement.undo_points(corners), box.reshape(-1, 2), atol=1e-3)


@pytest.mark.parametrize("source", SIZES)
def test_the_whole_images_box_is_the_content(source: tuple[int, int]) -> None:
    placement = Placement.letterbox(source, (224, 224))
    x0, y0, x1, y1 = placement.boxes(np.array([[0, 0, source[1], source[0]]], np.float32))[0]
    canvas = placement.image(np.ones(source, np.float32), fill=0.0)
    assert canvas[int(y0) : int(y1), int(x0) : int(x1)].min() == pytest.approx(1.0)
    assert canvas.sum() == pytest.approx((x1 - x0) * (y1 - y0))


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("kind", ["letterbox", "stretch"])
def test_a_mask_survives_there_and_back_within_a_canvas_pixel(
    source: tuple[int, int], kind: str
) -> None:
    height, width = source
    y, x = np.mgrid[:height, :width]
    mask = ((x - width / 2) / (0.3 * width)) ** 2 + ((y - height / 2) / (0.4 * height)) ** 2 < 1
    placement = Placement.make(kind, source, (224, 224))
    back = placement.undo_map(placement.mask(mask).astype(np.float32)) >= 0.5
    wrong = np.argwhere(back != mask)
    # Every wrong pixel lies within one canvas pixel of the ellipse's edge.
    step = max(height / placement.content_hw[0], width / placement.content_hw[1], 1.0)
    edge = np.argwhere(mask ^ np.roll(mask, 1, 0) | (mask ^ np.roll(mask, 1, 1)))
    for row, column in wrong[:: max(1, len(wrong) // 200)]:
        assert np.hypot(*(edge - (row, column)).T).min() <= 1.5 * step


def test_the_aspect_ratio_is_kept_by_letterbox_alone() -> None:
    assert Placement.letterbox((100, 200), (64, 64)).content_hw == (32, 64)
    assert Placement.stretch((100, 200), (64, 64)).content_hw == (64, 64)


def test_bars_have_the_fill() -> None:
    canvas = Placement.letterbox((100, 200), (64, 64)).image(
        np.ones((100, 200), np.float32), fill=0.25
    )
    assert (canvas[:16] == 0.25).all()
    assert (canvas[48:] == 0.25).all()
    np.testing.assert_allclose(canvas[16:48], 1.0, rtol=1e-6)


def test_undo_map_is_bilinear_between_cell_centres() -> None:
    cells = np.array([[0.0, 1.0]], np.float32).repeat(2, 0)
    row = Placement.stretch((64, 100), (224, 224)).undo_map(cells)[32]
    expected = np.clip((np.arange(100) + 0.5) / 100 * 2 - 0.5, 0, 1)
    np.testing.assert_allclose(row, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["letterbox", "stretch"])
@pytest.mark.parametrize("source", [(500, 411), (60, 90), (40, 700)])
def test_logits_are_undone_only_where_they_can_matter(kind: str, source: tuple[int, int]) -> None:
    placement = Placement.make(kind, source, (512, 512))
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = np.full((128, 128), -3.0, np.float32)
        (x0, x1), (y0, y1) = np.sort(rng.integers(0, 129, (2, 2)), axis=1)
        logits[y0:y1, x0:x1] = rng.normal(size=(y1 - y0, x1 - x0))
        expected = placement.undo_map(logits) > 0
        # The last bit of a coordinate may differ.
        assert (placement.undo_logits(logits) != expected).mean() < 1e-5
    assert not placement.undo_logits(np.full((128, 128), -1.0, np.float32)).any()
    assert placement.undo_logits(np.full((128, 128), 1.0, np.float32)).all()


def test_enlarging_by_cubic_interpolation_agrees_with_torch() -> None:
    image = np.random.default_rng(0).random((100, 80), np.float32)
    ours = Placement.stretch((100, 80), (256, 256)).image(image, fill=0, interpolation="cubic")
    theirs = F.interpolate(torch.from_numpy(image)[None, None], (256, 256), mode="bicubic")
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=1e-5)


def test_shrinking_by_cubic_interpolation_does_not_alias() -> None:
    stripes = (np.arange(512) % 2).astype(np.float32)[None].repeat(512, 0)
    small = Placement.stretch((512, 512), (100, 100)).image(stripes, fill=0, interpolation="cubic")
    assert np.abs(small - 0.5).max() < 0.06


def test_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an array"):
        Placement.letterbox((10, 10), (5, 5)).image(np.zeros((10, 11), np.float32), fill=0)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="letterbox"):
        Placement.make("crop", (10, 10), (5, 5))  # type: ignore[arg-type]


def test_the_input_is_not_changed_nor_aliased() -> None:
    image = np.random.default_rng(0).random((64, 64), np.float32)
    before = image.copy()
    placed = Placement.stretch((64, 64), (64, 64)).image(image, fill=0)
    placed[:] = 0
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("kind", ["letterbox", "stretch"])
def test_labels_lie_within_a_pixel_of_the_mask(source: tuple[int, int], kind: str) -> None:
    placement = Placement.make(kind, source, (224, 224))
    y, x = np.indices(source) / np.array(source).reshape(2, 1, 1) - 0.5
    labels = np.where(x < 0, 1, 2).astype(np.uint8) * (np.hypot(x, y) < 0.4).astype(np.uint8)
    resized = placement.labels(labels)
    assert resized.dtype == np.uint8
    for label in (1, 2):
        found, exact = resized == label, placement.mask(labels == label)
        near = cv2.dilate(exact.astype(np.uint8), np.ones((3, 3)))
        deep = cv2.erode(exact.astype(np.uint8), np.ones((3, 3)))
        assert (near[found] == 1).all()
        assert found[deep == 1].all()


@pytest.mark.parametrize("source", SIZES)
@pytest.mark.parametrize("kind", ["letterbox", "stretch"])
@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (9, 5)])
def test_shares_are_the_mean_of_each_cell(
    source: tuple[int, int], kind: str, grid: tuple[int, int]
) -> None:
    placement = Placement.make(kind, source, (224, 224))
    mask = np.random.default_rng(0).random(source) > 0.6
    canvas = placement.image(mask.astype(np.float32), fill=0)
    shares = placement.shares(mask, grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            # Weighted by how much of each pixel lies in the cell.
            y, x = (
                np.clip(
                    np.minimum(np.arange(224) + 1, (i + 1) * 224 / n)
                    - np.maximum(np.arange(224), i * 224 / n),
                    0,
                    1,
                )
                for i, n in ((row, grid[0]), (column, grid[1]))
            )
            expected = y @ canvas @ x / (y.sum() * x.sum())
            assert shares[row, column] == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize("canvas", [192, 224, 299, 320])
@pytest.mark.parametrize("cells", [7, 8, 10, 12, 14])
def test_a_share_of_all_is_exactly_one(canvas: int, cells: int) -> None:
    placement = Placement.stretch((500, 411), (canvas, canvas))
    assert (placement.shares(np.ones((500, 411), bool), (cells, cells)) == 1.0).all()
    assert not placement.shares(np.zeros((500, 411), bool), (cells, cells)).any()


sides = st.integers(20, 900)


@settings(max_examples=60, deadline=None)
@given(
    source=st.tuples(sides, sides),
    target=st.tuples(sides, sides),
    kind=st.sampled_from(["letterbox", "stretch"]),
    at=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_undo_after_do_gives_back_what_was_there(
    source: tuple[int, int], target: tuple[int, int], kind: str, at: tuple[float, float]
) -> None:
    placement = Placement.make(kind, source, target)
    point = np.array([[at[0] * source[1], at[1] * source[0]]], np.float32)
    moved = placement.points(point)
    np.testing.assert_allclose(placement.undo_points(moved), point, atol=1e-4 * max(source))
    (top, left), (height, width) = placement.offset_hw, placement.content_hw
    assert left - 1e-3 <= moved[0, 0] <= left + width + 1e-3
    assert top - 1e-3 <= moved[0, 1] <= top + height + 1e-3
    # A ramp is what a resize and its inverse leave as it is, but for the edges and the rounding.
    y, x = np.indices(source, np.float32)
    ramp = (x / source[1] + y / source[0]).astype(np.float32)
    back = placement.undo_map(placement.image(ramp, fill=0))
    steps = max(s / c for s, c in zip(source, placement.content_hw, strict=True))
    inner = tuple(slice(int(2 * steps) + 2, -int(2 * steps) - 2) for _ in source)
    if ramp[inner].size:
        coarse = 2 / min(*placement.content_hw, *source)
        assert np.abs(back - ramp)[inner].max() <= coarse
