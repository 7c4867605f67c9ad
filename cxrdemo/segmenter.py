"""The promptable lung segmenter: SAM's prompt encoder and mask decoder over one of two encoders.

`sam-vit-b-1024` is MedSAM's architecture (Ma et al., Nature Communications 15:654, 2024) with the
key names of its published `medsam_vit_b.pth`. `sam-tinyvit-5m-512` replaces the image encoder by a
TinyViT-5M (Wu et al., ECCV 2022) with a neck to the same 256 x 64 x 64 embedding.

An image embedding is a value: computed once, used for any number of prompts, never stored here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    TwoWayTransformer,
)
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from timm.models import tiny_vit
from torch import Tensor, nn
from torch.nn import functional as F

from cxrdemo.devices import Precision, computing_in, hold_in
from cxrdemo.errors import PromptError
from cxrdemo.inputs import normalise, place
from cxrdemo.lungs import assess, split_sides
from cxrdemo.placement import Placement
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import LungMask, Side
from cxrdemo.specs import CheckpointSpec

EMBEDDING_CHANNELS: Final = 256
TINYVIT_CHANNELS: Final = (128, 160, 320)
"""Channels of TinyViT-5M's features at strides 8, 16 and 32."""


Answer = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`SamNetwork.answer`, or what does the same."""


class RowMajorTransformer(TwoWayTransformer):  # type: ignore[misc]
    """SAM's decoder transformer, given images whose channels lie together in memory.

    It looks at an image as rows of tokens. Channel by channel, each of its layers would have to
    copy the image first; the arithmetic is the same.
    """

    def forward(
        self, image_embedding: Tensor, image_pe: Tensor, point_embedding: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens of the prompts (B, N, C) and of the image (B, h * w, C)."""
        image_embedding, image_pe = (
            part.contiguous(memory_format=torch.channels_last)
            for part in (image_embedding, image_pe)
        )
        return cast(
            tuple[Tensor, Tensor], super().forward(image_embedding, image_pe, point_embedding)
        )


