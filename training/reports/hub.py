"""Uploads a checkpoint folder to a repository on the Hugging Face Hub.

The repository then holds manifest, weights and cards as they are, and a README made of the cards
with the Hub's own front matter. The app reads it back with `--checkpoints hf://OWNER/NAME@REVISION`.
"""

import re
import tempfile
from pathlib import Path
from typing import Final

from huggingface_hub import EvalResult, HfApi, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from cxrdemo.checkpoints import MANIFEST_NAME, CheckpointStore
from cxrdemo.errors import CheckpointError
from cxrdemo.figure_names import MACRO, FigureName
from cxrdemo.hub import HUB_PATTERNS, HUB_UNREACHABLE
from cxrdemo.labels import display_name
from cxrdemo.specs import CheckpointSpec
from training.reports.cards import make_card

LICENCES_NAME: Final = "LICENSE.md"

TAGS: Final = ("chest-x-ray", "medical-imaging", "lung-segmentation", "grad-cam", "research-only")


def push(folder: Path, repository: str, *, private: bool = False, api: HfApi | None = None) -> str:
    """Uploads manifest, weights, cards and README in one commit; makes the repository if needed.

    Args:
        folder: With a manifest; every file is checked against it first.
        repository: "owner/name".
        private: Of a new repository.
        api: The Hub's client; None for one with the token of this machine.

    Returns:
        What the app's `--checkpoints` takes to load the commit.

    Raises:
        CheckpointError: If the folder is empty or altered, nobody is logged in, the name is
            refused, or the Hub cannot be reached.
    """
    store = CheckpointStore.open(folder)
    if not store.specs:
        raise CheckpointError(f"{folder} lists no checkpoint. There is nothing to upload.")
    for spec in store.specs:
        store.load(spec)
    api = api or HfApi()
    readme = make_readme(store, repository)
    try:
        api.whoami()
        api.create_repo(repository, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as draft:
            staged = Path(draft)
            (staged / "README.md").write_text(readme, encoding="utf-8")
            (staged / LICENCES_NAME).write_text(make_licences(store), encoding="utf-8")
            names = [MANIFEST_NAME]
            for spec in store.specs:
                (staged / f"{spec.name}.md").write_text(make_card(spec), encoding="utf-8")
                names.append(spec.file)
            for name in names:
                (staged / name).symlink_to((folder / name).resolve())
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=staged,
                allow_patterns=list(HUB_PATTERNS),
                commit_message="Upload checkpoints",
            )
    except LocalTokenNotFoundError as error:
        raise CheckpointError(
            "Nobody is logged in to the Hugging Face Hub on this machine. Run `hf auth login`, or "
            "set HF_TOKEN to a token that may write."
        ) from error
    except HFValidationError as error:
        raise CheckpointError(
            f"{repository!r} is no name of a Hub repository. Expected OWNER/NAME."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise CheckpointError(
            f"The Hugging Face Hub refused the upload to {repository} (HTTP {status}). Check that "
            "the token may write there: `hf auth whoami`."
        ) from error
    except HUB_UNREACHABLE as error:
        raise CheckpointError(
            "The Hugging Face Hub cannot be reached. Nothing was uploaded; try again when this "
            "machine is online."
        ) from error
    return f"hf://{repository}@{commit.oid}"


def make_readme(store: CheckpointStore, repository: str) -> str:
    """The repository's README: front matter from the figures, then every card."""
    results = [result for spec in store.specs for result in _results(spec)]
    data = ModelCardData(
        license="other",
        license_name="each-checkpoint-has-its-own",
        license_link=LICENCES_NAME,
        library_name="cxrdemo",
        # One per repository; the Hub has none for both.
        pipeline_tag="image-classification"
        if any(spec.labels for spec in store.specs)
        else "image-segmentation",
        tags=list(TAGS),
        model_name=repository.rpartition("/")[2],
        eval_results=results or None,
    )
    listed = "\n".join(f"- `{spec.file}`: {spec.trained_on}" for spec in store.specs)
    cards = "\n\n".join(
        # One heading level down: the README has its own title.
        "\n".join(f"#{line}" if line.startswith("#") else line for line in make_card(s).split("\n"))
        for s in store.specs
    )
    return (
        f"---\n{data.to_yaml()}\n---\n\n# Chest X-ray checkpoints\n\n"
        "Research use only. Not a medical device.\n\n"
        f"{listed}\n\n"
        f"Load them in the viewer: `python app.py --checkpoints hf://{repository}@COMMIT`, with "
        "this repository's commit hash.\n\n"
        f"{cards}"
    )


def make_licences(store: CheckpointStore) -> str:
    """What each file may be used for, in the words of its manifest entry."""
    lines = [f"- `{spec.file}`: {spec.licence or 'not stated'}\n" for spec in store.specs]
    return "# Licences\n\nEach checkpoint has its own, which its data ask for.\n\n" + "".join(lines)


def _results(spec: CheckpointSpec) -> list[EvalResult]:
    """The front matter's figures: the macro AUROC of a classifier, the Dice of a segmenter."""
    sample = spec.samples.get("test")
    found = []
    for name, estimate in spec.metrics.items():
        figure = FigureName.parse(name)
        if figure not in (FigureName("auroc", MACRO), FigureName("dice", figure.of)):
            continue
        # A segmenter has a figure per set, a classifier one for all sets together.
        data = display_name(figure.of)
        if spec.labels:
            data = sample.data if sample else "test patients"
        found.append(
            EvalResult(
                task_type="image-classification" if spec.labels else "image-segmentation",
                # The Hub puts results of one type of data set under one name.
                dataset_type=_slug(data),
                dataset_name=data,
                dataset_split="test",
                metric_type=figure.measure,
                metric_value=round(estimate.value, 3),
                metric_name=f"{spec.name}: {'macro AUROC' if spec.labels else 'mean Dice'}, "
                f"{estimate.low:.3f} to {estimate.high:.3f}, n={estimate.n}",
            )
        )
    return found


def _slug(name: str) -> str:
    """A set's name as the Hub writes such names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
