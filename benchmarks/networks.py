"""Rows on the networks alone: embeddings, prompts, Grad-CAM, and the machine's own limit."""

import copy
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from segment_anything.modeling.image_encoder import Attention
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Row, Timing, interleaved, ratio
from benchmarks.plain import grad_cams
from benchmarks.setting import Setting
from cxrdemo.backbones import logits_of
from cxrdemo.classifier import Evidence
from cxrdemo.devices import computing_in, hold_in
from cxrdemo.engines import Engine, compile_part
from cxrdemo.inputs import MEDSAM_INPUT
from cxrdemo.placement import Placement
from cxrdemo.results import ALL_MASKINGS
from cxrdemo.saliency import explain
from cxrdemo.sam import build_vit_b
from cxrdemo.segmenter import Embedding, LungSegmenter, Prompts
from cxrdemo.specs import CheckpointSpec


def peak(setting: Setting) -> list[Row]:
    """fp32 arithmetic this machine reaches in its best cases: the limit of everything below."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    convolution = torch.nn.Conv2d(256, 256, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.rand(1, 256, 64, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        times = interleaved(
            {"product": lambda: a @ b, "convolution": lambda: convolution(x)},
            repeats=max(5, setting.repeats),
        )
    work = {"product": 2 * 2048**3, "convolution": 2 * 9 * 256**2 * 64**2}
    rates = {name: work[name] / min(t.seconds) / 1e9 for name, t in times.items()}
    setting.peak_gflops = max(rates.values())
    words = ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in rates.items())
    return [Row("fp32 peak of this machine", "-", words, "-", None, {"gflops": rates})]


def vit_b(setting: Setting) -> list[Row]:
    """MedSAM's image encoder at 1024 px. Random weights: speed does not depend on them."""
    torch.manual_seed(0)
    network = build_vit_b().eval().requires_grad_(False)
    plain = copy.deepcopy(network.image_encoder)
    for block in plain.blocks:
        block.attn.__class__ = Attention
    for encoder in (network.image_encoder, plain):
        torch.manual_seed(1)
        for block in encoder.blocks:
            torch.nn.init.normal_(block.attn.rel_pos_h, std=0.02)
            torch.nn.init.normal_(block.attn.rel_pos_w, std=0.02)
    image = torch.rand(1, 3, 1024, 1024)
    hold_in(setting.precision, network.image_encoder.modules())

    def ours() -> torch.Tensor:
        with computing_in(setting.precision, "cpu"):
            return cast(torch.Tensor, network.image_encoder(image))

    parts: dict[str, Callable[[], torch.Tensor]] = {"reference": lambda: plain(image)}
    parts["torch"] = ours
    if "openvino" in setting.engines:
        compiled = compile_part(
            plain, plain, shapes=[(1, 3, 1024, 1024)], key="bench-vit-b",
            precision=setting.precision, folder=setting.cache,
        )  # fmt: skip
        parts["openvino"] = lambda: compiled(image)
    with torch.inference_mode():
        expected = plain(image)
        times = interleaved(parts, repeats=min(3, setting.repeats), warm_up=0)
        found = {name: run().float() for name, run in parts.items()}
    cosine = {
        name: float(torch.nn.functional.cosine_similarity(y.flatten(), expected.flatten(), dim=0))
        for name, y in found.items()
    }
    return _against(
        setting, "MedSAM ViT-B embedding at 1024", "segment-anything fp32 eager", times, 6.0,
        _gflop(partial(plain, image)), {"cosine": cosine},
        f"random weights, {setting.precision}; cosine with the reference "
        f"{min(cosine.values()):.5f} or more",
    )  # fmt: skip


def segmenter(setting: Setting) -> list[Row]:
    """The bundled segmenter, from native pixels to the mask at native size."""
    pipelines, radiograph = setting.in_both_precisions, setting.radiograph
    plain = setting.plain
    parts = {"reference": lambda: plain.lungs(radiograph.pixels)}
    parts |= {name: partial(p.find, radiograph) for name, p in pipelines.items()}
    times = interleaved(parts, repeats=setting.repeats)
    expected = plain.lungs(radiograph.pixels)
    ious = {name: _iou(p.find(radiograph).lungs.inside, expected) for name, p in pipelines.items()}
    return _against(
        setting, "bundled segmenter, image to mask", "same modules, fp32 eager", times, 2.0,
        _gflop(lambda: setting.plain.lungs(radiograph.pixels)), {"iou": ious},
        f"fp32 unless told; phantom of {radiograph.hw[0]} x {radiograph.hw[1]}; mask IoU with "
        f"the reference {min(ious.values()):.4f} or more; real images in tests/test_engines.py",
    )  # fmt: skip


