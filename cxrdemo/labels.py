"""The finding vocabulary: order, display name and meaning. Pure data.

Names are those of NIH ChestX-ray14 (Wang et al., CVPR 2017), except that spaces replace
underscores where a name is shown.
"""

from dataclasses import dataclass
from typing import Final

SYNTHETIC: Final = "SYNTHETIC"
"""Marks, wherever it goes, an image that was drawn or that something was drawn into."""

NOTICE: Final = "Research use only. Not a medical device."
"""Stands on everything that shows or records a result."""


@dataclass(frozen=True)
class Label:
    """One finding: its key in files and checkpoints, its name on the page, and what it means."""

    key: str
    display: str
    meaning: str


FINDINGS: Final = (
    Label("Mass", "Mass", "A rounded opacity larger than 3 cm."),
    Label("Nodule", "Nodule", "A rounded opacity of 3 cm or less."),
    Label("Pneumonia", "Pneumonia", "Opacity that a report attributed to infection."),
    Label("Edema", "Edema", "Fluid in the interstitium or air spaces, often from heart failure."),
    Label("Fibrosis", "Fibrosis", "Scarring that distorts the lung's architecture."),
)
"""The five findings the viewer reports, in the order in which it always shows them."""

FINDING_KEYS: Final = tuple(label.key for label in FINDINGS)

NO_FINDING: Final = Label(
    "No_Finding",
    "No Finding",
    "Derived from the five findings, not predicted by itself.",
)

AUXILIARY_KEYS: Final = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Pneumothorax",
    "Consolidation",
    "Emphysema",
    "Pleural_Thickening",
    "Hernia",
)
"""The other nine labels of ChestX-ray14. They help training and are never shown."""


def display_name(key: str) -> str:
    """Name to show for a label key; a key outside the vocabulary is shown with spaces."""
    for label in (*FINDINGS, NO_FINDING):
        if label.key == key:
            return label.display
    return key.replace("_", " ")
