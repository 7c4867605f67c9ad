"""The promptable lung segmenter: radiograph and prompts in, lung mask out.

An image embedding is a value: computed once, used for any number of prompts, never stored here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrdemo.devices import HALF, Precision, computing_in, hold_in
from cxrdemo.errors import PromptError
from cxrdemo.inputs import normalise, place
from cxrdemo.lungs import assess, split_sides
from cxrdemo.placement import Placement
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import LungMask, Side
from cxrdemo.sam import Answer, SamNetwork
from cxrdemo.specs import CheckpointSpec


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the image encoder made of one radiograph: enough to answer any prompt.

    Attributes:
        features: float32 (1, 256, h, w). Numpy's and not the device's, so that an image that is
            kept holds no memory of a GPU, and may be sent to another process.
        placement: Where the radiograph lies in the canvas.
    """

    features: NDArray[np.float32]
    placement: Placement


@dataclass(frozen=True, eq=False)
class Prompts:
    """What a person (or another segmenter) points at, in pixels of the radiograph.

    Attributes:
        box: XYXY, or None.
        points: (x, y) pairs.
        adds: Per point, True to add and False to remove.
        logits: `LungMask.logits` of an earlier answer to correct, or None.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()
    adds: tuple[bool, ...] = ()
    logits: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if len(self.points) != len(self.adds):
            raise ValueError("points and adds must be of one length")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is pointed at."""
        return self.box is None and not self.points and self.logits is None


