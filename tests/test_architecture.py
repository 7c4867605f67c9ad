"""Imports go one way, and heavy libraries stay in their rooms."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LEVELS = {
    "errors": 0,
    "labels": 0,
    "devices": 1,
    "figure_names": 0,
    "quiet": 0,
    "framing": 1,
    "worker": 0,
    "settings": 1,
    "radiograph": 1,
    "placement": 1,
    "engines": 2,
    "inputs": 2,
    "results": 2,
    "files": 2,
    "phantom": 3,
    "specs": 3,
    "hub": 3,
    "checkpoints": 4,
    "lungs": 3,
    "lesions": 3,
    "masking": 3,
    "examples": 4,
    "sam": 3,
    "backbones": 2,
    "segmenter": 4,
    "gate": 4,
    "classifier": 4,
    "saliency": 5,
    "assembly": 5,
    "pipeline": 6,
    "rendering": 6,
    "export": 7,
    "dicom_export": 7,
    "ui": 8,
    "commands": 9,
    "cli": 10,
    "__main__": 11,
}

ROOMS_OF = {
    "torch": {
        "devices",
        "engines",
        "checkpoints",
        "sam",
        "backbones",
        "segmenter",
        "classifier",
        "assembly",
        "pipeline",
    },
    "pydicom": {"files", "examples", "dicom_export"},
    "highdicom": {"dicom_export"},
    "openvino": {"engines"},
    "gradio": {"ui"},
    "spaces": {"ui"},
    "matplotlib": {"rendering"},
}


# Each room of training, and all the rooms it imports: only such as stand above it here.
TRAINING: dict[str, set[str]] = {
    "errors": set(),
    "writing": {"errors"},
    "sets": {"errors", "writing"},
    "engine": {"errors", "writing"},
    "images": {"errors", "writing", "sets", "engine"},
    "measures": {"errors", "sets", "images"},
    "reports": {"writing", "sets", "measures"},
    "commands": {"errors", "writing", "sets", "engine", "images", "measures", "reports"},
    "__main__": {"commands", "writing"},
}


def module_files() -> list[Path]:
    return sorted((ROOT / "cxrdemo").rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "cxrdemo").with_suffix("").parts
    return parts[0]


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(path: Path) -> set[str]:
    found = {name.split(".")[1] for name in imported_names(path) if name.startswith("cxrdemo.")}
    return found & LEVELS.keys()


@pytest.mark.parametrize("path", module_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_lower_levels(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # It imports nothing by itself, see test_package.py.
    assert room in LEVELS, f"give {room} a level here and in docs/architecture.md"
    upward = {other for other in imported_rooms(path) - {room} if LEVELS[other] >= LEVELS[room]}
    assert not upward


@pytest.mark.parametrize("library", ROOMS_OF)
def test_a_heavy_library_stays_in_its_rooms(library: str) -> None:
    users = {
        room_of(path)
        for path in module_files()
        if any(name.split(".")[0] == library for name in imported_names(path))
    }
    # Equal, so that a permission which nobody uses any more falls.
    assert users == ROOMS_OF[library]


def test_the_room_of_files_imports_downwards() -> None:
    order = [
        *("journal", "decoding", "upright", "codestream", "header", "stored", "greyscale"),
        *("missing", "dicom", "tiff", "raster", "apart", "__init__", "__main__"),
    ]
    folder = ROOT / "cxrdemo" / "files"
    assert sorted(order) == sorted(path.stem for path in folder.glob("*.py"))
    for place, name in enumerate(order):
        imported = {
            found.split(".")[2]
            for found in imported_names(folder / f"{name}.py")
            if found.startswith("cxrdemo.files.")
        }
        assert not imported & set(order[place:]), name


def test_the_package_never_imports_training() -> None:
    for path in module_files():
        assert not any(name.split(".")[0] == "training" for name in imported_names(path)), path


def training_imports() -> dict[str, set[str]]:
    """For each module of training, such as "sets.index", the modules of training it imports."""
    files = {
        ".".join(path.relative_to(ROOT / "training").with_suffix("").parts): path
        for path in sorted((ROOT / "training").rglob("*.py"))
    }
    return {
        module: {n.removeprefix("training.") for n in imported_names(path)} & files.keys()
        for module, path in files.items()
        if not module.endswith("__init__")
    }


def test_each_room_of_training_imports_the_rooms_named_here_and_no_others() -> None:
    found: dict[str, set[str]] = {}
    for module, imported in training_imports().items():
        room = module.split(".")[0]
        found.setdefault(room, set()).update({n.split(".")[0] for n in imported} - {room})
    # Equal, so that an arrow which nobody uses any more falls.
    assert found == TRAINING
    above: set[str] = set()
    for room, imported in TRAINING.items():
        assert imported <= above, f"{room} imports a room that is not above it"
        above.add(room)


def test_no_module_of_training_imports_itself_by_a_detour() -> None:
    TopologicalSorter(training_imports()).prepare()  # raises CycleError


def test_no_pickle_is_opened_but_of_tensors_alone() -> None:
    """Any other would run whatever program lies in it."""
    for path in (p for folder in ("cxrdemo", "training") for p in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name, given = ast.unparse(node.func), ast.unparse(node)
                assert not name.startswith(("pickle.", "joblib.")), f"{path}: {given}"
                assert "allow_pickle=True" not in given, f"{path}: {given}"
                assert name != "torch.load" or "weights_only=True" in given, f"{path}: {given}"


def test_there_is_no_catch_all_module() -> None:
    names = {
        path.stem for folder in ("cxrdemo", "training") for path in (ROOT / folder).rglob("*.py")
    }
    assert not names & {"utils", "helpers", "common", "misc"}
