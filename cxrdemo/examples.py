"""The example files of the viewer: phantoms, written as PNG, DICOM and JPEG.

One has nothing planted in it, two a lesion of known place and size (`lesions.py`), so that the
reader sees whether the models find what is there. In the last one it lies beside the lungs, where a
side marker may lie, and shows what masking is for; `python -m benchmarks.shortcut` found it.
`tests/test_bundled.py` says what the bundled weights make of each.

`python -m cxrdemo.examples FOLDER` writes them; the same versions of the libraries write the same
bytes. Each image says "SYNTHETIC" in a corner outside the body, so that nobody mistakes it.
"""

import argparse
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from cxrdemo.labels import SYNTHETIC
from cxrdemo.lesions import plant
from cxrdemo.lungs import assess
from cxrdemo.phantom import STEP, Phantom, make_phantom
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import LungMask

_STORED_BITS: Final = 12
"""What most detectors deliver; the further bits of a 16-bit file would only hold noise."""


@dataclass(frozen=True)
class Example:
    """An example file and the phantom in it.

    Attributes:
        name: File name; the suffix names the format.
        seed: Seed of the phantom.
        side_px: Height and width.
        lesion: What is planted, a key of `lesions.KINDS`; None for nothing.
        diameter: Of the lesion, as a fraction of the lungs' height.
        centre: (x, y) of the lesion, as shares of the image's width and height.
        contrast: Share of the way from the local grey level to white.
        story: What is drawn, and what the bundled weights make of it.
    """

    name: str
    seed: int
    side_px: int
    story: str
    lesion: str | None = None
    diameter: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    contrast: float = 0.5


EXAMPLES: Final = (
    Example(
        "synthetic-normal.png",
        seed=2,
        side_px=768,
        story="Nothing is drawn into the lungs; nothing stands out in the whole image.",
    ),
    # Uncompressed, as any viewer reads it, and therefore smaller.
    Example(
        "synthetic-nodule.dcm",
        seed=42,
        side_px=576,
        story="Loose and tight call the nodule; whole image, not shown to know any, calls a mass.",
        lesion="nodule",
        diameter=0.11,
        centre=(0.32, 0.47),
    ),
    Example(
        "synthetic-mass.jpg",
        seed=7,
        side_px=768,
        story="All three maskings call the drawn mass; the less they keep, the surer.",
        lesion="mass",
        diameter=0.22,
        centre=(0.68, 0.5),
    ),
    Example(
        "synthetic-shortcut.jpg",
        seed=134,
        side_px=768,
        story="Whole image takes the disc beside the lungs for a mass; loose and tight do not.",
        lesion="mass",
        diameter=0.23,
        centre=(0.88, 0.09),
        contrast=0.75,
    ),
)


def draw_example(example: Example, *, marked: bool = True) -> Phantom:
    """The phantom of an example; marked, with the notice in its upper left corner."""
    side = example.side_px
    phantom = make_phantom(seed=example.seed, hw=(side, side))
    if example.lesion is not None:
        quality = assess(phantom.lungs, components=2, predicted_iou=1.0)
        lungs = LungMask(phantom.lungs, quality, np.zeros((1, 1), np.float32))
        x, y = example.centre
        planted = plant(
            phantom.radiograph,
            lungs,
            example.lesion,
            (x * side, y * side),
            diameter=example.diameter,
            contrast=example.contrast,
        )
        phantom = replace(phantom, radiograph=planted)
    if not marked:
        return phantom
    corner = (round(0.02 * side), round(0.05 * side))
    notice = np.zeros((side, side), np.uint8)
    cv2.putText(
        notice, SYNTHETIC, corner, cv2.FONT_HERSHEY_SIMPLEX, side / 1000, 255, 2, cv2.LINE_AA
    )
    pixels = np.maximum(phantom.radiograph.pixels, notice.astype(np.float32) / np.float32(255))
    return replace(phantom, radiograph=replace(phantom.radiograph, pixels=pixels))


