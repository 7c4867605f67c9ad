"""Settings from the environment: what a server that is started without flags goes by.

A flag of the command line comes before its variable, a variable before the default.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cxrdemo.errors import SettingError

ENGINES: Final = ("torch", "openvino")
PRECISIONS: Final = ("auto", "fp32", "bf16", "fp16")

ZEROGPU: Final = "zerogpu"
"""The device of a Space that shares GPUs with others, see `ui.zerogpu`."""

HARDWARE: Final = ("cpu", ZEROGPU)
"""What a Space can be assembled for."""

HIGHEST_PORT: Final = 65535

MOST_FILES: Final = 10_000
"""What a visitor may read at once at most, however the server is set up."""

REPOSITORY: Final = Path(__file__).resolve().parent.parent
"""Of a source checkout; an installed package has no such neighbours."""

NO_CHECKPOINTS: Final = (
    "No checkpoints were found: an installed package brings none. Name the folder of a clone of "
    "the repository, or one on the Hugging Face Hub as hf://OWNER/NAME@REVISION, by --checkpoints "
    "or CXRDEMO_CHECKPOINTS."
)


@dataclass(frozen=True)
class Settings:
    """How to compute, and what to allow.

    Attributes:
        checkpoints: CXRDEMO_CHECKPOINTS: folder with `manifest.json`, or hf://OWNER/NAME@REVISION.
            Empty: the repository's own.
        device: CXRDEMO_DEVICE: "cpu", "cuda", or "auto" for a GPU where there is one; for
            the server also `ZEROGPU`.
        engine: CXRDEMO_ENGINE: one of `ENGINES`.
        precision: CXRDEMO_PRECISION: one of `PRECISIONS`.
        medsam: CXRDEMO_MEDSAM: stock MedSAM weights for the lung mask, or None.
        max_batch: CXRDEMO_MAX_BATCH: files that a visitor may read at once.
        password: CXRDEMO_PASSWORD: asked for by the page, or None.
        mcp: CXRDEMO_MCP: 1 offers the endpoints to agents too, 0 does not.
    """

    checkpoints: str = ""
    device: str = "cpu"
    engine: str = "torch"
    precision: str = "auto"
    medsam: Path | None = None
    max_batch: int = 200
    password: str | None = None
    mcp: bool = False

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Reads the variables; one that is not set, or empty, leaves the default.

        Raises:
            SettingError: If a value is none of those allowed.
        """
        given = {
            name.removeprefix("CXRDEMO_").lower(): value.strip()
            for name, value in variables.items()
            if name.startswith("CXRDEMO_") and value.strip()
        }
        default = cls()
        return cls(
            checkpoints=given.get("checkpoints", default.checkpoints),
            device=given.get("device", default.device),
            engine=_one_of(ENGINES, "CXRDEMO_ENGINE", given.get("engine", default.engine)),
            precision=_one_of(
                PRECISIONS, "CXRDEMO_PRECISION", given.get("precision", default.precision)
            ),
            medsam=Path(given["medsam"]) if "medsam" in given else None,
            max_batch=whole_number(
                "CXRDEMO_MAX_BATCH", given.get("max_batch", str(default.max_batch)), MOST_FILES
            ),
            password=given.get("password"),
            mcp=_one_of(("0", "1"), "CXRDEMO_MCP", given.get("mcp", "0")) == "1",
        )

    @property
    def checkpoint_location(self) -> str:
        """Where the checkpoints are, for `checkpoint_folder`.

        Raises:
            SettingError: If none is named and the repository's own are not there.
        """
        if self.checkpoints:
            return self.checkpoints
        beside = REPOSITORY / "checkpoints"
        if not (beside / "manifest.json").is_file():
            raise SettingError(NO_CHECKPOINTS)
        return str(beside)


def _one_of(allowed: tuple[str, ...], name: str, value: str) -> str:
    if value not in allowed:
        raise SettingError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
    return value


def whole_number(name: str, value: str, highest: int) -> int:
    """The number that a variable or flag of some name gives, 1 at least.

    Raises:
        SettingError: If it is none, or above the highest.
    """
    digits = value.lstrip("0")
    # Python refuses to read thousands of digits.
    is_short = value.isascii() and value.isdigit() and 0 < len(digits) <= len(str(highest))
    if not is_short or int(digits) > highest:
        raise SettingError(f"{name} must be a whole number, 1 to {highest}, got {value[:40]!r}.")
    return int(digits)