def prompts(setting: Setting) -> list[Row]:
    """A click on an embedding that is there already."""
    radiograph = setting.radiograph
    click = (radiograph.hw[1] * 0.3, radiograph.hw[0] * 0.5)
    pipelines = setting.in_both_precisions
    found = {name: p.find(radiograph) for name, p in pipelines.items()}
    torch.manual_seed(0)
    spec = CheckpointSpec(
        "random", "lungs", "sam-vit-b-1024", "random.safetensors", "0" * 64, MEDSAM_INPUT
    )
    big = LungSegmenter(spec, build_vit_b(), precision=setting.precision)
    placement = Placement.stretch(radiograph.hw, (1024, 1024))
    embedding = Embedding(torch.randn(1, 256, 64, 64).numpy(), placement)
    parts: dict[str, Callable[[], object]] = {
        f"bundled, {name}": partial(p.correct, found[name], click=click)
        for name, p in pipelines.items()
    }
    goals = dict.fromkeys(parts, 0.05) | {"ViT-B, torch": 0.1}
    parts["ViT-B, torch"] = lambda: big.segment(embedding, Prompts(points=(click,), adds=(True,)))
    parts["encoder"] = lambda: setting.plain.lungs(radiograph.pixels)
    times = interleaved(parts, repeats=max(5, setting.repeats))
    return [
        Row(
            f"prompt on a cached embedding, {name}",
            "the bundled encoder again",
            f"{times[name]}, {ratio(times['encoder'], times[name]):.1f} x",
            f"< {goal * 1000:.0f} ms",
            times[name].median < goal,
            {k: v.seconds for k, v in times.items()},
            f"native mask included; bundled in fp32 unless told, ViT-B in {setting.precision}, "
            "its weights are random",
        )
        for name, goal in goals.items()
    ]


def grad_cam(setting: Setting) -> list[Row]:
    """Five labels by three maskings."""
    plain, pipelines = setting.plain, setting.pipelines
    images = plain.inputs(setting.radiograph.pixels)
    placement = Placement.letterbox(
        setting.radiograph.hw, tuple(images[ALL_MASKINGS[0]].shape[-2:])
    )

    def package() -> None:
        for mode in ALL_MASKINGS:
            grad_cams(plain.classifiers[mode], images[mode], 5)

    @torch.inference_mode()
    def bare() -> None:
        for mode in ALL_MASKINGS:
            plain.classifiers[mode](images[mode])

    @torch.inference_mode()
    def ours(name: Engine) -> None:
        for mode in ALL_MASKINGS:
            part, image = pipelines[name]._classifiers[mode], images[mode]
            activations = part.activations(image)
            logits_of(part.network, activations)
            explain(part, Evidence(image, activations, placement, 0.0))

    parts = {"grad-cam": package, "bare forward": bare}
    parts |= {name: partial(ours, name) for name in pipelines}
    times = interleaved(parts, repeats=setting.repeats)
    rows = []
    for name in pipelines:
        faster = ratio(times["grad-cam"], times[name])
        cost = 1 / ratio(times["bare forward"], times[name])
        rows += [
            Row(f"15 Grad-CAM maps, {name}", "grad-cam per label and masking",
                f"{faster:.1f} x ({times[name]} against {times['grad-cam']})", ">= 15 x",
                faster >= 15, {k: v.seconds for k, v in times.items()}),
            Row(f"15 Grad-CAM maps, {name}", "bare forward of the three, eager",
                f"{cost:.2f} x", "<= 1.2 x", cost <= 1.2),
        ]  # fmt: skip
    return rows


def _against(
    setting: Setting, work: str, reference: str, times: dict[str, Timing], goal: float,
    gflop: float, detail: dict[str, object], note: str,
) -> list[Row]:  # fmt: skip
    """A row per engine, with the share of the machine's peak that it reaches."""
    rows = []
    slow = times["reference"]
    for name, ours in times.items():
        if name == "reference":
            continue
        faster = ratio(slow, ours)
        limit = slow.median / (gflop / setting.peak_gflops)
        share = gflop / ours.median / setting.peak_gflops
        rows.append(
            Row(
                f"{work}, {name}",
                reference,
                f"{faster:.2f} x ({ours} against {slow})",
                f">= {goal:g} x",
                faster >= goal,
                {**detail, "gflop": gflop, **{k: v.seconds for k, v in times.items()}},
                f"{note}; {gflop:.0f} GFLOP at {share:.0%} of the peak, at which it would be "
                f"{limit:.1f} x",
            )
        )
    return rows


def _gflop(run) -> float:  # type: ignore[no-untyped-def]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())
