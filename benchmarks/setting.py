"""What the rows share: the checkpoints by every engine, the plain networks, and one large image."""

import functools
import io
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import TwoWayTransformer
from timm.models.tiny_vit import Attention

from benchmarks import plain
from cxrdemo import backbones, sam
from cxrdemo.checkpoints import CheckpointStore, load_strictly
from cxrdemo.devices import Precision, precision_for
from cxrdemo.engines import Engine, cache_folder
from cxrdemo.examples import make_dicom
from cxrdemo.files import read_radiograph
from cxrdemo.inputs import normalise, place
from cxrdemo.lungs import split_sides
from cxrdemo.masking import DEFAULT_MARGIN
from cxrdemo.phantom import make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import ALL_MASKINGS, MaskingMode
from cxrdemo.sam import SamNetwork
from cxrdemo.settings import REPOSITORY

BUNDLED = REPOSITORY / "checkpoints"

HW = (2500, 2048)
"""A common size of digital radiographs."""


@dataclass
class Setting:
    """One run.

    Attributes:
        repeats: Rounds of each comparison.
        results: Folder of the JSON files and of what rows write.
        peak_gflops: fp32 rate of this machine, measured by the first row.
    """

    repeats: int
    results: Path
    peak_gflops: float = field(default=float("nan"))

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Those installed here."""
        return ("torch", "openvino") if find_spec("openvino") else ("torch",)

    @property
    def precision(self) -> Precision:
        """Where the app does not keep fp32 for the sake of the results; references are fp32."""
        return precision_for("auto", "cpu")

    @property
    def cache(self) -> Path:
        """Where converted networks are kept from one run to the next."""
        return cache_folder()

    @functools.cached_property
    def pipelines(self) -> dict[Engine, Pipeline]:
        """The bundled checkpoints, by engine."""
        return {
            engine: Pipeline.from_checkpoints(BUNDLED, precision="auto", engine=engine)
            for engine in self.engines
        }

    @functools.cached_property
    def in_both_precisions(self) -> dict[str, Pipeline]:
        """`pipelines`, and where there is bf16 those with the bundled segmenter in it, if told."""
        told = self.engines if self.precision == "bf16" else ()
        return {**self.pipelines} | {
            f"{engine} in bf16": Pipeline.from_checkpoints(BUNDLED, precision="bf16", engine=engine)
            for engine in told
        }

    @functools.cached_property
    def plain(self) -> "PlainNetworks":
        """The same weights in networks of their own, run as they come."""
        return PlainNetworks.load(BUNDLED)

    @functools.cached_property
    def dicom(self) -> bytes:
        """A phantom as an uncompressed 16-bit DICOM file of `HW`."""
        stream = io.BytesIO()
        made = make_dicom(make_phantom(seed=3, hw=HW).radiograph, seed=3)
        made.save_as(stream, enforce_file_format=True)
        return stream.getvalue()

    @functools.cached_property
    def radiograph(self) -> Radiograph:
        """That file, read."""
        return read_radiograph(self.dicom)


@dataclass(frozen=True)
class PlainNetworks:
    """Eager fp32 modules, and the steps around them without short cuts."""

    network: SamNetwork
    classifiers: dict[MaskingMode, torch.nn.Module]
    store: CheckpointStore

    @classmethod
    def load(cls, folder: Path) -> "PlainNetworks":
        """Loads the first segmenter and a classifier per masking."""
        store = CheckpointStore.open(folder)
        spec = store.lungs()
        assert spec is not None
        network = (
            sam.ARCHITECTURES[spec.architecture]
            .build(spec.inputs.hw[0])
            .eval()
            .requires_grad_(False)
        )
        load_strictly(network, store.load(spec), spec.name)
        for part in network.modules():
            # As the packages have them, without the ways round of `cxrdemo.sam`.
            if isinstance(part, sam.FusedBiasAttention):
                part.__class__ = Attention
            elif isinstance(part, sam.RowMajorTransformer):
                part.__class__ = TwoWayTransformer
        classifiers: dict[MaskingMode, torch.nn.Module] = {}
        for mode in ALL_MASKINGS:
            found = store.findings(mode)
            assert found is not None
            part = backbones.ARCHITECTURES[found.architecture](len(found.labels)).eval()
            load_strictly(part, store.load(found), found.name)
            classifiers[mode] = part
        return cls(network, classifiers, store)

    @torch.inference_mode()
    def lungs(self, pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Both lungs at native size."""
        spec = self.store.lungs()
        assert spec is not None
        canvas, placement = place(pixels, spec.inputs)
        features = self.network.image_encoder(
            torch.from_numpy(normalise(canvas, spec.inputs))[None]
        )
        height, width = spec.inputs.hw
        canvas_box = torch.tensor([[0.0, 0.0, width, height]])
        logits = self.network.decode(features, boxes=canvas_box)[0][0, 0].numpy()
        return split_sides(placement.undo_map(logits) > 0)[0] > 0

    def kept(self, lungs: NDArray[np.bool_]) -> dict[MaskingMode, NDArray[np.bool_]]:
        """The region that each masking keeps."""
        return {
            MaskingMode.NONE: np.ones(lungs.shape, bool),
            MaskingMode.LOOSE: plain.loose(lungs, DEFAULT_MARGIN),
            MaskingMode.TIGHT: lungs,
        }

    def masked(
        self, pixels: NDArray[np.float32], lungs: NDArray[np.bool_]
    ) -> dict[MaskingMode, NDArray[np.float32]]:
        """What each classifier is shown."""
        return {mode: self.filled(pixels, kept, mode) for mode, kept in self.kept(lungs).items()}

    def filled(
        self, pixels: NDArray[np.float32], kept: NDArray[np.bool_], mode: MaskingMode
    ) -> NDArray[np.float32]:
        """The image with what is not kept at the level that the checkpoint asks for."""
        spec = self.store.findings(mode)
        assert spec is not None
        fill = spec.inputs.fill
        level = pixels[kept].mean() if isinstance(fill, str) else fill
        return np.where(kept, pixels, np.float32(level))

    def inputs(self, pixels: NDArray[np.float32]) -> dict[MaskingMode, torch.Tensor]:
        """The classifiers' inputs for one image."""
        return self.as_inputs(self.masked(pixels, self.lungs(pixels)))

    def as_inputs(
        self, masked: dict[MaskingMode, NDArray[np.float32]]
    ) -> dict[MaskingMode, torch.Tensor]:
        """Masked images as the checkpoints want them."""
        found = {}
        for mode, image in masked.items():
            spec = self.store.findings(mode)
            assert spec is not None
            found[mode] = plain.network_input(image, spec.inputs)
        return found

    @torch.inference_mode()
    def logits(
        self, mode: MaskingMode, image: torch.Tensor, kept: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Of one input, pooled as the checkpoint was trained to."""
        spec = self.store.findings(mode)
        assert spec is not None
        network = self.classifiers[mode]
        if spec.pooling == "all":
            return np.asarray(network(image)[0])
        return np.asarray(plain.kept_logits(network, image, kept)[0])
