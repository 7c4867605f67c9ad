"""`cxrdemo space`: a folder with exactly what a Hugging Face Space is pushed.

What binary files need (large-file storage), what the front matter must say, and the weights, inside
or fetched from a model repository, are put together here, so that nothing depends on memory.
"""

import argparse
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from cxrdemo import __version__
from cxrdemo.checkpoints import MANIFEST_NAME, CheckpointStore
from cxrdemo.commands.speaking import say
from cxrdemo.errors import SettingError
from cxrdemo.hub import checkpoint_folder
from cxrdemo.settings import REPOSITORY, ZEROGPU

HUB: Final = "hf://"

LARGE_FILES: Final = ("*.safetensors", "*.png", "*.jpg", "*.dcm")
"""The Hub refuses binary files that are not in large-file storage."""

FRONT_MATTER: Final = {
    "title": "Chest X-ray viewer",
    "emoji": "🩻",
    "colorFrom": "gray",
    "colorTo": "indigo",
    "sdk": "gradio",
    "app_file": "app.py",
    # The code is Apache-2.0; the weights that run in the Space have terms of their own.
    "license": "other",
    "license_name": "code-apache-2.0-weights-as-their-cards-say",
    "license_link": "LICENSE",
    "short_description": "Lung masking, findings and Grad-CAM side by side",
    "thumbnail": "docs/viewer.png",
    "tags": ["chest-x-ray", "medical-imaging", "segmentation", "grad-cam", "explainability"],
    "pinned": False,
}


@dataclass(frozen=True)
class Hardware:
    """What a Space's hardware asks for.

    Attributes:
        flavour: The Hub's name for it.
        python: The version to build with.
        pins: Versions in place of those of `requirements.txt`, by package.
        packages: Requirements on top.
        variables: Of the environment, unless the Space's own settings name others.
    """

    flavour: str
    python: str
    pins: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


HARDWARE: Final = {
    "cpu": Hardware("cpu-basic", "3.11"),
    # The newest Python and PyTorch in the list that the Hub's page on ZeroGPU has.
    ZEROGPU: Hardware(
        "zero-a10g",
        "3.12.12",
        pins={"torch": "2.11.0", "torchvision": "0.26.0"},
        packages=("spaces",),
        variables={"CXRDEMO_DEVICE": ZEROGPU},
    ),
}
"""By the names that --hardware takes, see `settings.HARDWARE`."""

_PARTS: Final = (
    "cxrdemo",
    "app.py",
    "LICENSE",
    "CITATION.cff",
    # The pictures of the README, which is the Space's card.
    "docs/viewer.png",
    "docs/compare.png",
    "docs/phone.png",
)
_WRITTEN: Final = ("README.md", "requirements.txt", ".gitattributes")


def run(args: argparse.Namespace) -> int:
    """Assembles the folder and says how to push it.

    Raises:
        SettingError: If this is no clone of the repository, or the folder holds something else.
        CheckpointError: If a checkpoint is missing or altered.
    """
    target: Path = args.to
    _check(target)
    location, hardware = str(args.checkpoints), HARDWARE[args.hardware]
    requirements = _requirements(hardware, args.index)
    # Raises if there are no such weights, before anything is written.
    readme = _readme(location, hardware)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(
            f"--to {target} cannot be used as a folder: {error.strerror}."
        ) from error
    for part in _PARTS:
        _copy(REPOSITORY / part, target / part)
    variables = dict(hardware.variables)
    if location.startswith(HUB):
        variables["CXRDEMO_CHECKPOINTS"] = location
    else:
        _copy_checkpoints(CheckpointStore.open(Path(location)), target / "checkpoints")
    _set_at_start(target / "app.py", variables)
    (target / "README.md").write_text(_without_dead_links(readme, target), encoding="utf-8")
    (target / "requirements.txt").write_text(requirements, encoding="utf-8")
    large = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in LARGE_FILES)
    (target / ".gitattributes").write_text(large, encoding="utf-8")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    say(f"{target}: {size / 2**20:.0f} MB. Push it with")
    say(f"  hf upload OWNER/NAME {target} . --repo-type space")
    return 0


