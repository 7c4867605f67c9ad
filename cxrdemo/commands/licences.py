"""`cxrdemo licences`: every package the installed app needs, its version and its licence."""

import argparse
import json
import re
import tomllib
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement

from cxrdemo import __version__
from cxrdemo.commands.speaking import say
from cxrdemo.errors import SettingError
from cxrdemo.settings import REPOSITORY

UNKNOWN: Final = "not stated"
_CLASSIFIER: Final = "License :: "


@dataclass(frozen=True)
class Package:
    """One installed package."""

    name: str
    version: str
    licence: str


def run(args: argparse.Namespace) -> int:
    """Prints a table, or a bill of materials in CycloneDX JSON."""
    packages = needed_packages()
    if args.sbom:
        say(json.dumps(bill_of_materials(packages), indent=1))
        return 0
    width = max(len(package.name) for package in packages)
    for package in packages:
        say(f"{package.name:{width}}  {package.version:12}  {package.licence}")
    return 0


def needed_packages() -> list[Package]:
    """What the app needs, and what that needs, as far as it is installed; by name.

    Raises:
        SettingError: If it cannot be told what the app needs.
    """
    found: dict[str, Package] = {}
    todo = _own_requirements()
    while todo:
        requirement = todo.pop()
        key = _key(requirement)
        if key in found:
            continue
        try:
            installed = metadata.distribution(requirement)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        found[key] = Package(installed.name, installed.version, _licence(installed))
        todo += _names(installed.requires or [])
    return [found[key] for key in sorted(found)]


def bill_of_materials(packages: list[Package]) -> dict[str, Any]:
    """CycloneDX 1.5 as plain JSON types."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": "cxrdemo", "version": __version__}
        },
        "components": [
            {
                "type": "library",
                "name": package.name,
                "version": package.version,
                "purl": f"pkg:pypi/{_key(package.name)}@{package.version}",
                "licenses": [{"license": {"name": package.licence}}],
            }
            for package in packages
        ],
    }


def _own_requirements() -> list[str]:
    try:
        return _names(metadata.requires("cxrdemo") or [])
    except metadata.PackageNotFoundError:
        pass
    project = REPOSITORY / "pyproject.toml"  # a clone that was never installed
    if not project.is_file():
        raise SettingError("What the app needs is not known: neither a clone nor installed.")
    return _names(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])


def _names(requirements: list[str]) -> list[str]:
    """Those that hold here; what an extra asks for is left out."""
    names = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names.append(requirement.name)
    return names


def _licence(installed: metadata.Distribution) -> str:
    told = installed.metadata
    classifiers = [
        line.removeprefix(_CLASSIFIER).removeprefix("OSI Approved :: ")
        for line in told.get_all("Classifier") or []
        if line.startswith(_CLASSIFIER)
    ]
    free_text = "".join(told.get_all("License") or []).strip().splitlines()
    # Some put a whole licence there.
    short = free_text[0] if len(free_text) == 1 and len(free_text[0]) < 80 else ""
    expression = "".join(told.get_all("License-Expression") or [])
    return expression or ", ".join(classifiers) or short or UNKNOWN


def _key(name: str) -> str:
    """A name as package indices compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
