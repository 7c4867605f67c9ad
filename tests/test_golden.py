"""What the bundled weights say about one phantom, kept beside the tests.

Every other test of the bundled checkpoints would pass with a network that is loaded wrongly in a
subtle way: another order of channels, another normalisation, another pooling. This one would not.
After new weights are published: `python tests/test_golden.py`, and look at what changed.
"""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import torch
from conftest import BUNDLED

from cxrdemo.phantom import Phantom, make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.results import Analysis

GOLDEN = Path(__file__).with_name("golden.json")

LOGIT_TOLERANCE = 0.02
"""Processors and numbers of threads sum in another order: below 1e-3 here. A wrong preprocessing
moves logits by tenths."""

MIN_IOU = 0.995
"""The mask's edge lies where a logit changes its sign; a few of its pixels may differ."""


def what_is_said(analysis: Analysis) -> dict:
    assert analysis.lungs is not None
    packed = zlib.compress(np.packbits(analysis.lungs.inside).tobytes(), 9)
    return {
        "checkpoints": {use.role: use.sha256 for use in analysis.checkpoints},
        "logits": {
            str(mode): [round(float(logit), 4) for logit in reading.findings.logits]
            for mode, reading in analysis.readings.items()
        },
        "lungs": base64.b64encode(packed).decode("ascii"),
    }


def test_the_bundled_weights_say_what_they_said(
    bundled_pipeline: Pipeline, phantom: Phantom
) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    analysis = bundled_pipeline.analyse(phantom.radiograph)
    found = what_is_said(analysis)
    assert found["checkpoints"] == golden["checkpoints"], "new weights: renew golden.json"
    for mode, logits in golden["logits"].items():
        assert np.abs(np.subtract(found["logits"][mode], logits)).max() <= LOGIT_TOLERANCE, mode
    bits = np.frombuffer(zlib.decompress(base64.b64decode(golden["lungs"])), np.uint8)
    assert analysis.lungs is not None
    inside = analysis.lungs.inside
    lungs = np.unpackbits(bits, count=inside.size).reshape(inside.shape).astype(bool)
    assert (lungs & inside).sum() / (lungs | inside).sum() >= MIN_IOU


if __name__ == "__main__":
    torch.set_num_threads(1)
    phantom_of_the_tests = make_phantom(seed=1, hw=(320, 288))
    said = what_is_said(Pipeline.from_checkpoints(BUNDLED).analyse(phantom_of_the_tests.radiograph))
    GOLDEN.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
