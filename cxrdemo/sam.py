"""SAM's promptable network over one of two image encoders: pure modules, no pixels, no prompts.

`sam-vit-b-1024` is MedSAM's architecture (Ma et al., Nature Communications 15:654, 2024) with the
key names of its published `medsam_vit_b.pth`. `sam-tinyvit-5m-512` replaces the image encoder by a
TinyViT-5M (Wu et al., ECCV 2022) with a neck to the same 256 x 64 x 64 embedding.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import timm
import torch
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

from cxrdemo.errors import CheckpointError
from cxrdemo.inputs import MEDSAM_INPUT, InputSpec

EMBEDDING_CHANNELS: Final = 256
TINYVIT_CHANNELS: Final = (128, 160, 320)
"""Channels of TinyViT-5M's features at strides 8, 16 and 32."""
TINYVIT_PX: Final = 512
"""Side of the bundled segmenter's input."""

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
        """Begins with random weights.

        Args:
            image_encoder: Gives an embedding of `EMBEDDING_CHANNELS`.
            input_size: Side of its square input in pixels.
            stride: Pixels of the input per cell of the embedding.

        Raises:
            CheckpointError: If the cells do not fill the input.
        """
        super().__init__()
        if input_size % stride:
            raise CheckpointError(
                f"A segmenter's input is a multiple of {stride} px, not {input_size} px."
            )
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


def build_vit_b(input_size: int = MEDSAM_INPUT.hw[0]) -> SamNetwork:
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


def build_tinyvit_5m(input_size: int = TINYVIT_PX) -> SamNetwork:
    """TinyViT-5M at 512 px, the bundled segmenter's architecture; training may start smaller."""
    return SamNetwork(TinyViTEncoder(), input_size=input_size, stride=8)


@dataclass(frozen=True)
class Architecture:
    """A segmenter's network and what it is given, both by the side of its square input in pixels.

    Attributes:
        build: Gives the network with random weights.
        inputs: Gives the preprocessing in training; MedSAM's has a side of its own, whatever is
            asked.
    """

    build: Callable[[int], SamNetwork]
    inputs: Callable[[int], InputSpec]


VIT_B: Final = "sam-vit-b-1024"
TINYVIT_5M: Final = "sam-tinyvit-5m-512"

ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    VIT_B: Architecture(build_vit_b, lambda _: MEDSAM_INPUT),
    TINYVIT_5M: Architecture(build_tinyvit_5m, lambda side: InputSpec(hw=(side, side))),
}
"""By the names that specs and commands use."""
