"""Names of figures are what they say, and come back as they were."""

import pytest
from conftest import BUNDLED
from hypothesis import given
from hypothesis import strategies as st

from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.figure_names import MACRO, MEASURES, WITHOUT_RSNA_NORMAL, FigureName
from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, NO_FINDING

OF = ("", MACRO, NO_FINDING.key, *FINDING_KEYS, *AUXILIARY_KEYS, "montgomery", "covid_19 set")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auroc_Mass", FigureName("auroc", "Mass")),
        ("auroc_product_No_Finding", FigureName("auroc_product", "No_Finding")),
        ("ece_raw_Pleural_Thickening", FigureName("ece_raw", "Pleural_Thickening")),
        (
            "sensitivity at high specificity_Pleural_Thickening",
            FigureName("sensitivity", "Pleural_Thickening", "high specificity"),
        ),
        (
            "auroc_macro_without_rsna_normal",
            FigureName("auroc", MACRO, subset=WITHOUT_RSNA_NORMAL),
        ),
        ("auroc_tight_less_none_macro", FigureName("auroc_tight_less_none", MACRO)),
        ("hd95_px_montgomery", FigureName("hd95_px", "montgomery")),
        ("lung_area", FigureName("lung_area")),
        (
            "planted_hit at contrast 0.2, small_Mass",
            FigureName("planted_hit", "Mass", "contrast 0.2, small"),
        ),
        ("something_else", FigureName("something_else")),
    ],
)  # fmt: skip
def test_a_name_is_taken_apart(name: str, expected: FigureName) -> None:
    assert FigureName.parse(name) == expected
    assert str(expected) == name


@given(
    st.sampled_from(sorted(MEASURES)),
    st.sampled_from(OF),
    st.sampled_from(["", "high sensitivity", "contrast 0.45, large"]),
    st.sampled_from(["", WITHOUT_RSNA_NORMAL]),
)
def test_every_name_comes_back(measure: str, of: str, at: str, subset: str) -> None:
    name = FigureName(measure, of, at, subset)
    assert FigureName.parse(str(name)) == name


def test_the_bundled_manifest_names_only_what_is_measured() -> None:
    for spec in CheckpointStore.open(BUNDLED).specs:
        for text in spec.metrics:
            name = FigureName.parse(text)
            assert name.measure in MEASURES, text
            assert str(name) == text