def _check(target: Path) -> None:
    if not (REPOSITORY / "requirements.txt").is_file():
        raise SettingError("A Space is assembled from a clone of the repository; this is none.")
    if target.resolve() == REPOSITORY or REPOSITORY in target.resolve().parents:
        raise SettingError("--to must name a folder outside the repository.")
    if target.exists() and not target.is_dir():
        raise SettingError(f"--to {target} is a file; name a folder.")
    known = {*(Path(part).parts[0] for part in _PARTS), *_WRITTEN, "checkpoints", ".git", ".cache"}
    strangers = {path.name for path in target.iterdir()} - known if target.exists() else set()
    if strangers:
        raise SettingError(
            f"--to {target} holds something else ({', '.join(sorted(strangers)[:3])}). Name an "
            "empty folder, or a clone of the Space."
        )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)  # what was dropped since must not stay
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy(source, target)


def _copy_checkpoints(store: CheckpointStore, target: Path) -> None:
    """The manifest and what it lists, verified; weights that no manifest lists stay behind."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(store.folder / MANIFEST_NAME, target)
    for spec in store.specs:
        store.load(spec)
        shutil.copy(store.folder / spec.file, target)
        card = (store.folder / spec.file).with_suffix(".md")
        if card.is_file():
            shutil.copy(card, target)


def _set_at_start(app: Path, variables: Mapping[str, str]) -> None:
    """Has the Space start with variables, unless its own settings say otherwise."""
    if not variables:
        return
    start = 'if __name__ == "__main__":'
    lines = [f'os.environ.setdefault("{name}", {value!r})\n' for name, value in variables.items()]
    setting = "".join(lines) + "\n"
    text = app.read_text(encoding="utf-8").replace("import sys\n", "import os\nimport sys\n", 1)
    app.write_text(text.replace(start, setting + start, 1), encoding="utf-8")


def _readme(location: str, hardware: Hardware) -> str:
    matter: dict[str, object] = {
        **FRONT_MATTER,
        "sdk_version": _pins()["gradio"],
        "python_version": hardware.python,
        "suggested_hardware": hardware.flavour,
    }
    if location.startswith(HUB):
        repository, _, revision = location.removeprefix(HUB).partition("@")
        matter["models"] = [repository]
        store = CheckpointStore.open(checkpoint_folder(location))
        files = ",".join([MANIFEST_NAME, *(spec.file for spec in store.specs)])
        matter["preload_from_hub"] = [f"{repository} {files} {revision}"]
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[1] if text.startswith("---\n") else text
    head = yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)
    origin = f"Assembled from version {__version__}. Documents named here are in its repository."
    return f"---\n{head}---\n\n{origin}\n{body}"


def _without_dead_links(text: str, folder: Path) -> str:
    """A page whose links to files that are not in its folder are words alone."""

    def checked(link: re.Match[str]) -> str:
        path = link["address"].partition("#")[0]
        return link[0] if "://" in path or (folder / path).exists() else link["words"]

    return re.sub(r"(?<!!)\[(?P<words>[^]]+)\]\((?P<address>[^)]+)\)", checked, text)


def _requirements(hardware: Hardware, index: str | None) -> str:
    """The pinned list as the hardware asks for it, with a further package index if one is named."""
    if index and hardware.pins:
        raise SettingError("--index is for PyTorch's CPU wheels; a GPU needs the plain ones.")
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    for name, version in hardware.pins.items():
        text = re.sub(rf"(?m)^{name}==.*$", f"{name}=={version}", text)
    text += "".join(f"{package}\n" for package in hardware.packages)
    return f"--extra-index-url {index}\n{text}" if index else text


def _pins() -> dict[str, str]:
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