def write_examples(folder: Path) -> None:
    """Writes every example into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        radiograph = draw_example(example).radiograph
        path = folder / example.name
        if path.suffix == ".dcm":
            make_dicom(radiograph, seed=example.seed).save_as(path, enforce_file_format=True)
        else:
            path.write_bytes(_encode(radiograph.pixels, path.suffix))


def _encode(pixels: NDArray[np.float32], suffix: str) -> bytes:
    """PNG of 16 bits per sample, or JPEG."""
    if suffix == ".png":
        # The 12 bits are repeated below themselves, so that white stays 65535.
        levels = np.rint(pixels * (2**_STORED_BITS - 1)).astype(np.uint16)
        samples = (levels << 4) | (levels >> 8)
        options = [cv2.IMWRITE_PNG_COMPRESSION, 9]
    else:
        samples = np.rint(pixels * 255).astype(np.uint8)
        options = [cv2.IMWRITE_JPEG_QUALITY, 92]
    written, encoded = cv2.imencode(suffix, samples, options)
    if not written:
        raise ValueError(f"cannot write an image as {suffix!r}")
    return bytes(encoded)


def make_dicom(radiograph: Radiograph, *, seed: int) -> Dataset:
    """A digital X-ray (DX), MONOCHROME1, 12 bits stored, whose window shows the full range.

    The nobody in it is named SYNTHETIC^PHANTOM, and its identifiers follow from the seed.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid("instance", seed)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("implementation", 0)
    meta.ImplementationVersionName = "CXRDEMO"

    dicom = Dataset()
    dicom.file_meta = meta
    dicom.SOPClassUID = meta.MediaStorageSOPClassUID
    dicom.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dicom.StudyInstanceUID = _uid("study", seed)
    dicom.SeriesInstanceUID = _uid("series", seed)
    dicom.PatientName = f"{SYNTHETIC}^PHANTOM"
    dicom.PatientID = f"{SYNTHETIC}-{seed}"
    dicom.PatientBirthDate = dicom.PatientSex = ""
    dicom.StudyDate = dicom.StudyTime = dicom.StudyID = dicom.AccessionNumber = ""
    dicom.ReferringPhysicianName = dicom.Manufacturer = ""
    dicom.SeriesNumber = dicom.InstanceNumber = 1
    dicom.ImageType = ["DERIVED", "SECONDARY"]
    dicom.ImageComments = dicom.DerivationDescription = STEP
    dicom.Modality = "DX"
    dicom.PresentationIntentType = "FOR PRESENTATION"
    dicom.BodyPartExamined = "CHEST"
    dicom.AnatomicRegionSequence = [_code("51185008", "SCT", "Chest")]
    dicom.ViewPosition = "PA"
    dicom.ViewCodeSequence = [_code("399348003", "SCT", "postero-anterior")]
    dicom.PatientOrientation = ["L", "F"]
    dicom.ImageLaterality = "U"
    dicom.DetectorType = ""
    dicom.ImagerPixelSpacing = [f"{spacing:.6f}" for spacing in radiograph.spacing_mm or ()]
    dicom.AcquisitionContextSequence = []
    dicom.BurnedInAnnotation = "YES"
    dicom.LossyImageCompression = "00"

    white = 2**_STORED_BITS - 1
    dicom.SamplesPerPixel = 1
    dicom.PhotometricInterpretation = "MONOCHROME1"
    dicom.PresentationLUTShape = "INVERSE"
    dicom.PixelIntensityRelationship = "LOG"
    dicom.PixelIntensityRelationshipSign = 1
    dicom.Rows, dicom.Columns = radiograph.hw
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit = 16, _STORED_BITS, _STORED_BITS - 1
    dicom.PixelRepresentation = 0
    dicom.RescaleIntercept, dicom.RescaleSlope, dicom.RescaleType = "0", "1", "US"
    # PS3.3 C.11.2.1.2: this window maps 0 to black and the highest value to white, or the reverse.
    dicom.WindowCenter, dicom.WindowWidth = str(2 ** (_STORED_BITS - 1)), str(2**_STORED_BITS)
    stored = white - np.rint(radiograph.pixels * white)
    dicom.PixelData = stored.astype("<u2").tobytes()
    return dicom


def _uid(what: str, seed: int) -> UID:
    """A UID under 2.25 (PS3.5 B.2), derived from its meaning in place of a random UUID."""
    digest = hashlib.sha256(f"cxrdemo phantom {what} {seed}".encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16])}")


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def main() -> None:
    """Writes the examples into the folder named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m cxrdemo.examples", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="where the files go")
    write_examples(parser.parse_args().folder)


if __name__ == "__main__":
    main()
