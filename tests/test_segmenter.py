from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import LUNGS_SPEC, noise_radiograph, tiny_segmenter
from torch.nn import functional as F

from cxrdemo.errors import PromptError
from cxrdemo.inputs import MEDSAM_INPUT
from cxrdemo.phantom import Phantom
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import Side
from cxrdemo.sam import SamNetwork
from cxrdemo.segmenter import Embedding, LungSegmenter, Prompts
from cxrdemo.specs import CheckpointSpec

MEDSAM_SPEC = CheckpointSpec(
    name="medsam",
    task="lungs",
    architecture="sam-vit-b-1024",
    file="medsam_vit_b.pth",
    sha256="0" * 64,
    inputs=MEDSAM_INPUT,
    prompt="lung-boxes",
)


def test_medsam_path_agrees_with_a_restatement_of_the_published_inference(
    vit_b: SamNetwork, phantom: Phantom
) -> None:
    """MedSAM_Inference.py, restated with torch alone: nothing of ours but the weights."""
    pixels = phantom.radiograph.pixels
    height, width = pixels.shape
    box = (40.0, 50.0, 130.0, 260.0)
    with torch.inference_mode():
        image = torch.from_numpy(pixels.copy())[None, None].repeat(1, 3, 1, 1)
        image = F.interpolate(image, (1024, 1024), mode="bicubic", align_corners=False)
        image = (image - image.min()) / (image.max() - image.min())
        embedding = vit_b.image_encoder(image)
        scaled = torch.tensor([box]) / torch.tensor([width, height, width, height]) * 1024
        sparse, dense = vit_b.prompt_encoder(points=None, boxes=scaled[:, None, :], masks=None)
        low, _ = vit_b.mask_decoder(
            image_embeddings=embedding,
            image_pe=vit_b.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        high = F.interpolate(low, (height, width), mode="bilinear", align_corners=False)
        expected = (torch.sigmoid(high) > 0.5)[0, 0].numpy()

    segmenter = LungSegmenter(MEDSAM_SPEC, vit_b)
    ours = segmenter.embed(phantom.radiograph)
    np.testing.assert_allclose(ours.features, embedding, atol=1e-4, rtol=0)
    lungs = segmenter.segment(ours, Prompts(box=box))
    found = ours.placement.undo_map(lungs.logits) > 0
    assert 0.02 < expected.mean() < 0.98, "a trivial mask would prove nothing"
    dice = 2 * (found & expected).sum() / (found.sum() + expected.sum())
    assert dice >= 0.999


@pytest.fixture(scope="module")
def segmenter() -> LungSegmenter:
    return tiny_segmenter()


@pytest.fixture(scope="module")
def embedding(segmenter: LungSegmenter) -> Embedding:
    return segmenter.embed(noise_radiograph())


def test_an_embedding_answers_any_number_of_prompts_alike(
    segmenter: LungSegmenter, embedding: Embedding
) -> None:
    before = embedding.features.copy()
    first = segmenter.segment(embedding, Prompts(box=(10, 10, 100, 120)))
    segmenter.segment(embedding, Prompts(points=((50.0, 60.0),), adds=(True,)))
    again = segmenter.segment(embedding, Prompts(box=(10, 10, 100, 120)))
    np.testing.assert_array_equal(first.logits, again.logits)
    np.testing.assert_array_equal(embedding.features, before)


def test_each_kind_of_prompt_matters(segmenter: LungSegmenter, embedding: Embedding) -> None:
    box = Prompts(box=(10, 10, 100, 120))
    plain = segmenter.segment(embedding, box).logits
    variants = [
        replace(box, box=(20, 10, 100, 120)),
        replace(box, points=((50.0, 60.0),), adds=(True,)),
        replace(box, points=((50.0, 60.0),), adds=(False,)),
        replace(box, logits=plain),
    ]
    answers = [segmenter.segment(embedding, prompt).logits for prompt in variants]
    for answer in answers:
        assert np.abs(answer - plain).max() > 1e-4
    assert np.abs(answers[1] - answers[2]).max() > 1e-4


@pytest.mark.parametrize(
    "prompts",
    [
        Prompts(),
        Prompts(box=(10, 10, 10, 50)),
        Prompts(box=(-1, 10, 20, 50)),
        Prompts(box=(0, 0, 145, 160)),
        Prompts(points=((150.0, 10.0),), adds=(True,)),
    ],
)
def test_a_senseless_prompt_is_refused(
    segmenter: LungSegmenter, embedding: Embedding, prompts: Prompts
) -> None:
    with pytest.raises(PromptError):
        segmenter.segment(embedding, prompts)


def test_points_and_signs_must_match() -> None:
    with pytest.raises(ValueError, match="one length"):
        Prompts(points=((1.0, 1.0),))


def test_weights_that_know_no_lungs_ask_for_boxes() -> None:
    stock = tiny_segmenter(replace(LUNGS_SPEC, prompt="lung-boxes"))
    with pytest.raises(PromptError, match="need a box for each lung"):
        stock.find_lungs(stock.embed(noise_radiograph()))


def test_each_box_gives_its_own_side() -> None:
    stock = tiny_segmenter(replace(LUNGS_SPEC, prompt="lung-boxes"))
    embedding = stock.embed(noise_radiograph())
    boxes = {Side.RIGHT: (5.0, 5.0, 70.0, 150.0), Side.LEFT: (75.0, 5.0, 140.0, 150.0)}
    lungs = stock.find_lungs(embedding, boxes=boxes)
    alone = {
        side: embedding.placement.undo_map(stock.segment(embedding, Prompts(box=box)).logits)
        for side, box in boxes.items()
    }
    expected = np.where(alone[Side.LEFT] > alone[Side.RIGHT], Side.LEFT, Side.RIGHT)
    expected[np.maximum(*alone.values()) <= 0] = 0
    assert (lungs.sides == expected).mean() > 0.999


def test_the_radiograph_is_not_changed(segmenter: LungSegmenter) -> None:
    radiograph = noise_radiograph()
    before = radiograph.pixels.copy()
    segmenter.find_lungs(segmenter.embed(radiograph))
    np.testing.assert_array_equal(radiograph.pixels, before)


@pytest.mark.parametrize("hw", [(100, 400), (400, 100), (64, 64)])
def test_masks_have_the_images_own_size(segmenter: LungSegmenter, hw: tuple[int, int]) -> None:
    radiograph = Radiograph(np.random.default_rng(0).random(hw, np.float32))
    assert segmenter.find_lungs(segmenter.embed(radiograph)).sides.shape == hw


def test_the_automatic_prompt_is_the_whole_canvas_as_in_training() -> None:
    segmenter = tiny_segmenter()
    # Twice as high as wide, so that the canvas has bars on two sides.
    embedding = segmenter.embed(noise_radiograph(hw=(200, 100)))
    found = segmenter.find_lungs(embedding)
    with torch.inference_mode():
        canvas = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
        logits, _ = segmenter._network.decode(torch.from_numpy(embedding.features), boxes=canvas)
    np.testing.assert_array_equal(found.logits, logits[0, 0].numpy())
    image_alone = segmenter.segment(embedding, Prompts(box=(0.0, 0.0, 100.0, 200.0)))
    assert not np.array_equal(found.logits, image_alone.logits)
