"""What a measured figure is called: in manifests, in metrics.json, on cards and pages.

A name says what was measured, at which operating point, of which finding or set, and on which part
of the images: `auroc_Mass`, `sensitivity at high specificity_Mass`, `dice_montgomery`,
`auroc_macro_without_rsna_normal`. Names are built and taken apart here and nowhere else.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

MACRO: Final = "macro"
"""Stands in the place of a finding for the mean of all."""

WITHOUT_RSNA_NORMAL: Final = "without_rsna_normal"
"""The part of the images that radiologists did not read as normal."""

MEASURES: Final = frozenset(
    {
        *("auroc", "auroc_product", "ap", "sensitivity", "specificity", "lr"),
        *("ece", "ece_raw", "brier", "brier_raw"),
        *("cam_in_lung", "heat_in_kept", "hottest_in_kept", "hottest_in_lungs", "lung_area"),
        *("planted_hit", "planted_rise", "planted_crossing", "control_rise", "control_crossing"),
        *("box_hit", "box_chance"),
        *("dice", "iou", "hd95_px", "hd95_mm", "images_per_second"),
    }
)
"""Everything that is measured; some have an underscore of their own."""

_DIFFERENCE: Final = re.compile(r"auroc(_product)?_[a-z]+_less_[a-z]+")
"""Of two maskings on the same images."""


@dataclass(frozen=True)
class FigureName:
    """The name of one figure; `str` writes it and `parse` reads it.

    Attributes:
        measure: One of `MEASURES`, or a difference such as "auroc_tight_less_none".
        of: Key of a finding, `MACRO`, or a data set; empty for a figure of all.
        at: An operating point or condition, such as "high specificity"; empty for the default.
        subset: A part of the images, such as `WITHOUT_RSNA_NORMAL`; empty for all.
    """

    measure: str
    of: str = ""
    at: str = ""
    subset: str = ""

    @property
    def row(self) -> str:
        """Measure and operating point: what a row of a table of figures is called."""
        return f"{self.measure} at {self.at}" if self.at else self.measure

    def __str__(self) -> str:
        return "_".join(part for part in (self.row, self.of, self.subset) if part)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Reads a name.

        A name that begins with no known measure is one without a finding, such as other software
        may write.
        """
        rest = name.removesuffix(f"_{WITHOUT_RSNA_NORMAL}")
        subset = "" if rest == name else WITHOUT_RSNA_NORMAL
        difference = _DIFFERENCE.match(rest)
        fitting = [m for m in MEASURES if re.match(rf"{m}(_| at |$)", rest)]
        measure = difference[0] if difference else max(fitting, key=len, default=rest)
        rest = rest[len(measure) :]
        at, of = "", rest.removeprefix("_")
        if rest.startswith(" at "):
            # No operating point has an underscore in its name; findings have.
            at, _, of = rest.removeprefix(" at ").partition("_")
        return cls(measure, of, at, subset)
