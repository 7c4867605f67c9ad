"""Is this an upright frontal chest X-ray that the models may read? Measured rules, nothing learnt.

A doubt withholds the numbers, so each bound lies where hardly any real radiograph does. All bounds
are ours. "Real" below means what they were chosen on: 498 upright radiographs, the validation
images of Montgomery, Shenzhen and OpenIST (98) and a random 400 of the training and validation
images of NIH ChestX-ray14, and 60 of the same sets (30 each, training patients not among them
where the set is a lung set) that were inverted, turned, tilted, cut and halved by code. What the
rules catch and miss on test images is told in docs/gate.md.

Sizes are fractions of the image or of the lungs' box, brightness is in units of the image's own
range (0 at the 5th, 1 at the 95th percentile), so that neither resolution nor exposure matters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cxrdemo.errors import GridMismatchError
from cxrdemo.framing import area_of, films_in, halves_are_alike
from cxrdemo.placement import Placement
from cxrdemo.radiograph import Radiograph, Remedy, remedied
from cxrdemo.results import Doubt, LungMask, Side, bounding_box

MIN_JUDGED_PX: Final = 224
"""The classifiers see 224 px; below that there is less to see than they were trained on."""

MIN_SPREAD: Final = 0.25
"""Between the 5th and the 95th percentile of the grey values, 0..1. Real: 0.31 or more."""

MAX_MEDIAN: Final = 0.97
"""Half the picture at the bright end is over-exposed. Real: 0.95 or less."""

MAX_COLOURED: Final = 0.10
"""Share of coloured pixels. Colour photographs: 0.36 or more (18 looked at); real: 0."""

MAX_TWO_TONES: Final = 0.75
"""Share of pixels in the two fullest of 64 grey bins. Real: 0.66 or less; pages and drawings lie
above."""

MAX_GRAIN: Final = 0.32
"""Standard deviation of what a blur of 1/128 of the long side removes, over that of the picture.
Real: 0.29 or less; print, noise and the texture of most photographs lie above."""

MIN_LUNGS: Final = 0.035
"""Both lungs over the image. Real: 0.048 or more; photographs mostly below."""

MIN_FILM: Final = 0.55
"""Share of the picture that stands out of flat surroundings. Real: 1 in 840 below."""

MIN_SECOND_FILM: Final = 0.5
"""A second part that stands out, over the first, from which it is a film too. Real: none."""

MAX_ASPECT: Final = 1.7
"""Width over height of what stands out, above which it may be two films side by side. Real: 1.56 or
less."""

MAX_BELOW_INVERTED: Final = 0.55
"""Mean brightness just below the lungs, where the belly is. Real: all but 1 in 250 at 0.6 or more;
inverted: nine in ten below 0.4."""

MAX_RISE_INVERTED: Final = -0.15
"""Mean brightness of the lowest quarter of the lungs' box less that of the highest. Real: -0.05 or
more; inverted: three in four below -0.15."""

MIN_CORNERS_INVERTED: Final = 0.5
"""Mean brightness of the two upper corners, which are air above the shoulders. Inverted: 0.57 or
more; real: a tenth lie above, so it never decides alone."""

MAX_GAP_GROWTH: Final = 0.03
"""How much wider the gap between the lungs is in their lowest third than in their highest, over the
box's width. The heart makes it grow. Real: 0.07 or more but for 1 in 100; upside down: 0.02 or
less."""

MAX_LEAN: Final = -14.0
"""Angle in degrees by which the lungs' long axes open downwards, negative in an upright chest.
Real: -14 or less but for 1 in 100; upside down: -9 or more."""

MIN_ABREAST_TURNED: Final = 0.5
"""The two signs above count only for lungs that lie abreast in this share of their rows."""

MAX_RISE_SIDEWAYS: Final = 0.12
"""A lead in symmetry about a level axis counts only if the belly does not make the lungs' box
brighter downwards. Turned by 90 degrees: nine in ten below; real: three in four above."""

MIN_LIKENESS_TURNED: Final = 0.72
"""Dice of one lung with the other's mirror image that tells a chest upside down from an inverted
one, whose dark belly the segmenter takes for lungs. Upside down: nine in ten above 0.67; inverted:
nine in ten below 0.72."""

SIDEWAYS_LEAD: Final = 0.10
"""By how much the mirror symmetry about a level axis beats that about an upright one.
Real: 2 in 100 above; turned by 90 degrees: 95 in 100."""

MIN_BELLY_LEAD: Final = 0.1
"""By how much the belly's end of a chest on its side is brighter than the neck's, to tell them."""

TILTED_LEAD: Final = 0.09
SURE_TILTED_LEAD: Final = 0.50
"""Likewise for axes tilted by 20 to 40 degrees. Real: 3 in 100 above the first, 1 in 250 above the
second; tilted by 30 degrees: 95 and 55 in 100."""

OPPOSITE_LEAD: Final = 0.20
"""By how much a tilted axis must beat those tilted the other way too. Where one lung is opaque or
reaches less deep, an upright chest has likely axes on both sides. The largest of the leads tried by
which no tilted validation image goes unrefused: tilted by 30 degrees 5 in 92 lie below, all of them
refused by other rules."""

MAX_ABREAST: Final = 0.72
"""Lungs abreast in less of their rows than this support a lead in symmetry. Real: 0.72 or more but
for 1 in 10; turned or tilted: mostly below."""

MIN_CONTACT: Final = 0.30
MIN_CONTACT_ABOVE: Final = 0.60
"""Share of the side of the lungs' box that lies within 1.5 % of the frame: left, right and below by
the first bound, above by the second, because apices close to the upper edge are common. Real: 3 in
400 above the bounds; cut by a quarter: 3 in 10. Merely touching the frame is no doubt."""

ONE_SIDED: Final = 0.90
"""Asymmetry of the areas that leaves a single lung. Real: 1 in 400 above."""

LATERAL_IOU: Final = 0.87
"""A single lung that the segmenter rates this high is taken for a lateral view, else for a cut."""

WEAK_SIGNS: Final = {
    "rating": 0.855,
    "area": 0.09,
    "abreast": 0.60,
    "solidity": 0.70,
    "likeness": 0.62,
    "balance": 0.35,
}
"""Bounds below which a property of the mask is unusual. Real: each passed by 1 to 5 in 100."""

MIN_RATING: Final = 0.84
"""The segmenter's own estimate of the mask. Real: 1 in 250 below; a lung cut by a quarter: 3 in 4,
a halved chest: 19 in 20."""

WEAK_SIGNS_MASK: Final = 3
WEAK_SIGNS_OTHER: Final = 4
"""So many weak signs at once make a mask doubtful, and the picture no chest X-ray."""

_SAMPLED_PX: Final = 512
"""From about so many rows and columns the grey values of a larger image are taken."""

_LONG_SIDE: Final = 256
_THUMBNAIL: Final = 64
_BLUR_PX: Final = 2.0
_UPRIGHT_DEG: Final = (-10, 0, 10)
_LEFT_DEG: Final = (-40, -30, -20)
_RIGHT_DEG: Final = (20, 30, 40)
_SIDEWAYS_DEG: Final = (-90, -80, 80, 90)
_SHIFTS_PX: Final = (-8, -4, 0, 4, 8)
_BAND: Final = 0.2
"""Height of the strips above and below the lungs, over the height of their box."""

FloatImage = NDArray[np.float32]
Mask = NDArray[np.bool_]


def check(radiograph: Radiograph, lungs: LungMask | None) -> tuple[Doubt, ...]:
    """Looks for a strong reason not to read an image.

    The rules come in five groups: pixels, kind of picture, framing, orientation, lungs. The first
    group with a doubt ends the search, because the later ones rely on it.

    Args:
        radiograph: Whatever was read.
        lungs: The segmenter's mask on the same grid; an empty one means that it found nothing.
            None means that no segmenter looked: only the rules on pixels apply then.

    Returns:
        The doubts, strongest first; empty if the image is accepted.

    Raises:
        GridMismatchError: If the mask and the radiograph differ in size.
    """
    if lungs is not None and lungs.sides.shape != radiograph.pixels.shape:
        raise GridMismatchError(f"The lung mask is {lungs.sides.shape}, the image {radiograph.hw}.")
    doubts = tuple(_by_pixels(radiograph))
    if doubts:
        return doubts
    picture = _shrink(radiograph)
    doubts = tuple(_by_kind(picture, lungs))
    framing = tuple(_by_framing(radiograph, lungs))
    if not doubts or _is_fine_inside(radiograph, framing):
        doubts = framing
    if doubts or lungs is None:
        return doubts or _by_view(radiograph)
    shape = _measure(picture, lungs)
    doubts = (*_by_view(radiograph), *_by_orientation(picture, shape))
    return doubts or tuple(_by_lungs(shape))


@dataclass(frozen=True, eq=False)
class _Picture:
    """The image shrunk to `_LONG_SIDE`, and where it came from.

    Attributes:
        grey: float32 (h, w), 0..1.
        level: float32 (h, w), 0 at the 5th and 1 at the 95th percentile.
        placement: From the radiograph's grid.
    """

    grey: FloatImage
    level: FloatImage
    placement: Placement


@dataclass(frozen=True)
class _Shape:
    """What is measured of lungs that were found. NaN where something cannot be measured.

    Attributes:
        rating: The segmenter's own estimate, 0..1.
        area: Both lungs over the image.
        balance: 1 - asymmetry of the areas: 1 equal, 0 one lung only.
        solidity: Area over that of the convex hull, of the less solid lung.
        likeness: Dice of one lung with the mirror image of the other, each scaled to its box.
        abreast: Share of the box's rows that hold both lungs with a gap between.
        gap_growth: See `MAX_GAP_GROWTH`.
        lean: See `MAX_LEAN`.
        above: Mean level of the strip above the lungs' box.
        below: Likewise below.
        rise: Mean level of the box's lowest quarter less that of its highest.
        contact: Largest share of the left, right or lower side of the lungs' box at the frame.
        contact_above: Likewise of the upper side.
    """

    rating: float
    area: float
    balance: float
    solidity: float
    likeness: float
    abreast: float
    gap_growth: float
    lean: float
    above: float
    below: float
    rise: float
    contact: float
    contact_above: float

    @property
    def weak_signs(self) -> int:
        """How many of `WEAK_SIGNS` are passed; what could not be measured counts."""
        return sum(not getattr(self, name) >= bound for name, bound in WEAK_SIGNS.items())


def _by_pixels(radiograph: Radiograph) -> Iterable[Doubt]:
    height, width = radiograph.hw
    if min(height, width) < MIN_JUDGED_PX:
        yield Doubt(
            "small",
            f"The image has only {width} x {height} pixels; at least {MIN_JUDGED_PX} a side are"
            " needed. Use the original, not a thumbnail.",
        )
    every = max(1, max(radiograph.hw) // _SAMPLED_PX)
    low, middle, high = np.percentile(radiograph.pixels[::every, ::every], (5, 50, 95))
    if high - low < MIN_SPREAD or middle > MAX_MEDIAN:
        seen = "over-exposed" if middle > 0.5 else "too dark or too flat"
        yield Doubt(
            "dark",
            f"The image is {seen}: its grey values hardly differ. Export it again with the window"
            " that a reader would use.",
        )
    if radiograph.source.colourfulness > MAX_COLOURED:
        yield Doubt(
            "colour",
            f"Colour covers {radiograph.source.colourfulness:.0%} of this picture; an X-ray is"
            " grey. Use the radiograph itself, not a photograph or a coloured copy of it.",
        )


def _by_kind(picture: _Picture, lungs: LungMask | None) -> Iterable[Doubt]:
    """Whether this is a radiograph with lungs in it at all."""
    bins = np.histogram(picture.grey, bins=64, range=(0.0, 1.0))[0] / picture.grey.size
    detail = picture.grey - cv2.GaussianBlur(picture.grey, (0, 0), _BLUR_PX)
    if np.sort(bins)[-2:].sum() > MAX_TWO_TONES:
        yield _other("Nearly all of the picture has one of two tones, as in a page or a drawing.")
    elif detail.std() > MAX_GRAIN * picture.grey.std():
        yield _other("The picture is made of fine detail, as in print, noise or a photograph.")
    elif lungs is not None and lungs.quality.area_fraction < MIN_LUNGS:
        yield _other("No lungs, or only traces of them, were found.")


def _by_framing(radiograph: Radiograph, lungs: LungMask | None) -> Iterable[Doubt]:
    """Whether the film fills the picture, and is the only one."""
    height, width = radiograph.hw
    films = films_in(radiograph.pixels)
    if not films:
        return
    x0, y0, x1, y1 = films[0]
    if len(films) > 1 and area_of(films[1]) >= MIN_SECOND_FILM * area_of(films[0]):
        yield _several(radiograph, films[:2], lungs)
    elif x1 - x0 > MAX_ASPECT * (y1 - y0) and halves_are_alike(radiograph.pixels[y0:y1, x0:x1]):
        seam = (x0 + x1) // 2
        yield _several(radiograph, ((x0, y0, seam, y1), (seam, y0, x1, y1)), lungs)
    elif area_of(films[0]) < MIN_FILM * height * width:
        yield Doubt(
            "framed",
            f"The film fills only {area_of(films[0]) / (height * width):.0%} of the picture, as in"
            " a screenshot or with wide borders. Crop the picture to the film.",
            _crop(radiograph, films[0]),
        )


def _is_fine_inside(radiograph: Radiograph, framing: Sequence[Doubt]) -> bool:
    """Whether a crop leaves a picture of the right kind: borders have no part in that."""
    remedies = [doubt.remedy for doubt in framing if doubt.remedy is not None]
    return bool(remedies) and not tuple(_by_kind(_shrink(remedied(radiograph, remedies[0])), None))


def _several(
    radiograph: Radiograph, films: Sequence[tuple[int, int, int, int]], lungs: LungMask | None
) -> Doubt:
    def lung_in(box: tuple[int, int, int, int]) -> int:
        x0, y0, x1, y1 = box
        return 0 if lungs is None else int(np.count_nonzero(lungs.sides[y0:y1, x0:x1]))

    return Doubt(
        "framed",
        "The picture seems to hold two films. Crop it to the frontal one.",
        _crop(radiograph, max(films, key=lung_in)),
    )


def _crop(radiograph: Radiograph, box: tuple[int, int, int, int]) -> Remedy | None:
    """The crop to a box; None if what it leaves is too small to be judged."""
    is_large = min(box[2] - box[0], box[3] - box[1]) >= MIN_JUDGED_PX
    return Remedy(crop=box) if is_large else None


def _by_view(radiograph: Radiograph) -> tuple[Doubt, ...]:
    if radiograph.view != "LATERAL":
        return ()
    return (
        Doubt(
            "lateral",
            "The file's header calls this a lateral view. Choose the frontal one (PA or AP).",
        ),
    )


def _by_orientation(picture: _Picture, shape: _Shape) -> Iterable[Doubt]:
    upright, sideways, *tilts = (
        _mirror_symmetry(picture.grey, angles)
        for angles in (_UPRIGHT_DEG, _SIDEWAYS_DEG, _LEFT_DEG, _RIGHT_DEG)
    )
    opposite, tilted = sorted(tilts)
    parted = not shape.abreast >= MAX_ABREAST
    is_turned_over = (
        shape.abreast >= MIN_ABREAST_TURNED
        and shape.gap_growth < MAX_GAP_GROWTH
        and shape.lean > MAX_LEAN
    )
    is_dark_below = (shape.below < MAX_BELOW_INVERTED and not shape.below > shape.above + 0.1) or (
        shape.rise < MAX_RISE_INVERTED and _upper_corners(picture) > MIN_CORNERS_INVERTED
    )
    if parted and shape.rise < MAX_RISE_SIDEWAYS and sideways > upright + SIDEWAYS_LEAD:
        yield Doubt(
            "rotated",
            "The chest seems to lie on its side: its left and right halves mirror each other about"
            " a level line. Turn the image by 90 degrees so that the head is at the top.",
            _quarter_turn(picture),
        )
    elif (
        tilted > upright + (TILTED_LEAD if parted else SURE_TILTED_LEAD)
        and tilted > opposite + OPPOSITE_LEAD
    ):
        yield Doubt(
            "rotated",
            "The chest seems strongly tilted. Straighten the image so that the spine is upright.",
        )
    elif is_turned_over and (shape.likeness >= MIN_LIKENESS_TURNED or not is_dark_below):
        yield Doubt(
            "rotated",
            "The chest seems to stand on its head: the lungs are wide apart at the top and close"
            " together at the bottom. Turn the image by 180 degrees.",
            Remedy(turn=180),
        )
    elif is_dark_below:
        yield Doubt(
            "inverted",
            "The grey values seem inverted: what should be the belly or the spine is dark. Export"
            " the image so that bone is bright.",
            Remedy(invert=True),
        )


def _by_lungs(shape: _Shape) -> Iterable[Doubt]:
    if shape.contact > MIN_CONTACT or shape.contact_above > MIN_CONTACT_ABOVE:
        yield Doubt(
            "clipped",
            "The frame cuts through a lung. Use an image that shows both lungs as a whole.",
        )
    elif 1.0 - shape.balance > ONE_SIDED and shape.rating >= LATERAL_IOU:
        yield Doubt(
            "lateral",
            "Only one lung field can be told apart, as in a lateral view. Choose the frontal image"
            " (PA or AP).",
        )
    elif shape.weak_signs >= WEAK_SIGNS_OTHER:
        yield _other("What was found does not have the shape of two lungs.")
    elif shape.weak_signs >= WEAK_SIGNS_MASK or shape.rating < MIN_RATING:
        yield Doubt(
            "mask",
            "The lungs could not be outlined plausibly. Check that both lungs are in the image as a"
            " whole, and correct the outline.",
        )


def _other(seen: str) -> Doubt:
    return Doubt(
        "not-a-chest-x-ray",
        f"This does not look like a frontal chest X-ray. {seen} Choose a frontal chest X-ray.",
    )


def _shrink(radiograph: Radiograph) -> _Picture:
    scale = _LONG_SIDE / max(radiograph.hw)
    height, width = (max(1, round(side * scale)) for side in radiograph.hw)
    placement = Placement.stretch(radiograph.hw, (height, width))
    grey = placement.image(radiograph.pixels, fill=0.0)
    low, high = np.percentile(grey, (5, 95))
    level = (grey - np.float32(low)) / np.float32(max(high - low, 1e-3))
    return _Picture(grey, level.astype(np.float32), placement)


def _measure(picture: _Picture, lungs: LungMask) -> _Shape:
    """Measures lungs of at least `MIN_LUNGS` of the image."""
    sides = picture.placement.labels(lungs.sides)
    right, left = (np.equal(sides, side) for side in Side)
    inside = right | left
    box = bounding_box(inside)
    assert box is not None, "so large a mask cannot vanish when shrunk"
    x0, y0, x1, y1 = box
    strip = max(1, round(_BAND * (y1 - y0)))
    quarter = max(1, (y1 - y0) // 4)
    columns = picture.level[:, x0:x1]
    pair = bool(right.any() and left.any())
    abreast, gap_growth = _gap(right, left, box)
    contact_above, contact = _contact(inside, box)
    return _Shape(
        rating=lungs.quality.predicted_iou,
        area=lungs.quality.area_fraction,
        balance=1.0 - lungs.quality.asymmetry,
        solidity=min(_solidity(lung) for lung in (right, left) if lung.any()),
        likeness=_likeness(right, left) if pair else float("nan"),
        abreast=abreast,
        gap_growth=gap_growth,
        lean=_axis_deg(right) - _axis_deg(left) if pair else float("nan"),
        above=_mean(columns[max(0, y0 - strip) : y0]),
        below=_mean(columns[y1 : y1 + strip]),
        rise=_mean(columns[y1 - quarter : y1]) - _mean(columns[y0 : y0 + quarter]),
        contact=contact,
        contact_above=contact_above,
    )


def _mirror_symmetry(grey: FloatImage, degrees: Iterable[int]) -> float:
    """Best correlation, -1..1, of the picture with its mirror image about an axis near its centre.

    Args:
        grey: float32 (h, w).
        degrees: Tilts of the axis from upright. Axes are also tried beside the centre. Only a disc
            is compared, so that a canvas turned with the picture plays no part.
    """
    size, centre = (_THUMBNAIL, _THUMBNAIL), _THUMBNAIL / 2 - 0.5
    hw = (grey.shape[0], grey.shape[1])
    placement = Placement.letterbox(hw, size)
    picture = cv2.GaussianBlur(placement.image(grey, fill=0.0), (0, 0), 1.5)
    y, x = np.indices(size) - centre
    disc = (np.hypot(x, y) <= _THUMBNAIL / 2) & placement.mask(np.ones(hw, bool))
    best = -1.0
    for angle in degrees:
        for shift in _SHIFTS_PX:
            turn = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
            turn[0, 2] += shift
            turned = cv2.warpAffine(picture, turn, size)
            seen = cv2.warpAffine(disc.astype(np.float32), turn, size) > 0.99
            both = seen & seen[:, ::-1]
            one, other = turned[both], turned[:, ::-1][both]
            spread = float(one.std())
            if both.sum() > 0.3 * both.size and spread > 0:
                product = float(np.mean((one - one.mean()) * (other - other.mean())))
                best = max(best, product / spread**2)
    return best


def _quarter_turn(picture: _Picture) -> Remedy | None:
    """The turn that brings a chest on its side upright: the belly is brighter than the neck."""
    quarter = max(1, picture.level.shape[1] // 4)
    left, right = _mean(picture.level[:, :quarter]), _mean(picture.level[:, -quarter:])
    if abs(left - right) < MIN_BELLY_LEAD:
        return None
    return Remedy(turn=90 if left < right else 270)


def _upper_corners(picture: _Picture) -> float:
    """Mean level of the two upper corners, a tenth of the picture each way."""
    height, width = (max(1, side // 10) for side in picture.level.shape)
    top = picture.level[:height]
    return _mean(np.concatenate((top[:, :width], top[:, -width:]), axis=1))


def _gap(right: Mask, left: Mask, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Share of the box's rows with both lungs abreast, and how much their gap grows downwards."""
    widths = []
    for y in range(box[1], box[3]):
        of_right, of_left = np.flatnonzero(right[y]), np.flatnonzero(left[y])
        if of_right.size and of_left.size and of_left[0] - of_right[-1] > 2:
            widths.append((of_left[0] - of_right[-1]) / (box[2] - box[0]))
    third = len(widths) // 3
    growth = float(np.mean(widths[-third:]) - np.mean(widths[:third])) if third else float("nan")
    return len(widths) / (box[3] - box[1]), growth


