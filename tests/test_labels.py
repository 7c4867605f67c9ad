from cxrdemo.labels import AUXILIARY_KEYS, FINDING_KEYS, FINDINGS, NO_FINDING, display_name
from training.sets.layouts import NIH_LABELS


def test_the_five_findings_stand_in_the_order_of_the_page() -> None:
    assert FINDING_KEYS == ("Mass", "Nodule", "Pneumonia", "Edema", "Fibrosis")


def test_findings_and_auxiliary_labels_are_the_fourteen_of_chestxray14() -> None:
    keys = (*FINDING_KEYS, *AUXILIARY_KEYS)
    assert len(set(keys)) == len(keys) == 14
    assert NO_FINDING.key not in keys
    # What the official table spells otherwise comes out as one of these names.
    assert set(NIH_LABELS.values()) <= {*keys, NO_FINDING.key}


def test_every_finding_says_what_it_means_in_a_sentence() -> None:
    for label in (*FINDINGS, NO_FINDING):
        assert label.meaning.endswith(".")
        assert label.display


def test_a_name_is_shown_with_spaces() -> None:
    assert display_name("No_Finding") == "No Finding"
    assert display_name("Edema") == "Edema"
    assert display_name("Pleural_Thickening") == "Pleural Thickening"
