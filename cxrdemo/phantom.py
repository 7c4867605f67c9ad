"""Synthetic frontal chest X-ray: drawn by a program, so it can be shown, bundled and tested freely.

Thickness maps in cm of water (tissue, bone, minus air) are summed along the beam, a display curve
turns the sum into grey, and quantum noise is added. The lung mask is known because it was drawn.
No pixel of a person enters. Shapes and amounts were tuned by eye until the picture looked right, so
their numbers mean no more than that: it serves to show and to test the software, not to train it.

Coordinates are mm: x from the midline to the image right (the patient's left), y down from the top
of a square field of `FIELD_MM` that is centred in the image.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple, cast

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from cxrdemo.radiograph import Radiograph, Source
from cxrdemo.results import Side

FIELD_MM: Final = 400.0
"""Side of the square field that always fits in the image; an adult PA cassette is 35 x 43 cm."""

STEP: Final = "Synthetic phantom: drawn by a program, not an image of a person"

FloatMap = NDArray[np.float32]
Points = NDArray[np.float64]

_NODULE_MM: Final = (9.0, 18.5)
"""Drawn diameters; the irregular rim and the blur keep the visible ones within 8-20 mm."""
_MASS_MM: Final = (38.0, 57.0)
"""As above, visible within 35-60 mm."""
_SHIFT: Final = 4
"""Fractional bits of OpenCV's drawing coordinates."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic radiograph and the truth about it.

    Attributes:
        radiograph: The picture, PA, with its pixel spacing.
        lungs: uint8 (H, W): 0 outside, `Side.RIGHT`, `Side.LEFT`, as in `LungMask.sides`. Each is
            one connected part, bounded by mediastinum, heart, chest wall and diaphragm, as in the
            public mask sets. Nodules and masses stay inside it. Fluid of an effusion is outside:
            the mask ends at the meniscus, where the visible lung ends.
        findings: Label keys of what was planted, such as "Nodule".
    """

    radiograph: Radiograph
    lungs: NDArray[np.uint8]
    findings: tuple[str, ...]


def make_phantom(
    *,
    seed: int,
    hw: tuple[int, int] = (1024, 1024),
    nodule: bool = False,
    mass: bool = False,
    effusion: bool = False,
) -> Phantom:
    """Draws a chest X-ray; the same arguments give the same pixels.

    Anatomy, exposure and noise vary with the seed alone, so that two phantoms of one seed differ
    only where their findings lie. A nodule and a mass lie in different lungs.

    Args:
        seed: Chooses the person and the exposure; 0 or more.
        hw: Height and width in pixels. The thorax fits the shorter side.
        nodule: Plants a soft blob of 8-20 mm in a lung.
        mass: Plants one of 35-60 mm.
        effusion: Fills one costophrenic angle with fluid up to a meniscus. See `Phantom.lungs`.
    """
    anatomy_rng, texture_rng, finding_rng = np.random.default_rng(seed).spawn(3)
    anatomy = _draw_anatomy(anatomy_rng)
    frame = _make_frame(hw, tilt_deg=anatomy.tilt_deg)
    fluid_side, nodule_side = (int(side) for side in finding_rng.choice((-1, 1), size=2))

    spaces = _find_spaces(frame, anatomy, fluid_side=fluid_side if effusion else 0)
    water_cm = _add_soft_tissue(frame, anatomy, spaces)
    # Scatter takes contrast from bones behind thick tissue.
    clarity = np.interp(water_cm, [8.0, 17.0], [1.0, 0.45]).astype(np.float32)
    water_cm += clarity * _trace_bones(frame, anatomy, texture_rng)
    water_cm += _grow_vessels(frame, anatomy, spaces, texture_rng)
    water_cm += _weave_parenchyma(frame, spaces, texture_rng)
    # A generator each, so that planting one does not move the other.
    nodule_rng, mass_rng = finding_rng.spawn(2)
    if nodule:
        water_cm += _plant_blob(frame, spaces, nodule_rng, side=nodule_side, range_mm=_NODULE_MM)
    if mass:
        water_cm += _plant_blob(frame, spaces, mass_rng, side=-nodule_side, range_mm=_MASS_MM)

    pixels = _expose(frame, anatomy, water_cm, texture_rng)
    lungs = np.where(spaces.right, Side.RIGHT, 0) + np.where(spaces.left, Side.LEFT, 0)
    planted = {"Nodule": nodule, "Mass": mass, "Effusion": effusion}
    return Phantom(
        radiograph=Radiograph(
            pixels=pixels,
            spacing_mm=(1.0 / frame.px_per_mm, 1.0 / frame.px_per_mm),
            view="PA",
            source=Source(kind="phantom", bit_depth=16, steps=(STEP,)),
        ),
        lungs=lungs.astype(np.uint8),
        findings=tuple(key for key, is_planted in planted.items() if is_planted),
    )


@dataclass(frozen=True)
class _Anatomy:
    """What varies from one person and exposure to the next. Lengths in mm.

    Attributes:
        chest: Half width of the rib cage at its widest.
        lung_height: From the apex to the right dome.
        heart: Reach of the left ventricle from the midline.
        dome_gap: How much lower the left dome stands.
        habitus: Soft tissue over the ribs.
        breast_cm: Depth of the breast shadows.
        bend: Sideways bow of the spine.
        tilt_deg: Rotation of the person in the picture.
        exposure_cm: Thickness of water shown as mid-grey.
        contrast_cm: Thickness that separates neighbouring greys; less is harder.
        noise_cm: Quantum noise behind a lung for a pixel of 0.4 mm.
    """

    chest: float
    lung_height: float
    heart: float
    dome_gap: float
    habitus: float
    breast_cm: float
    bend: float
    tilt_deg: float
    exposure_cm: float
    contrast_cm: float
    noise_cm: float

    @property
    def apex_y(self) -> float:
        return 52.0 + 0.3 * (225.0 - self.lung_height)

    @property
    def dome_y(self) -> float:
        """Height of the right dome."""
        return self.apex_y + self.lung_height

    def down(self, fraction: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """The y at a fraction of the way from the apex (0) to the right dome (1)."""
        return np.asarray(self.apex_y + fraction * self.lung_height, np.float64)

    def cage_x(self, y: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Half width of the inside of the rib cage at height y."""
        reach = np.array([0.35, 0.44, 0.53, 0.63, 0.73, 0.82, 0.90, 0.95, 0.985, 1.0, 1.0, 0.95])
        drop = np.array([0.0, 0.015, 0.05, 0.11, 0.18, 0.26, 0.37, 0.49, 0.65, 0.85, 1.05, 1.6])
        return np.asarray(np.interp(y, self.down(drop), reach * self.chest), np.float64)

    def dome(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Height of the diaphragm at x, both sides: a dome that falls steeply to the chest wall."""
        out = np.abs(x) / self.chest
        medial = 12.0 * np.clip((0.46 - out) / 0.46, 0, 1) ** 1.6
        lateral = 48.0 * np.clip((out - 0.46) / 0.54, 0, None) ** 2.6
        step = np.clip(0.5 + np.asarray(x) / 50.0, 0.0, 1.0)
        return np.asarray(self.dome_y + self.dome_gap * step + medial + lateral, np.float64)

    def spine_x(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where the spine's midline runs at height y."""
        return self.bend * np.sin(np.asarray(y) / FIELD_MM * np.pi)


def _draw_anatomy(rng: Generator) -> _Anatomy:
    return _Anatomy(
        chest=rng.uniform(128.0, 145.0),
        lung_height=rng.uniform(198.0, 232.0),
        heart=rng.uniform(74.0, 92.0),
        dome_gap=rng.uniform(6.0, 14.0),
        habitus=rng.uniform(16.0, 28.0),
        breast_cm=rng.choice([0.0, rng.uniform(0.6, 2.2)]),
        bend=rng.normal(0.0, 3.0),
        tilt_deg=rng.uniform(-2.0, 2.0),
        exposure_cm=rng.uniform(12.4, 13.6),
        contrast_cm=rng.uniform(3.1, 3.6),
        noise_cm=rng.uniform(0.07, 0.13),
    )


@dataclass(frozen=True, eq=False)
class _Frame:
    """The pixel grid, and how mm become pixels: scale, centre and tilt.

    Attributes:
        hw: Size in pixels.
        px_per_mm: Scale.
        turn: (2, 2) rotation from the person's mm to the picture's.
        x_mm: float32 (H, W) of the person's x at pixel centres.
        y_mm: Likewise y.
    """

    hw: tuple[int, int]
    px_per_mm: float
    turn: NDArray[np.float64]
    x_mm: FloatMap
    y_mm: FloatMap

    def to_px(self, points: Points) -> NDArray[np.int32]:
        """(N, 2) mm as OpenCV's fixed-point pixel centres."""
        centred = (points - (0.0, FIELD_MM / 2)) @ self.turn.T
        px = centred * self.px_per_mm + (self.hw[1] / 2 - 0.5, self.hw[0] / 2 - 0.5)
        return np.rint(px * (1 << _SHIFT)).astype(np.int32)

    def fill(self, *outlines: Points, soft_mm: float = 0.5) -> FloatMap:
        """Coverage 0..1 of the union of (N, 2) outlines, with edges as soft as asked."""
        canvas = np.zeros(self.hw, np.uint8)
        for outline in outlines:
            cv2.fillPoly(canvas, [self.to_px(outline)], 255, cv2.LINE_AA, _SHIFT)
        return self.soften(canvas.astype(np.float32) / np.float32(255), soft_mm)

    def stroke(self, *paths: Points, width_mm: float, soft_mm: float = 0.3) -> FloatMap:
        """Coverage 0..1 of thin lines along (N, 2) paths; thinner than a pixel is fainter."""
        width_px = width_mm * self.px_per_mm
        thickness = max(1, round(width_px))
        level = min(255, round(255 * width_px))
        canvas = np.zeros(self.hw, np.uint8)
        for path in paths:
            cv2.polylines(canvas, [self.to_px(path)], False, level, thickness, cv2.LINE_AA, _SHIFT)
        return self.soften(canvas.astype(np.float32) / np.float32(255), soft_mm)

    def soften(self, values: FloatMap, sigma_mm: float) -> FloatMap:
        """Gaussian blur; under a fifth of a pixel nothing is left to blur."""
        sigma_px = sigma_mm * self.px_per_mm
        if sigma_px < 0.2:
            return values
        blurred = cv2.GaussianBlur(values, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
        return cast(FloatMap, blurred)

    def inset_mm(self, inside: NDArray[np.bool_]) -> FloatMap:
        """How deep each pixel lies inside a region, in mm; 0 outside."""
        distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        return cast(FloatMap, distance) / np.float32(self.px_per_mm)


def _make_frame(hw: tuple[int, int], *, tilt_deg: float) -> _Frame:
    px_per_mm = min(hw) / FIELD_MM
    cos, sin = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    across = ((np.arange(hw[1]) + 0.5 - hw[1] / 2) / px_per_mm).astype(np.float32)[None, :]
    down = ((np.arange(hw[0]) + 0.5 - hw[0] / 2) / px_per_mm).astype(np.float32)[:, None]
    return _Frame(
        hw=hw,
        px_per_mm=px_per_mm,
        turn=np.array([[cos, -sin], [sin, cos]]),
        x_mm=np.float32(cos) * across + np.float32(sin) * down,
        y_mm=np.float32(cos) * down - np.float32(sin) * across + np.float32(FIELD_MM / 2),
    )


class _Spaces(NamedTuple):
    """Where things are, as bool (H, W), and the fluid as float32 coverage."""

    cage: NDArray[np.bool_]
    above: NDArray[np.bool_]
    heart: NDArray[np.bool_]
    right: NDArray[np.bool_]
    left: NDArray[np.bool_]
    fluid: FloatMap

    @property
    def lungs(self) -> NDArray[np.bool_]:
        return self.right | self.left


def _find_spaces(frame: _Frame, anatomy: _Anatomy, *, fluid_side: int) -> _Spaces:
    """The rib cage, the mediastinum with the heart, and the lungs that remain beside them.

    Args:
        frame: The pixel grid.
        anatomy: The person.
        fluid_side: -1 for an effusion on the image left, 1 on the right, 0 for none.
    """
    cage = frame.fill(_cage_outline(anatomy), soft_mm=0) > 0.5
    heart = frame.fill(_mediastinum_outline(anatomy), soft_mm=0) > 0.5
    across = np.linspace(-1.2, 1.2, 200) * anatomy.chest
    above = frame.fill(_close_above(across, anatomy.dome(across)), soft_mm=0) > 0.5
    lungs = cage & above & ~heart
    fluid = np.zeros(frame.hw, np.float32)
    if fluid_side:
        level = anatomy.dome_y + (14.0 if fluid_side > 0 else 4.0)
        out = np.clip(fluid_side * across / anatomy.chest, 0, 1.0)
        # Fluid climbs along the chest wall: the meniscus.
        meniscus = level + 12.0 - 56.0 * out**5
        dry = frame.fill(_close_above(across, meniscus), soft_mm=0) > 0.5
        wet = cage & above & ~heart & ~dry & (fluid_side * frame.x_mm > 0)
        lungs &= ~wet
        fluid = frame.soften(wet.astype(np.float32), 3.0)
    return _Spaces(
        cage=cage,
        above=above,
        heart=heart,
        right=_keep_largest(lungs & (frame.x_mm < 0)),
        left=_keep_largest(lungs & (frame.x_mm > 0)),
        fluid=fluid,
    )


def _add_soft_tissue(frame: _Frame, anatomy: _Anatomy, spaces: _Spaces) -> FloatMap:
    """Body, heart and belly less the air in lungs, airways and stomach; cm of water."""
    body = frame.fill(_body_outline(anatomy), soft_mm=0.6)
    girth = np.interp(
        frame.y_mm, [20, 75, 120, 200, 290, 360], [11.5, 13.5, 17.0, 19.5, 22.0, 23.0]
    ).astype(np.float32)
    water = girth * _round_off(frame.inset_mm(body > 0.5), 70.0) * body

    # Air: full in the lungs; some lies behind heart and dome, so that vessels show through them.
    lungs = spaces.lungs.astype(np.float32)
    heart = spaces.heart & spaces.above
    behind_heart = heart * (0.5 - 0.42 * _round_off(frame.inset_mm(heart), 45.0))
    below = frame.inset_mm(~spaces.above)
    recess = (spaces.cage & ~spaces.above) * 0.26 * np.exp(-below / np.float32(16.0))
    share = frame.soften(np.maximum(lungs, behind_heart + recess), 0.9)
    depth = 0.60 * girth * _round_off(frame.inset_mm(spaces.cage), 55.0)
    water -= share * depth * (1.0 - 0.85 * spaces.fluid)

    water += 1.2 * _aorta(frame, anatomy)
    water -= _airways_cm(frame, anatomy) * body
    water -= _stomach_cm(frame, anatomy)
    water += _breasts_cm(frame, anatomy)
    return cast(FloatMap, np.maximum(water, 0.0))


def _aorta(frame: _Frame, anatomy: _Anatomy) -> FloatMap:
    """Coverage of the descending aorta, which shows through the heart."""
    path = [(18, 0.30), (19, 0.45), (15, 0.75), (9, 1.05), (6, 1.4)]
    points = np.array([(x, float(anatomy.down(fraction))) for x, fraction in path])
    return frame.fill(_ribbon(_smooth(points), 14.0, 9.0), soft_mm=2.0)


def _airways_cm(frame: _Frame, anatomy: _Anatomy) -> FloatMap:
    """Trachea and main bronchi."""
    carina = float(anatomy.down(0.40))
    trachea = np.array([(1, -60), (0, 0), (-2, 0.6 * carina), (-4, carina)], float)
    right = np.array([(-4, carina), (-15, carina + 16), (-30, carina + 34)], float)
    left = np.array([(-4, carina), (10, carina + 14), (30, carina + 25)], float)
    tubes = frame.fill(
        _ribbon(_smooth(trachea), 8.0, 8.0),
        _ribbon(_smooth(right), 6.5, 4.5),
        _ribbon(_smooth(left), 6.0, 4.0),
        soft_mm=1.6,
    )
    fade = np.interp(frame.y_mm, [carina - 20, carina + 45], [1.0, 0.25]).astype(np.float32)
    return 3.0 * tubes * fade


def _stomach_cm(frame: _Frame, anatomy: _Anatomy) -> FloatMap:
    """The gastric bubble: air under the left dome, cut off flat by its fluid level."""
    x, width = 0.50 * anatomy.chest, 27.0
    top = float(anatomy.dome(np.array([x]))[0]) + 7.0
    angle = np.linspace(np.pi, 2 * np.pi, 60)
    bubble = np.stack([x + width * np.cos(angle), top + 22.0 + 22.0 * np.sin(angle)], axis=1)
    return 4.2 * frame.fill(bubble, soft_mm=1.2)


def _breasts_cm(frame: _Frame, anatomy: _Anatomy) -> FloatMap:
    """Two faint shadows that are densest along their lower rim."""
    total = np.zeros(frame.hw, np.float32)
    if anatomy.breast_cm == 0.0:
        return total
    y0 = float(anatomy.down(0.86))
    for side in (-1, 1):
        u = (frame.x_mm - side * 0.62 * anatomy.chest) / np.float32(0.52 * anatomy.chest)
        v = (frame.y_mm - np.float32(y0)) / np.float32(66.0)
        dome = np.sqrt(np.clip(1.0 - u * u - v * v, 0.0, 1.0))
        total += dome * (0.55 + 0.45 * np.clip(v + 0.4, 0, 1))
    return frame.soften(anatomy.breast_cm * total, 1.5)


def _trace_bones(frame: _Frame, anatomy: _Anatomy, rng: Generator) -> FloatMap:
    """Spine, ribs, clavicles and shoulders; cm of water."""
    bones = _spine_cm(frame, anatomy) + _ribs_cm(frame, anatomy, rng)
    clavicles, blades, arms = [], [], []
    y0 = anatomy.apex_y
    origin = np.array([0.0, y0])
    wide = anatomy.chest / 137.0
    for side in (-1, 1):
        mirror = np.array([side * wide, 1.0])
        clavicle = np.array(
            [(16, 48), (32, 44), (62, 36), (94, 20), (124, 6), (146, 2), (158, 4)], float
        )
        clavicles.append(_smooth((clavicle + origin) * mirror))
        blade = np.array(
            [
                (146, 24),
                (124, 22),
                (119, 46),
                (124, 86),
                (137, 132),
                (147, 130),
                (158, 84),
                (170, 48),
            ],
            float,
        )
        blades.append(_smooth((blade + origin) * mirror, closed=True))
        arms.append(_ellipse(side * wide * 162.0, y0 + 5.0, 11.0, 7.0))  # acromion
        head = np.array(
            [(170, 24), (186, 12), (204, 22), (212, 44), (200, 62), (182, 62), (170, 46)]
        )
        arms.append(_smooth((head + origin) * mirror, closed=True))
        shaft = np.array([(196, 40), (212, 80), (232, 140), (250, 200)], float)
        arms.append(_ribbon(_smooth((shaft + origin) * mirror), 16.0, 12.0))
    bones += 1.5 * frame.fill(*(_ribbon(path, 7.5, 6.0, waist=0.72) for path in clavicles))
    edges = [edge for path in clavicles for edge in _edges(path, 7.0, 5.5, waist=0.72)]
    bones += 0.9 * frame.stroke(*edges, width_mm=1.3)
    bones += 0.45 * frame.fill(*blades, soft_mm=1.0) + 0.35 * frame.stroke(*blades, width_mm=1.6)
    bones += 1.8 * frame.fill(*arms, soft_mm=1.0)
    return bones


def _spine_cm(frame: _Frame, anatomy: _Anatomy) -> FloatMap:
    """Vertebral bodies with end plates, disc spaces, pedicles and spinous processes."""
    bodies, plates, knobs = [], [], []
    y = -30.0
    while y < FIELD_MM + 60.0:
        # Vertebrae grow from about 15 mm high in the neck to 27 mm at the loin.
        height = float(np.interp(y, [0, 60, 400], [13.0, 17.0, 25.0]))
        half = float(np.interp(y, [0, 60, 400], [12.0, 14.5, 21.0]))
        x = float(anatomy.spine_x(np.array(y + height / 2)))
        outline = np.array(
            [(-1, 0), (0, 0.03), (1, 0), (0.9, 0.5), (1, 1), (0, 0.97), (-1, 1), (-0.9, 0.5)]
        )
        bodies.append(_smooth(outline * (half, height) + (x, y), closed=True))
        plates += [np.array([(x - half, y + end), (x + half, y + end)]) for end in (0.0, height)]
        for offset, size in ((-0.55 * half, 3.2), (0.55 * half, 3.2), (0.0, 3.0)):
            drop = 0.42 if offset else 0.75
            knobs.append(_ellipse(x + offset, y + drop * height, size * 0.8, size * 1.25))
        y += height + float(np.interp(y, [0, 400], [3.5, 6.0]))
    column = np.arange(-60.0, FIELD_MM + 80.0, 10.0)
    path = np.stack([anatomy.spine_x(column), column], axis=1)
    half = np.interp(column, [0, 60, 400], [12.0, 14.5, 21.0])
    bone: FloatMap = (
        1.3 * frame.fill(_ribbon(path, half[0], half[-1]), soft_mm=3.5)
        + 0.9 * frame.fill(*bodies, soft_mm=0.8)
        + 0.7 * frame.stroke(*plates, width_mm=1.2, soft_mm=0.5)
        + 0.8 * frame.fill(*knobs, soft_mm=0.8)
    )
    return bone


def _ribs_cm(frame: _Frame, anatomy: _Anatomy, rng: Generator) -> FloatMap:
    """Ribs as tilted loops: the back halves descend laterally, the front halves medially."""
    back: list[Points] = []
    front: list[Points] = []
    back_edges: list[Points] = []
    front_edges: list[Points] = []
    for rib in range(1, 12):
        level = float(anatomy.down(0.106 * (rib - 1)))
        fall = float(np.interp(rib, [1, 2, 4, 7, 11], [52.0, 68.0, 90.0, 104.0, 96.0]))
        reach = float(anatomy.cage_x(level + fall / 2)) - 1.0
        reach *= float(np.interp(rib, [1, 2, 3], [0.78, 0.94, 1.0]))
        for side in (-1, 1):
            start = level + rng.normal(0.0, 1.2)
            angle = np.linspace(0.05, 0.5, 50) * np.pi
            back_path = _rib_path(anatomy, angle, side, start, reach, fall)
            angle = np.linspace(0.5, 0.84, 50) * np.pi
            front_path = _rib_path(anatomy, angle, side, start, reach, fall)
            back.append(_ribbon(back_path, 3.4, 4.4))
            back_edges += _edges(back_path, 3.1, 4.1)
            if rib <= 8:
                front.append(_ribbon(front_path, 4.4, 7.0))
                front_edges += _edges(front_path, 4.1, 6.5)
    # Ribs turn to cartilage, which hardly shows, nearer the breastbone the higher they are.
    bony = np.interp(frame.y_mm, anatomy.down(np.array([0.1, 0.9])), [28.0, 84.0])
    front_share = np.clip((np.abs(frame.x_mm) - bony) / 22.0, 0.0, 1.0).astype(np.float32)
    bone: FloatMap = (
        1.15 * frame.fill(*back, soft_mm=0.7)
        + 0.75 * frame.stroke(*back_edges, width_mm=1.1, soft_mm=0.4)
        + 0.65 * front_share * frame.fill(*front, soft_mm=1.0)
        + 0.45 * front_share * frame.stroke(*front_edges, width_mm=1.1, soft_mm=0.6)
    )
    return bone


def _rib_path(
    anatomy: _Anatomy,
    angle: NDArray[np.float64],
    side: int,
    start: float,
    reach: float,
    fall: float,
) -> Points:
    """Centre line of a rib; angle 0 is at the spine, pi / 2 lateral, pi at the breastbone."""
    y = start + fall * (1.0 - np.cos(angle)) / 2.0 - 7.0 * np.sin(2.0 * angle) * (angle < np.pi / 2)
    x = side * reach * np.sin(angle) + anatomy.spine_x(y) * np.cos(angle).clip(0)
    return np.stack([x, y], axis=1)


def _grow_vessels(frame: _Frame, anatomy: _Anatomy, spaces: _Spaces, rng: Generator) -> FloatMap:
    """Hila, and trees that taper and fork as they leave them; cm of water."""
    total = np.zeros(frame.hw, np.float32)
    hila = []
    for side in (-1, 1):
        hilum = np.array([side * 34.0, float(anatomy.down(0.53 if side < 0 else 0.49))])
        hila.append(_ellipse(hilum[0], hilum[1], 11.0, 17.0))
        # Two layers, arteries and veins, so that crossing vessels add up.
        for _ in range(2):
            total += _draw_segments(frame, _grow_tree(hilum, side, anatomy, rng))
    total = frame.soften(total, 0.45) + 1.6 * frame.fill(*hila, soft_mm=6.0)
    shown = np.where(spaces.heart, np.float32(0.45), np.float32(1.0)) * spaces.cage
    return cast(FloatMap, total * shown * (1.0 - 0.8 * spaces.fluid))


def _grow_tree(
    hilum: NDArray[np.float64], side: int, anatomy: _Anatomy, rng: Generator
) -> list[tuple[float, Points]]:
    """Segments of a random tree, as (width in mm, (2, 2) end points), thinnest first."""
    # Headings fan from steeply up to steeply down; 0 is lateral, positive is down.
    tips = [
        (hilum + rng.normal(0.0, 5.0, 2) * (1, 1.6), heading + rng.normal(0.0, 0.08), width)
        for heading, width in zip(
            (-1.25, -0.85, -0.45, -0.1, 0.25, 0.6, 0.9, 1.2, 1.45),
            (3.2, 3.2, 2.8, 2.8, 3.4, 4.4, 5.2, 6.0, 5.2),
            strict=True,
        )
    ]
    segments = []
    step_mm = 4.5
    while tips:
        point, heading, width = tips.pop()
        while width > 0.45 and 20.0 < side * point[0] < anatomy.cage_x(point[1]) - 8.0:
            heading += rng.normal(0.0, 0.145)
            ahead = point + step_mm * np.array([side * np.cos(heading), np.sin(heading)])
            segments.append((float(width), np.stack([point, ahead])))
            point, width = ahead, width * 0.955
            if rng.random() < 0.165:
                fork = rng.choice((-1.0, 1.0)) * rng.uniform(0.35, 0.8)
                tips.append((point, heading + fork, width * 0.72))
                width *= 0.9
                heading -= 0.25 * fork
    return sorted(segments, key=lambda segment: segment[0])


def _draw_segments(frame: _Frame, segments: list[tuple[float, Points]]) -> FloatMap:
    """Vessels as thick as they are wide; cm of water."""
    canvas = np.zeros(frame.hw, np.uint8)
    level_per_cm = 130.0
    ends_px = frame.to_px(np.concatenate([ends for _, ends in segments])).reshape(-1, 2, 2)
    for (width_mm, _), (first, second) in zip(segments, ends_px.tolist(), strict=True):
        width_px = width_mm * frame.px_per_mm
        thickness = max(1, round(width_px))
        level = 3.8 * width_mm / 10.0 * min(1.0, width_px / thickness) * level_per_cm
        cv2.line(canvas, first, second, min(255.0, level), thickness, cv2.LINE_AA, _SHIFT)
    return canvas.astype(np.float32) / np.float32(level_per_cm)


def _weave_parenchyma(frame: _Frame, spaces: _Spaces, rng: Generator) -> FloatMap:
    """Vessels too small to draw: mottle of a few mm; cm of water."""
    mottle = np.zeros(frame.hw, np.float32)
    for grain_mm, amount_cm in ((1.6, 0.14), (5.0, 0.14), (22.0, 0.25)):
        size = (
            int(frame.hw[0] / frame.px_per_mm / grain_mm) + 3,
            int(frame.hw[1] / frame.px_per_mm / grain_mm) + 3,
        )
        coarse = rng.standard_normal(size, np.float32)
        fine = cv2.resize(coarse, frame.hw[::-1], interpolation=cv2.INTER_CUBIC)
        mottle += np.float32(amount_cm) * fine
    return mottle * spaces.cage


def _plant_blob(
    frame: _Frame,
    spaces: _Spaces,
    rng: Generator,
    *,
    side: int,
    range_mm: tuple[float, float],
) -> FloatMap:
    """A roughly round opacity wholly inside one lung; cm of water."""
    radius = rng.uniform(*range_mm) / 2.0
    inset = frame.inset_mm(spaces.right if side < 0 else spaces.left)
    # The rim is irregular by 8 %; a narrow lung takes the largest blob that fits.
    radius = min(radius, (float(inset.max()) - 1.0) / 1.08)
    rows, columns = np.nonzero(inset >= 1.08 * radius + 0.5)
    pick = int(rng.random() * len(rows))
    x = frame.x_mm - frame.x_mm[rows[pick], columns[pick]]
    y = frame.y_mm - frame.y_mm[rows[pick], columns[pick]]
    angle = np.arctan2(y, x)
    rim = np.ones(frame.hw, np.float32)
    for waves in (2, 3, 5):
        rim += np.float32(0.08 / 3) * np.cos(waves * angle + rng.uniform(0.0, 2 * np.pi))
    across = np.sqrt(x * x + y * y) / (np.float32(radius) * rim)
    chord_cm = 2.0 * radius / 10.0 * np.sqrt(np.clip(1.0 - across * across, 0.0, 1.0))
    # Small opacities are denser than water's share of their size, or none would be seen.
    return frame.soften((chord_cm * (0.5 + 7.0 / radius)).astype(np.float32), 1.2)


def _expose(frame: _Frame, anatomy: _Anatomy, water_cm: FloatMap, rng: Generator) -> FloatMap:
    """Blur of the detector, quantum noise, and the display curve; float32 in 0..1."""
    sharp = frame.soften(water_cm, 0.25)
    # Fewer quanta reach a pixel behind thick tissue, or a smaller pixel.
    per_pixel = anatomy.noise_cm * frame.px_per_mm / 2.56
    noise = cv2.GaussianBlur(rng.standard_normal(frame.hw, np.float32), (0, 0), 0.6) * 1.9
    noisy = sharp + per_pixel * np.exp((sharp - 8.0) / 13.0) * noise
    grey = 1.0 / (1.0 + np.exp((anatomy.exposure_cm - noisy) / anatomy.contrast_cm))
    black = 1.0 / (1.0 + np.exp(anatomy.exposure_cm / anatomy.contrast_cm))
    shown = 0.97 * (grey - black) / (1.0 - black)
    return cast(FloatMap, np.clip(shown, 0.0, 1.0).astype(np.float32))


def _cage_outline(anatomy: _Anatomy) -> Points:
    """Inside of the rib cage, both sides, down to the recess below the domes."""
    drop = np.linspace(0.0, 1.45, 80)
    y = anatomy.down(drop)
    half = np.stack([anatomy.cage_x(y), y], axis=1)
    half = np.vstack([[(8.0, anatomy.apex_y + 16.0), (26.0, anatomy.apex_y + 3.0)], half])
    return _smooth(np.vstack([half, half[::-1] * (-1, 1)]), closed=True, per_span=3)


def _mediastinum_outline(anatomy: _Anatomy) -> Points:
    """Great vessels and heart: aortic knob and left ventricle to the image right."""
    heart = anatomy.heart
    left = [
        (44, -0.12), (30, 0.0), (22, 0.10), (22, 0.20), (28, 0.26), (34, 0.315), (31, 0.37),
        (27, 0.415), (32, 0.47), (35, 0.53), (0.49 * heart, 0.60), (0.66 * heart, 0.68),
        (0.83 * heart, 0.77), (0.95 * heart, 0.85), (heart, 0.93), (0.97 * heart, 1.01),
        (0.86 * heart, 1.08), (0.6 * heart, 1.25),
    ]  # fmt: skip
    right = [
        (-30, 1.35), (-34, 1.10), (-0.42 * heart, 0.99), (-0.48 * heart, 0.90),
        (-0.48 * heart, 0.80), (-0.41 * heart, 0.70), (-28, 0.61), (-25, 0.52),
        (-24, 0.38), (-22, 0.22), (-22, 0.10), (-30, 0.0), (-44, -0.12),
    ]  # fmt: skip
    points = np.array([(x, float(anatomy.down(fraction))) for x, fraction in left + right])
    return _smooth(points)


def _body_outline(anatomy: _Anatomy) -> Points:
    """Skin: neck, shoulders that leave the picture, armpits and flanks."""
    side = anatomy.chest + anatomy.habitus
    y0 = anatomy.apex_y
    half = np.array(
        [
            (52, -400), (52, -60), (54, y0 - 40), (66, y0 - 22), (110, y0 - 8), (165, y0 + 4),
            (230, y0 + 40), (290, y0 + 110), (330, y0 + 190), (290, y0 + 220), (235, y0 + 160),
            (side + 26, y0 + 118), (side + 8, y0 + 140), (side + 1, y0 + 180), (side, y0 + 240),
            (side + 4, y0 + 300), (side + 8, 460), (side + 8, 1000),
        ],
        float,
    )  # fmt: skip
    return _smooth(np.vstack([half, half[::-1] * (-1, 1)]))


def _close_above(x: NDArray[np.float64], y: NDArray[np.float64]) -> Points:
    """The region over a curve, up to well outside the picture."""
    return np.vstack([np.stack([x, y], axis=1), [(x[-1], -1000.0), (x[0], -1000.0)]])


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> Points:
    angle = np.linspace(0.0, 2 * np.pi, 32, endpoint=False)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def _smooth(points: Points, *, closed: bool = False, per_span: int = 10) -> Points:
    """Catmull-Rom curve through (N, 2) points."""
    ends = (points[-1:], points[:2]) if closed else (points[:1], points[-1:])
    padded = np.vstack([ends[0], points, ends[1]])
    a, b, c, d = (padded[i : len(padded) - 3 + i, None] for i in range(4))
    t = np.linspace(0.0, 1.0, per_span, endpoint=False)[None, :, None]
    curve: Points = (
        b + t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))) / 2
    )
    if not closed:
        return np.vstack([curve.reshape(-1, 2), points[-1:]])
    return curve.reshape(-1, 2)


def _edges(
    path: Points, half_start: float, half_end: float, *, waist: float = 1.0
) -> tuple[Points, Points]:
    """Both sides of a band along a path; a waist below 1 narrows its middle."""
    along = np.gradient(path, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    t = np.linspace(0.0, 1.0, len(path))[:, None]
    half = (half_start + (half_end - half_start) * t) * (1.0 - (1.0 - waist) * np.sin(np.pi * t))
    return path + half * normal, path - half * normal


def _ribbon(path: Points, half_start: float, half_end: float, *, waist: float = 1.0) -> Points:
    """Outline of a band along a path."""
    one, other = _edges(path, half_start, half_end, waist=waist)
    return np.vstack([one, other[::-1]])


def _round_off(inset_mm: FloatMap, radius_mm: float) -> FloatMap:
    """Thickness of a body with a round edge, as a share of its full thickness."""
    rest = 1.0 - np.minimum(inset_mm / np.float32(radius_mm), 1.0)
    share: FloatMap = np.sqrt(1.0 - rest * rest)
    return share


def _keep_largest(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Drops slivers that a coarse grid cuts off."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
    if count < 2:
        return region
    return cast(NDArray[np.bool_], parts == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])))