class SamNetwork(nn.Module):
    """Image encoder, prompt encoder and mask decoder under SAM's own attribute names.

    The keys of its state dict are those of SAM's and MedSAM's published files.
    """

    def __init__(self, image_encoder: nn.Module, *, input_size: int, stride: int) -> None:
        super().__init__()
        grid = input_size // stride
        self.image_encoder = image_encoder
        self.prompt_encoder = PromptEncoder(
            embed_dim=EMBEDDING_CHANNELS,
            image_embedding_size=(grid, grid),
            input_image_size=(input_size, input_size),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=RowMajorTransformer(
                depth=2, embedding_dim=EMBEDDING_CHANNELS, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=EMBEDDING_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )

    def decode(
        self,
        embedding: Tensor,
        *,
        boxes: Tensor | None = None,
        points: tuple[Tensor, Tensor] | None = None,
        masks: Tensor | None = None,
        answer: Answer | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Answers B prompts on one image.

        Args:
            embedding: (1, 256, h, w).
            boxes: (B, 4) XYXY on the input canvas, or None.
            points: Coordinates (B, N, 2) on the canvas and labels (B, N), 1 add and 0 remove.
            masks: (B, 1, 4h, 4w) logits of an earlier answer, or None.
            answer: What runs `answer`, if not this network.

        Returns:
            Logits (B, 1, 4h, 4w) and predicted IoU (B, 1).
        """
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return (answer or self.answer)(embedding, sparse, dense)

    def answer(self, embedding: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the mask decoder.

        Args:
            embedding: (1, 256, h, w).
            sparse: (B, N, 256), boxes and points as the prompt encoder gives them.
            dense: (B, 256, h, w), earlier answers likewise.

        Returns:
            Logits (B, 1, 4h, 4w) and predicted IoU (B, 1).
        """
        places = self.prompt_encoder.get_dense_pe()
        dtype = next(self.mask_decoder.parameters()).dtype
        embedding, places, sparse, dense = (
            part.to(dtype) for part in (embedding, places, sparse, dense)
        )
        logits, iou = self.mask_decoder(
            image_embeddings=embedding,
            image_pe=places,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return logits, iou


class FusedBiasAttention(tiny_vit.Attention):
    """TinyViT's attention whose bias has a batch axis, for PyTorch's fused kernel.

    The kernel takes no bias of three dimensions; without it the matrix is made at full length and
    read some six times.
    """

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """(1, heads, tokens, tokens)."""
        return super().get_attention_biases(device)[None]


class TinyViTEncoder(nn.Module):
    """TinyViT-5M with a top-down neck from strides 8, 16 and 32 to 256 channels at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model(
            "tiny_vit_5m_224", pretrained=False, features_only=True, out_indices=(1, 2, 3)
        )
        for part in self.trunk.modules():
            if type(part) is tiny_vit.Attention:
                # timm builds its own attentions; this changes how they compute and nothing else.
                part.__class__ = FusedBiasAttention
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, EMBEDDING_CHANNELS, 1) for channels in TINYVIT_CHANNELS
        )
        self.smooth = nn.Sequential(
            LayerNorm2d(EMBEDDING_CHANNELS),
            nn.Conv2d(EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, padding=1),
            LayerNorm2d(EMBEDDING_CHANNELS),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Embeds (B, 3, 8h, 8w) images as (B, 256, h, w)."""
        fine, middle, coarse = (
            lateral(feature)
            for lateral, feature in zip(self.lateral, self.trunk(image), strict=True)
        )
        middle = middle + F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear")
        fine = fine + F.interpolate(middle, size=fine.shape[-2:], mode="bilinear")
        return cast(Tensor, self.smooth(fine))


class BlockAttention(Attention):  # type: ignore[misc]
    """SAM's attention with relative positions, a few rows of its matrix at a time.

    At 1024 px a global layer's matrix is 12 x 4096 x 4096: 0.8 GB, read and written some eight
    times. Rows are independent of each other, so `ROWS` of one head are finished while they are in
    the processor's cache; the arithmetic is the same. Training and tracing take SAM's own way.
    """

    ROWS: Final = 256

    def forward(self, x: Tensor) -> Tensor:
        """Attends within (B, H, W, C) tokens."""
        batch, height, width, _ = x.shape
        tokens = height * width
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        if tokens <= self.ROWS or torch.is_grad_enabled() or traced:
            return cast(Tensor, super().forward(x))
        heads = batch * self.num_heads
        q, k, v = (  # (B * heads, H * W, C / heads) each
            self.qkv(x)
            .reshape(batch, tokens, 3, self.num_heads, -1)
            .permute(2, 0, 3, 1, 4)
            .reshape(3, heads, tokens, -1)
            .unbind(0)
        )
        grid = q.reshape(heads, height, width, -1)
        rows, columns = (
            get_rel_pos(size, size, table)
            for size, table in ((height, self.rel_pos_h), (width, self.rel_pos_w))
        )
        by_row = torch.einsum("bhwc,hkc->bhwk", grid, rows).reshape(heads, tokens, height, 1)
        by_column = torch.einsum("bhwc,wkc->bhwk", grid, columns).reshape(heads, tokens, 1, width)
        keys = (k * self.scale).transpose(1, 2)
        out = torch.empty_like(q)
        for head in range(heads):
            for start in range(0, tokens, self.ROWS):
                part = slice(start, start + self.ROWS)
                weights = q[head, part] @ keys[head]
                weights.view(-1, height, width).add_(by_row[head, part]).add_(by_column[head, part])
                out[head, part] = weights.softmax(dim=-1) @ v[head]
        out = out.view(batch, self.num_heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return cast(Tensor, self.proj(out.reshape(batch, height, width, -1)))


def build_vit_b(input_size: int = 1024) -> SamNetwork:
    """SAM ViT-B at 1024 px, the architecture of `medsam_vit_b.pth`; weights fit their own size."""
    encoder = ImageEncoderViT(
        depth=12,
        embed_dim=768,
        img_size=input_size,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        num_heads=12,
        patch_size=16,
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=[2, 5, 8, 11],
        window_size=14,
        out_chans=EMBEDDING_CHANNELS,
    )
    for block in encoder.blocks:
        # The encoder builds its own attentions; this changes how they compute and nothing else.
        block.attn.__class__ = BlockAttention
    return SamNetwork(encoder, input_size=input_size, stride=16)


def build_tinyvit_5m(input_size: int = 512) -> SamNetwork:
    """TinyViT-5M at 512 px, the bundled segmenter's architecture; training may start smaller."""
    return SamNetwork(TinyViTEncoder(), input_size=input_size, stride=8)


ARCHITECTURES: Final[Mapping[str, Callable[[int], SamNetwork]]] = {
    "sam-vit-b-1024": build_vit_b,
    "sam-tinyvit-5m-512": build_tinyvit_5m,
}
"""Builders by name; each takes the side of its square input in pixels."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the image encoder made of one radiograph: enough to answer any prompt.

    Attributes:
        features: (1, 256, h, w) on the segmenter's device, in the precision of its encoder.
        placement: Where the radiograph lies in the canvas.
    """

    features: Tensor
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
            network: From `ARCHITECTURES`.
            device: Where it runs.
            precision: Of the image encoder and the mask decoder.
            encode: What runs the image encoder, in that precision, where it does not do so itself.
            answer: What runs the mask decoder for one prompt, likewise.
        """
        self.spec = spec
        self._device = torch.device(device)
        self._network = network.eval().requires_grad_(False).to(self._device)
        self.precision: Precision = precision
        if precision == "bf16":
            if answer is None:
                # The decoder whole: between its many small steps conversions would take over.
                self._network.mask_decoder.to(torch.bfloat16)
            if encode is None:
                hold_in(precision, self._network.image_encoder.modules())
        self._encode = encode or self._network.image_encoder
        self._answer = answer or self._network.answer

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
            features = self._encode(torch.from_numpy(canvases).to(self._device))
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
        logits, iou = self._network.decode(
            embedding.features, boxes=boxes, points=points, masks=masks, answer=self._answer
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