class LungSegmenter:
    """Finds lungs. Stateless: safe to share, as long as the caller serialises use of the device."""

    def __init__(
        self,
        spec: CheckpointSpec,
        network: SamNetwork,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        encode: Callable[[Tensor], Tensor] | None = None,
        answer: Answer | None = None,
    ) -> None:
        """Takes a network, which becomes its own.

        Args:
            spec: Of the weights.
            network: From `sam.ARCHITECTURES`.
            device: Where it runs.
            precision: Of the image encoder and the mask decoder.
            encode: What runs the image encoder, in that precision, where it does not do so itself.
            answer: What runs the mask decoder for one prompt, likewise.
        """
        self.spec = spec
        self._network = network.eval().requires_grad_(False)
        self.move_to(device)
        self.precision: Precision = precision
        if precision in HALF:
            if answer is None:
                # The decoder whole: between its many small steps conversions would take over.
                self._network.mask_decoder.to(HALF[precision])
            if encode is None:
                hold_in(precision, self._network.image_encoder.modules())
        self._encode = encode or self._network.image_encoder
        self._answer = answer or self._network.answer

    def move_to(self, device: torch.device | str) -> None:
        """Brings the network to a device, in place."""
        self._device = torch.device(device)
        self._network.to(self._device)

    @torch.inference_mode()
    def embed(self, radiograph: Radiograph) -> Embedding:
        """Runs the image encoder, the costly part, once."""
        return self.embed_all([radiograph])[0]

    @torch.inference_mode()
    def embed_all(self, radiographs: Sequence[Radiograph]) -> list[Embedding]:
        """Runs the image encoder once for several radiographs, which fills a GPU better."""
        inputs = self.spec.inputs
        placed = [place(radiograph.pixels, inputs) for radiograph in radiographs]
        canvases = np.stack([normalise(canvas, inputs) for canvas, _ in placed])
        with computing_in(self.precision, self._device):
            encoded = self._encode(torch.from_numpy(canvases).to(self._device))
        features = encoded.float().cpu().numpy()
        return [Embedding(features[i : i + 1], p) for i, (_, p) in enumerate(placed)]

    @torch.inference_mode()
    def find_lungs(
        self,
        embedding: Embedding,
        *,
        boxes: Mapping[Side, tuple[float, float, float, float]] | None = None,
    ) -> LungMask:
        """Both lungs, with no prompt from a user.

        Args:
            embedding: Of the radiograph.
            boxes: Each lung's XYXY box in pixels of the radiograph, for weights that know no lungs
                by themselves (`spec.prompt` is "lung-boxes"). Others get the whole canvas as a box.

        Returns:
            The mask; empty where nothing was found, with the reason in its quality.

        Raises:
            PromptError: If the weights need boxes and none are given.
        """
        if self.spec.prompt == "lung-boxes":
            if not boxes:
                raise PromptError(
                    f"The weights {self.spec.name} need a box for each lung, and none was found."
                )
            return self._find_by_boxes(embedding, boxes)
        # The whole canvas, bars and all, as in training: the box of a letterboxed image alone looks
        # like the box of one lung.
        height, width = embedding.placement.target_hw
        box = torch.tensor([[0.0, 0.0, width, height]], device=self._device)
        logits, iou = self._decode(embedding, boxes=box)
        return _lung_mask(logits, embedding.placement, predicted_iou=iou)

    def segment(self, embedding: Embedding, prompts: Prompts) -> LungMask:
        """Answers one prompt, or corrects an earlier answer.

        Raises:
            PromptError: If a prompt lies outside the image or a box has no area.
        """
        logits, iou = self._ask(embedding, prompts)
        return _lung_mask(logits, embedding.placement, predicted_iou=iou)

    def redo_box(
        self,
        embedding: Embedding,
        previous: LungMask,
        box: tuple[float, float, float, float],
    ) -> LungMask:
        """Takes an earlier mask anew inside a box; outside the box it stays.

        Args:
            embedding: Of the radiograph.
            previous: The mask to correct.
            box: XYXY in pixels of the radiograph, around one lung.

        Raises:
            PromptError: If the box does not lie inside the image.
        """
        logits, iou = self._ask(embedding, Prompts(box=box))
        placement = embedding.placement
        height, width = logits.shape
        scale = np.array([width / placement.target_hw[1], height / placement.target_hw[0]])
        corners = placement.boxes(np.array([box], np.float32))[0].reshape(2, 2) * scale
        (x0, y0), (x1, y1) = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
        merged = previous.logits.copy()
        merged[y0:y1, x0:x1] = logits[y0:y1, x0:x1]
        return _lung_mask(merged, placement, predicted_iou=iou)

    def _find_by_boxes(
        self, embedding: Embedding, boxes: Mapping[Side, tuple[float, float, float, float]]
    ) -> LungMask:
        answers = [self._ask(embedding, Prompts(box=box)) for box in boxes.values()]
        sides = np.zeros(embedding.placement.source_hw, np.uint8)
        best = np.zeros(embedding.placement.source_hw, np.float32)
        for side, (lung, _) in zip(boxes, answers, strict=True):
            # Where two boxes overlap, the surer answer decides whose pixel it is.
            score = embedding.placement.undo_map(lung)
            wins = score > best
            sides[wins] = side
            best[wins] = score[wins]
        least = min(iou for _, iou in answers)
        quality = assess(sides, components=len(boxes), predicted_iou=least)
        return LungMask(sides, quality, np.maximum.reduce([lung for lung, _ in answers]))

    def _ask(self, embedding: Embedding, prompts: Prompts) -> tuple[NDArray[np.float32], float]:
        """Logits (h, w) over the canvas and predicted IoU."""
        box, points, signs, mask = (
            None if part is None else part[None]
            for part in self._prompt_tensors(embedding.placement, prompts)
        )
        both = None if points is None or signs is None else (points, signs)
        return self._decode(embedding, boxes=box, points=both, masks=mask)

    @torch.inference_mode()
    def _decode(
        self,
        embedding: Embedding,
        *,
        boxes: Tensor | None,
        points: tuple[Tensor, Tensor] | None = None,
        masks: Tensor | None = None,
    ) -> tuple[NDArray[np.float32], float]:
        features = torch.from_numpy(embedding.features).to(self._device)
        logits, iou = self._network.decode(
            features, boxes=boxes, points=points, masks=masks, answer=self._answer
        )
        return logits[0, 0].float().cpu().numpy(), float(iou[0, 0])

    def _prompt_tensors(
        self, placement: Placement, prompts: Prompts
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """Box (4,), points (N, 2), signs (N,) and mask (1, h, w) on the canvas."""
        if prompts.is_empty:
            raise PromptError("Draw a box or click at least one point.")
        height, width = placement.source_hw
        box = points = signs = mask = None
        if prompts.box is not None:
            x0, y0, x1, y1 = prompts.box
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise PromptError(
                    f"The box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) does not lie inside the image, "
                    f"which is {width} x {height} pixels."
                )
            on_canvas = placement.boxes(np.array([prompts.box], np.float32))[0]
            box = torch.from_numpy(on_canvas).to(self._device)
        if prompts.points:
            xy = np.array(prompts.points, np.float32)
            if not ((xy >= 0) & (xy <= (width, height))).all():
                raise PromptError(f"A point lies outside the image of {width} x {height} pixels.")
            points = torch.from_numpy(placement.points(xy)).to(self._device)
            signs = torch.tensor([int(add) for add in prompts.adds], device=self._device)
        if prompts.logits is not None:
            mask = torch.from_numpy(prompts.logits[None]).to(self._device)
        return box, points, signs, mask


def _lung_mask(
    logits: NDArray[np.float32], placement: Placement, *, predicted_iou: float
) -> LungMask:
    """From canvas logits to sides on the radiograph's grid, cleaned and judged."""
    sides, components = split_sides(placement.undo_logits(logits))
    return LungMask(
        sides, assess(sides, components=components, predicted_iou=predicted_iou), logits
    )