def _axis_deg(lung: Mask) -> float:
    """Angle of a lung's long axis from upright, -90..90; positive if it leans right going down."""
    _, vectors = np.linalg.eigh(np.cov(np.stack(np.nonzero(lung))))
    down, right = vectors[:, 1]
    return float(np.degrees(np.arctan2(right, down) if down >= 0 else np.arctan2(-right, -down)))


def _solidity(lung: Mask) -> float:
    outlines, _ = cv2.findContours(lung.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea)
    hull = float(cv2.contourArea(cv2.convexHull(outline)))
    return float(cv2.contourArea(outline)) / hull if hull else float("nan")


def _likeness(right: Mask, left: Mask) -> float:
    """Dice of the left lung with the mirrored right one, each stretched to the same box."""
    one, other = _fit(right[:, ::-1]), _fit(left)
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def _fit(lung: Mask) -> Mask:
    box = bounding_box(lung)
    assert box is not None
    cut = lung[box[1] : box[3], box[0] : box[2]]
    return Placement.stretch((cut.shape[0], cut.shape[1]), (64, 48)).mask(cut)


def _contact(inside: Mask, box: tuple[int, int, int, int]) -> tuple[float, float]:
    """Share of the box's upper side, and the largest of its other sides, that lies at the frame."""
    near = max(2, round(0.015 * max(inside.shape)))
    width, height = box[2] - box[0], box[3] - box[1]
    others = (
        inside[-near:].any(axis=0).sum() / width,
        inside[:, :near].any(axis=1).sum() / height,
        inside[:, -near:].any(axis=1).sum() / height,
    )
    return float(inside[:near].any(axis=0).sum() / width), float(max(others))


def _mean(values: FloatImage) -> float:
    return float(values.mean()) if values.size else float("nan")
