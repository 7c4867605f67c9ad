import os
from pathlib import Path

import cv2
import pytest
import torch
from cores import threads
from fakes import fake_pipeline

from cxrdemo.phantom import Phantom, make_phantom
from cxrdemo.pipeline import Pipeline
from cxrdemo.sam import SamNetwork, build_vit_b

BUNDLED = Path(__file__).resolve().parent.parent / "checkpoints"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(threads())


@pytest.fixture(autouse=True, scope="session")
def _tests_write_beside_servers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Made before a server under test takes a folder of its own for what is temporary."""
    tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    return make_phantom(seed=1, hw=(320, 288))


@pytest.fixture(scope="session")
def phantom_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training folders of phantoms, `lungs`, `nih`, `pretrain`, and `masks` of `nih`; read only."""
    from training.images.stored_masks import mask_path
    from training.sets.index import read_finding_index
    from training.sets.phantoms import make_phantom_sets

    folder = tmp_path_factory.mktemp("phantom_sets")
    phantoms = make_phantom_sets(folder)
    (folder / "masks").mkdir()
    for phantom, case in zip(phantoms, read_finding_index(folder / "nih"), strict=True):
        cv2.imwrite(str(mask_path(folder / "masks", case.name)), phantom.lungs)
    return folder


@pytest.fixture(scope="module")
def vit_b() -> SamNetwork:
    """MedSAM's architecture with random weights."""
    torch.manual_seed(0)
    network = build_vit_b()
    # As initialised, the positional terms are zero and would hide a mistake.
    for name, parameter in network.named_parameters():
        if "pos" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return network.eval()


@pytest.fixture
def pipeline() -> Pipeline:
    return fake_pipeline()


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real images, which are no part of the project."""
    if "CXRDEMO_DATA" not in os.environ:
        pytest.skip("CXRDEMO_DATA is not set: no real images to test on")
    return Path(os.environ["CXRDEMO_DATA"])


@pytest.fixture(scope="session")
def bundled_pipeline() -> Pipeline:
    """The checkpoints in the repository."""
    if not (BUNDLED / "manifest.json").exists():
        pytest.skip("no bundled checkpoints in this checkout")
    return Pipeline.from_checkpoints(BUNDLED)
