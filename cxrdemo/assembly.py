"""From a checkpoint folder to the parts of a pipeline: what builds networks and loads weights."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch

from cxrdemo import backbones, sam
from cxrdemo.backbones import first_stage, has_first_stage, later_stages
from cxrdemo.checkpoints import CheckpointStore, file_sha256, load_strictly, read_weights
from cxrdemo.classifier import FindingClassifier
from cxrdemo.devices import AskedPrecision, Precision, precision_for
from cxrdemo.engines import ANY_LENGTH, Engine, Part, compile_part
from cxrdemo.errors import CheckpointError
from cxrdemo.inputs import MEDSAM_INPUT
from cxrdemo.sam import EMBEDDING_CHANNELS, SamNetwork
from cxrdemo.segmenter import LungSegmenter
from cxrdemo.specs import CheckpointSpec

SIDE_STEP_PX: Final = 32
"""The coarsest stride of a segmenter's encoder."""

HOLDS: Final[frozenset[Precision]] = frozenset({"bf16"})
"""Half precisions that were measured to leave a ResNet's and MedSAM's results alone, see
docs/performance.md. fp16 was not, for want of a GPU that has it alone."""


@dataclass(frozen=True)
class Assembly:
    """Builds networks, loads their weights and makes parts of a pipeline of them.

    Attributes:
        store: What is listed.
        device: Where they run.
        precision: What they compute in. "auto" takes bf16 where the device has it, for what it was
            measured not to change: a ResNet's stages after the first, and MedSAM's encoder and
            decoder. "bf16" and "fp16" are taken for everything, the bundled segmenter too, whose
            masks then change at the edge. "fp32" is what the published figures were measured in.
        engine: What computes, of those that can.
        cache: Where converted networks are kept; None takes `engines.cache_folder()`.
    """

    store: CheckpointStore
    device: torch.device | str = "cpu"
    precision: AskedPrecision = "fp32"
    engine: Engine = "torch"
    cache: Path | None = None

    def segmenter(self, spec: CheckpointSpec) -> LungSegmenter:
        """A listed segmenter.

        Raises:
            CheckpointError: If its file is missing, altered or does not fit.
        """
        architecture, side = _architecture_of(spec), spec.inputs.hw[0]
        if side % SIDE_STEP_PX:
            raise CheckpointError(
                f"The checkpoint {spec.name} has inputs of {side} px, which its network cannot "
                f"part into cells. Give the spec the size it was trained at, a multiple of "
                f"{SIDE_STEP_PX}."
            )
        network = architecture.build(side)
        load_strictly(network, self.store.load(spec), spec.name)
        return self._as_segmenter(spec, network, holds=())

    def medsam(self, path: Path) -> LungSegmenter:
        """Stock MedSAM weights from outside the manifest: they need the lungs' boxes.

        Raises:
            CheckpointError: If the file is missing or does not fit.
        """
        if not path.is_file():
            raise CheckpointError(
                f"There is no MedSAM file {path.name}. Give the path to its .pth."
            )
        spec = CheckpointSpec(
            name=path.stem,
            task="lungs",
            architecture=sam.VIT_B,
            file=path.name,
            sha256=file_sha256(path),
            inputs=MEDSAM_INPUT,
            prompt="lung-boxes",
        )
        network = sam.build_vit_b()
        load_strictly(network, read_weights(path), spec.name)
        return self._as_segmenter(spec, network, holds=HOLDS)

    def classifier(self, spec: CheckpointSpec) -> FindingClassifier:
        """A listed classifier.

        Raises:
            CheckpointError: If its file is missing, altered or does not fit.
        """
        network = backbones.build_network(spec.architecture, len(spec.labels))
        load_strictly(network, self.store.load(spec), spec.name)
        network.to(memory_format=torch.channels_last)
        holds = HOLDS if has_first_stage(network) else ()
        precision = precision_for(self.precision, self.device, holds=holds)
        image, first = (1, 3, *spec.inputs.hw), None
        if has_first_stage(network):
            part = partial(first_stage, network)
            first = self._compiled(spec, network, part, "first-stage", [image], "fp32")
        features = tuple(first(torch.zeros(image)).shape) if first else image
        later = self._compiled(
            spec, network, partial(later_stages, network), "later-stages", [features], precision
        )
        return FindingClassifier(
            spec, network, device=self.device, precision=precision, first=first, later=later
        )

    def _as_segmenter(
        self, spec: CheckpointSpec, network: SamNetwork, *, holds: Collection[Precision]
    ) -> LungSegmenter:
        precision = precision_for(self.precision, self.device, holds=holds)
        network.to(memory_format=torch.channels_last)
        image = (1, 3, *spec.inputs.hw)
        encode = self._compiled(spec, network, network.image_encoder, "encoder", [image], precision)
        grid = (1, EMBEDDING_CHANNELS, *network.prompt_encoder.image_embedding_size)
        prompts = (1, ANY_LENGTH, EMBEDDING_CHANNELS)
        answer = self._compiled(
            spec, network, network.answer, "decoder", [grid, prompts, grid], precision
        )
        return LungSegmenter(
            spec,
            network,
            device=self.device,
            precision=precision,
            encode=encode,
            answer=answer,
        )

    def _compiled(
        self,
        spec: CheckpointSpec,
        network: torch.nn.Module,
        part: Part,
        name: str,
        shapes: Sequence[tuple[int, ...]],
        precision: Precision,
    ) -> Part | None:
        """What runs a part in PyTorch's place; None if PyTorch runs it."""
        if self.engine == "torch":
            return None
        return compile_part(
            part,
            network.eval().requires_grad_(False),
            shapes=shapes,
            key=f"{spec.architecture.replace('/', '-')}-{spec.sha256[:16]}-{name}",
            precision=precision,
            folder=self.cache,
        )


def _architecture_of(spec: CheckpointSpec) -> sam.Architecture:
    if spec.architecture not in sam.ARCHITECTURES:
        raise CheckpointError(
            f"The checkpoint {spec.name} names the architecture {spec.architecture!r}; known are "
            f"{sorted(sam.ARCHITECTURES)}."
        )
    return sam.ARCHITECTURES[spec.architecture]
