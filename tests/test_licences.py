import json

import pytest

from cxrdemo import cli
from cxrdemo.commands.licences import UNKNOWN, needed_packages


def test_every_package_the_app_needs_is_listed_with_a_licence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["licences"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in lines}
    # The first is needed by name, the second by one of them.
    assert {"gradio", "pydicom", "torch", "starlette"} <= names
    assert "pytest" not in names, "the app does not need it"
    assert sum(UNKNOWN in line for line in lines) <= 3, lines


def test_none_is_under_a_licence_that_binds_what_is_built_on_it() -> None:
    strict = [p for p in needed_packages() if "GPL" in p.licence and "LGPL" not in p.licence]
    assert not strict


def test_the_bill_of_materials_is_cyclonedx(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["licences", "--sbom"]) == 0
    bill = json.loads(capsys.readouterr().out)
    assert bill["bomFormat"] == "CycloneDX"
    assert len(bill["components"]) == len(needed_packages())
    assert all(part["purl"].startswith("pkg:pypi/") for part in bill["components"])
