"""Small stand-ins with the real classes' interfaces: no weights on disk, no training, seeded.

A fake never proves that the product finds anything; it proves the wiring around the models.
"""

import asyncio
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from cxrdemo.classifier import FindingClassifier
from cxrdemo.devices import Precision
from cxrdemo.examples import EXAMPLES, draw_example
from cxrdemo.inputs import Fill, InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.lungs import assess, split_sides
from cxrdemo.phantom import Phantom, make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import LungMask, MaskingMode
from cxrdemo.sam import SamNetwork
from cxrdemo.segmenter import Embedding, LungSegmenter
from cxrdemo.specs import CheckpointSpec, Estimate, LabelSpec, Pooling

LUNGS_SPEC = CheckpointSpec(
    name="lungs-tiny-64.v0",
    task="lungs",
    architecture="sam-tiny-64",
    file="lungs.safetensors",
    sha256="0" * 64,
    inputs=InputSpec(hw=(64, 64)),
)


def findings_spec(mode: MaskingMode, *, size: int = 64) -> CheckpointSpec:
    return CheckpointSpec(
        name=f"findings-tiny-{size}-{mode}.v0",
        task="findings",
        architecture="resnet-tiny",
        file=f"findings-{mode}.safetensors",
        sha256="0" * 64,
        inputs=InputSpec(hw=(size, size)),
        masking=mode,
        margin=0.08 if mode is MaskingMode.LOOSE else 0.0,
        margin_range=(0.02, 0.2) if mode is MaskingMode.LOOSE else None,
        labels=tuple(
            LabelSpec(key, scale=1.2, offset=-0.1, threshold=0.5, rule="test")
            for key in FINDING_KEYS
        ),
        metrics={f"auroc_{key}": Estimate(0.8, 0.7, 0.9, 20) for key in FINDING_KEYS},
    )


