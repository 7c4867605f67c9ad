import numpy as np

from cxrdemo.inputs import MEDSAM_INPUT, InputSpec, normalise, place


def test_fixed_intensity_is_mean_and_std_per_channel() -> None:
    spec = InputSpec(hw=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    out = normalise(np.full((32, 32), 0.7, np.float32), spec)
    np.testing.assert_allclose(out[:, 0, 0], [1.2, 2.0, 0.2], rtol=1e-6)


def test_minmax_spans_zero_to_one_in_three_equal_channels() -> None:
    canvas = np.random.default_rng(0).uniform(0.3, 0.6, (8, 8)).astype(np.float32)
    out = normalise(canvas, MEDSAM_INPUT)
    assert out.shape == (3, 8, 8)
    assert (out.min(), out.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(out[0], out[2])


def test_a_constant_image_gives_numbers() -> None:
    assert not normalise(np.full((8, 8), 0.4, np.float32), MEDSAM_INPUT).any()


def test_place_uses_the_specs_fill_and_size() -> None:
    spec = InputSpec(hw=(32, 32), fill=0.125)
    canvas, placement = place(np.ones((64, 128), np.float32), spec)
    assert canvas.shape == (32, 32)
    assert canvas[0, 0] == 0.125
    assert placement.content_hw == (16, 32)
