"""The plain way: what one would write first, with public packages and no thought of speed.

The references of the table, and what the fast paths are compared with in tests on real images.
"""

import base64
import io

import cv2
import numpy as np
import pydicom
import torch
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from cxrdemo.inputs import InputSpec, normalise, place


def read(data: bytes) -> NDArray[np.float32]:
    """A DICOM file's pixels in 0..1, transformed pixel by pixel."""
    header = pydicom.dcmread(io.BytesIO(data))
    values = apply_voi_lut(apply_modality_lut(header.pixel_array, header), header)
    unit = (values - values.min()) / (values.max() - values.min())
    if header.PhotometricInterpretation == "MONOCHROME1":
        unit = 1.0 - unit
    return np.asarray(unit, np.float32)


def network_input(pixels: NDArray[np.float32], spec: InputSpec) -> torch.Tensor:
    """(1, 3, H, W), as the checkpoint's spec says."""
    return torch.from_numpy(normalise(place(pixels, spec)[0], spec))[None]


def kept_logits(
    network: torch.nn.Module, image: torch.Tensor, kept: NDArray[np.bool_]
) -> torch.Tensor:
    """Logits (1, K) of a ResNet whose cells count from the half on that a masking keeps."""
    features = image
    for name, part in network.named_children():
        if name == "avgpool":
            break
        features = part(features)
    scale = min(image.shape[-2] / kept.shape[0], image.shape[-1] / kept.shape[1])
    height, width = (round(side * scale) for side in kept.shape)
    small = cv2.resize(kept.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    canvas = np.zeros(image.shape[-2:], np.float32)
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    canvas[top : top + height, left : left + width] = small
    rows, columns = features.shape[-2:]
    share = cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA)
    weight = torch.from_numpy(np.maximum(0, 2 * share - 1))
    head: torch.nn.Module = network.fc  # type: ignore[assignment]
    return torch.as_tensor(head((features * weight).sum((2, 3)) / weight.sum()))


def loose(lungs: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    """The loose region by three Euclidean distance transforms at native size."""
    height = np.flatnonzero(lungs.any(axis=1)).size
    near = _distance(~lungs)
    far = _distance(near <= 2 * margin * height)
    return (far > margin * height) | (near <= margin * height)


def _distance(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    measured = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(measured, np.float32)


def grad_cams(
    network: torch.nn.Module, image: torch.Tensor, labels: int
) -> list[NDArray[np.float32]]:
    """A map per label by the `grad-cam` package: a forward and a backward pass for each."""
    with GradCAM(network, [network.layer4]) as cam:  # type: ignore[arg-type]
        return [cam(image, [ClassifierOutputTarget(k)])[0] for k in range(labels)]


def picture(pixels: NDArray[np.float32]) -> str:
    """A PNG data URL of the whole image, written by Pillow."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