class TinyEncoder(nn.Module):
    """Stride 8, 256 channels, in one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 256, 8, stride=8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.patch(image)


def tiny_segmenter(spec: CheckpointSpec = LUNGS_SPEC) -> LungSegmenter:
    """The real class and decoder over a one-layer encoder, with random weights."""
    torch.manual_seed(0)
    return LungSegmenter(spec, SamNetwork(TinyEncoder(), input_size=64, stride=8))


def tiny_resnet(outputs: int = len(FINDING_KEYS), *, seed: int = 0) -> ResNet:
    """A torchvision ResNet with one bottleneck per stage and random weights."""
    torch.manual_seed(seed)
    network = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=outputs)
    nn.init.normal_(network.fc.weight, std=0.5)
    return network.eval()


def tiny_classifier(
    mode: MaskingMode,
    *,
    size: int = 64,
    precision: Precision = "fp32",
    pooling: Pooling = "all",
    fill: Fill = 0.0,
) -> FindingClassifier:
    seed = list(MaskingMode).index(mode)
    spec = findings_spec(mode, size=size)
    spec = replace(spec, pooling=pooling, inputs=replace(spec.inputs, fill=fill))
    return FindingClassifier(spec, tiny_resnet(seed=seed), precision=precision)


def all_of(pixels: np.ndarray) -> np.ndarray:
    """The kept region of a masking that removes nothing."""
    return np.ones(pixels.shape, bool)


class EllipseSegmenter(LungSegmenter):
    """Finds two ellipses in every image, so that masks in tests look like lungs."""

    def __init__(self, spec: CheckpointSpec = LUNGS_SPEC) -> None:
        super().__init__(spec, SamNetwork(TinyEncoder(), input_size=64, stride=8))

    def find_lungs(self, embedding: Embedding, **_: object) -> LungMask:
        height, width = embedding.placement.source_hw
        y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
        inside = np.zeros((height, width), bool)
        for centre in (0.3, 0.7):
            inside |= ((x - centre) / 0.14) ** 2 + ((y - 0.5) / 0.3) ** 2 <= 1
        sides, parts = split_sides(inside)
        quality = assess(sides, components=parts, predicted_iou=0.95)
        return LungMask(sides, quality, np.zeros((32, 32), np.float32))


class PhantomSegmenter(EllipseSegmenter):
    """Gives the true lungs of the phantom that an image is likest to, in whatever pose it is.

    The gate has nothing against an upright one, and against a turned one what it should have.
    """

    def __init__(self, phantoms: Iterable[Phantom]) -> None:
        super().__init__()
        self._known: list[tuple[np.ndarray, np.ndarray]] = []
        for phantom in phantoms:
            seen = _thumbnail(phantom.radiograph.pixels)
            for pose, lungs in zip(_poses(seen), _poses(phantom.lungs > 0), strict=True):
                self._known += [(pose, lungs), (1 - pose, lungs)]
        self._shown: WeakKeyDictionary[Embedding, Radiograph] = WeakKeyDictionary()

    def embed(self, radiograph: Radiograph) -> Embedding:
        embedding = super().embed(radiograph)
        self._shown[embedding] = radiograph
        return embedding

    def find_lungs(self, embedding: Embedding, **_: object) -> LungMask:
        pixels = self._shown[embedding].pixels
        seen = _thumbnail(pixels)
        _, lungs = min(self._known, key=lambda known: float(np.abs(known[0] - seen).mean()))
        size = pixels.shape[::-1]
        inside = cv2.resize(lungs.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        sides, parts = split_sides(inside)
        quality = assess(sides, components=parts, predicted_iou=0.95)
        return LungMask(sides, quality, np.zeros((32, 32), np.float32))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(pixels, (48, 48), interpolation=cv2.INTER_AREA)


def _poses(image: np.ndarray) -> Iterator[np.ndarray]:
    """An image turned by all quarters, each also mirrored."""
    for quarters in range(4):
        turned = np.rot90(image, quarters)
        yield from (turned, turned[:, ::-1])


def phantom_pipeline(*, at_once: int = 1) -> Pipeline:
    """Complete, over the bundled examples and a few more phantoms: the gate accepts them all."""
    return Pipeline(
        PhantomSegmenter(known_phantoms()),
        {mode: tiny_classifier(mode) for mode in MaskingMode},
        at_once=at_once,
    )


@functools.cache
def known_phantoms() -> tuple[Phantom, ...]:
    """Drawing one takes longer than to analyse it."""
    others = (make_phantom(seed=seed, hw=(400, 360)) for seed in range(1, 4))
    return (*map(draw_example, EXAMPLES), *others)


class BlindSegmenter(EllipseSegmenter):
    """Finds nothing, ever."""

    def find_lungs(self, embedding: Embedding, **_: object) -> LungMask:
        sides = np.zeros(embedding.placement.source_hw, np.uint8)
        quality = assess(sides, components=0, predicted_iou=0.1)
        return LungMask(sides, quality, np.zeros((32, 32), np.float32))


def fake_pipeline(segmenter: LungSegmenter | None = None) -> Pipeline:
    """A complete pipeline of small random classifiers and an ellipse segmenter."""
    return Pipeline(
        segmenter or EllipseSegmenter(),
        {mode: tiny_classifier(mode) for mode in MaskingMode},
    )


def noise_radiograph(*, hw: tuple[int, int] = (160, 144), seed: int = 0) -> Radiograph:
    """Uniform noise: enough wherever the picture does not matter."""
    pixels = np.random.default_rng(seed).random(hw, np.float32)
    return Radiograph(pixels)


def with_pixels(radiograph: Radiograph, pixels: np.ndarray) -> Radiograph:
    return replace(radiograph, pixels=pixels.astype(np.float32))


@contextmanager
def closing_event_loops() -> Iterator[None]:
    """Gradio makes an event loop for the locks of every page and never closes it."""
    make, made = asyncio.new_event_loop, []

    def make_and_remember() -> asyncio.AbstractEventLoop:
        made.append(make())
        return made[-1]

    asyncio.new_event_loop = make_and_remember
    try:
        yield
    finally:
        asyncio.new_event_loop = make
        for loop in made:
            if not loop.is_running():
                loop.close()
        asyncio.set_event_loop(None)
