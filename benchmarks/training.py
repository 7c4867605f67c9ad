"""Rows on training: a step in each precision, and the loader against data that cost nothing."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.models import resnet50

from benchmarks.harness import Row, Timing, interleaved, ratio
from benchmarks.setting import Setting
from cxrdemo.devices import has_bf16
from cxrdemo.inputs import InputSpec
from cxrdemo.labels import FINDING_KEYS
from cxrdemo.phantom import make_phantom
from training.engine.draws import EvenSampler
from training.images.findings import FindingDataset
from training.sets.index import FindingCase

BATCH = 16
SIZE = 224
IMAGES = 64


def step(setting: Setting) -> list[Row]:
    """One step of a ResNet50 in fp32 as it comes, and as training runs it here."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = []
    for device in devices:
        parts = {
            "plain": _training_step(device, bf16=False, channels_last=False),
            "ours": _training_step(device, bf16=has_bf16(device), channels_last=True),
        }
        times = interleaved(parts, repeats=min(5, setting.repeats))
        faster = ratio(times["plain"], times["ours"])
        precise = "bf16" if has_bf16(device) else "fp32, for want of bf16 hardware"
        rows.append(
            Row(
                f"training step, {device}", "plain fp32 loop", f"{faster:.2f} x ({times['ours']})",
                ">= 2 x in bf16", faster >= 2 if has_bf16(device) else None,
                {k: v.seconds for k, v in times.items()},
                f"ResNet50, batch of {BATCH} at {SIZE} px, channels last, {precise}",
            )
        )  # fmt: skip
    return rows


def loader(setting: Setting) -> list[Row]:
    """Steps fed by the project's loader against the same steps on one batch in memory."""
    with tempfile.TemporaryDirectory() as folder:
        cases = _cases(Path(folder))
        dataset = FindingDataset(cases, InputSpec(hw=(SIZE, SIZE)))
        run = _training_step("cpu", bf16=has_bf16("cpu"), channels_last=True)

        def from_files() -> None:
            for batch in DataLoader(dataset, batch_size=BATCH, sampler=EvenSampler(len(dataset))):
                run(batch["image"])

        def from_memory() -> None:
            for _ in range(IMAGES // BATCH):
                run()

        times = interleaved(
            {"synthetic": from_memory, "loader": from_files}, repeats=min(3, setting.repeats)
        )
    share = ratio(times["synthetic"], times["loader"])
    per_image = Timing(tuple(s / IMAGES for s in times["loader"].seconds))
    return [
        Row(
            "training fed by the loader", "the same steps on synthetic data",
            f"{share:.2f} of its rate ({per_image} an image)", ">= 0.9", share >= 0.9,
            {k: v.seconds for k, v in times.items()}, "CPU, no worker process",
        )
    ]  # fmt: skip


def _training_step(device: str, *, bf16: bool, channels_last: bool) -> Callable[..., None]:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = resnet50(weights=None, num_classes=5).train().to(device, memory_format=layout)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    standing = torch.rand(BATCH, 3, SIZE, SIZE)
    labels = torch.randint(0, 2, (BATCH, 5)).float().to(device)

    def run(images: torch.Tensor = standing) -> None:
        shown = images.to(device, memory_format=layout)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = network(shown)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def _cases(folder: Path) -> list[FindingCase]:
    """Phantoms as JPEG files of 512 px."""
    pixels = [make_phantom(seed=seed, hw=(512, 512)).radiograph.pixels for seed in range(4)]
    cases = []
    for number in range(IMAGES):
        path = folder / f"{number}.jpg"
        cv2.imwrite(str(path), np.rint(pixels[number % 4] * 255).astype(np.uint8))
        cases.append(_case(path, number))
    return cases


def _case(path: Path, number: int) -> FindingCase:
    return FindingCase(
        name=path.stem,
        dataset="phantoms",
        patient_id=path.stem,
        image=path,
        labels=dict.fromkeys(FINDING_KEYS, number % 2),
        no_finding=1 - number % 2,
        split="train",
    )
