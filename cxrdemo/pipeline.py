"""The pipeline: the only owner of models and engine.

Nothing here draws, and nothing is remembered between calls, so one pipeline serves many users.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import torch

from cxrdemo.assembly import Assembly
from cxrdemo.checkpoints import CheckpointStore
from cxrdemo.classifier import FindingClassifier
from cxrdemo.devices import AskedPrecision
from cxrdemo.engines import Engine, usable_engine
from cxrdemo.errors import CheckpointError, NoLungsFoundError
from cxrdemo.gate import check
from cxrdemo.hub import checkpoint_folder
from cxrdemo.lungs import Stroke, paint
from cxrdemo.masking import (
    DEFAULT_MARGIN,
    Surroundings,
    is_sparse,
    kept_region,
    margin_remarks,
)
from cxrdemo.placement import Placement
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import (
    ALL_MASKINGS,
    GRAD_CAM,
    Analysis,
    CanvasRegion,
    CheckpointUse,
    LungMask,
    MaskingMode,
    Probes,
    Reading,
    Side,
    bounding_box,
)
from cxrdemo.saliency import even_map, explain
from cxrdemo.segmenter import Embedding, LungSegmenter, Prompts
from cxrdemo.specs import CheckpointSpec
from cxrdemo.worker import in_worker, side_by_side

Builder = TypeVar("Builder")
Item = TypeVar("Item")
Made = TypeVar("Made")
LungsAt = Callable[[Placement, tuple[int, int]], CanvasRegion | None]

MAX_AT_ONCE: Final = 4
"""Images of one group: a visitor who comes meanwhile waits for all of them."""

CLICK_RADIUS: Final = 0.02
"""Of the image's height: what a click says is obeyed within this distance of it."""

BOX_MARGIN: Final = 0.03
"""Each side of a lung's box grows by this share of its size before MedSAM sees it."""


@dataclass(frozen=True, eq=False)
class Found:
    """A lung mask, and what it can be corrected from.

    Attributes:
        lungs: The mask.
        embedding: Of the image.
        strokes: What was drawn by hand, clicks among it; no later answer of the network undoes it.
    """

    lungs: LungMask
    embedding: Embedding
    strokes: tuple[Stroke, ...] = ()


class Pipeline:
    """From a radiograph to an analysis, safe to call from several threads.

    Construction does no input or output; `from_checkpoints` loads the parts.
    """

    def __init__(
        self,
        segmenter: LungSegmenter | None,
        classifiers: Mapping[MaskingMode, FindingClassifier],
        *,
        coarse: LungSegmenter | None = None,
        notes: Sequence[str] = (),
        at_once: int = 1,
    ) -> None:
        """Takes loaded parts.

        Args:
            segmenter: Gives the lung mask; None leaves only masking NONE.
            classifiers: One for each masking it was trained for; may be empty.
            coarse: Finds each lung's box for a segmenter whose spec asks for boxes.
            notes: Warnings about the set-up, repeated in every analysis.
            at_once: How many images `side_by_side` may analyse at the same time.

        Raises:
            CheckpointError: If the segmenter needs boxes and nothing can give them.
        """
        if segmenter and segmenter.spec.prompt == "lung-boxes" and coarse is None:
            raise CheckpointError(
                f"The weights {segmenter.spec.name} know no lungs by themselves; a lung segmenter "
                "must give them boxes, and no such checkpoint is installed."
            )
        self._segmenter = segmenter
        self._classifiers = dict(classifiers)
        self._coarse = coarse
        self._notes = tuple(notes)
        self.at_once: Final = at_once

    @classmethod
    def from_checkpoints(
        cls,
        folder: Path | str,
        *,
        medsam: Path | None = None,
        maskings: Collection[MaskingMode] = ALL_MASKINGS,
        device: torch.device | str = "cpu",
        precision: AskedPrecision = "fp32",
        engine: Engine = "torch",
        cache: Path | None = None,
    ) -> Self:
        """Loads what a checkpoint folder's manifest lists.

        Args:
            folder: With `manifest.json`, or on the Hub, see `hub.checkpoint_folder`; an empty
                folder gives a pipeline that finds nothing and says so.
            medsam: Stock MedSAM weights (`medsam_vit_b.pth`) to take the place of the listed
                segmenter, which then finds the boxes for it.
            maskings: Whose classifiers to load; with none of them it only finds lungs.
            device: Where to run.
            precision: What the networks compute in, see `assembly.Assembly`.
            engine: What computes. Where "openvino" cannot, PyTorch does, and every analysis says
                so.
            cache: Where "openvino" keeps converted networks; None takes `engines.cache_folder()`.

        Raises:
            CheckpointError: If a file is missing, altered or does not fit.
        """
        store = CheckpointStore.open(checkpoint_folder(folder))
        engine, note = usable_engine(engine, device)
        assembly = Assembly(store, device, precision, engine, cache)
        listed = store.lungs()
        specs = {mode: spec for mode in ALL_MASKINGS if (spec := store.findings(mode))}
        # Reading, hashing and widening the weights leave a core idle by turns.
        with ThreadPoolExecutor(max_workers=2) as pool:
            found = None if listed is None else pool.submit(assembly.segmenter, listed)
            parts = {
                mode: pool.submit(assembly.classifier, spec)
                for mode, spec in specs.items()
                if mode in maskings
            }
            segmenter = None if found is None else found.result()
            classifiers = {mode: part.result() for mode, part in parts.items()}
        coarse = None
        if medsam is not None:
            coarse, segmenter = segmenter, assembly.medsam(medsam)
        return cls(
            segmenter,
            classifiers,
            coarse=coarse,
            notes=[note] if note else [],
            # A GPU, or what OpenVINO compiled, serves one at a time.
            at_once=min(MAX_AT_ONCE, torch.get_num_threads())
            if engine == "torch" and torch.device(device).type == "cpu"
            else 1,
        )

    def move_to(self, device: torch.device | str) -> None:
        """Brings every network to a device, in place, for a process that is given its GPU late.

        Args:
            device: Where to run; engine "openvino" stays on the CPU.
        """
        for part in (self._segmenter, self._coarse, *self._classifiers.values()):
            if part is not None:
                part.move_to(device)

    @property
    def segmenter_spec(self) -> CheckpointSpec | None:
        """Of the segmenter, or None."""
        return self._segmenter.spec if self._segmenter else None

    def classifier_spec(self, mode: MaskingMode) -> CheckpointSpec | None:
        """Of the classifier for a masking, or None."""
        found = self._classifiers.get(mode)
        return found.spec if found else None

    @property
    def is_complete(self) -> bool:
        """Whether there is a segmenter, and a classifier for every masking."""
        return self._segmenter is not None and len(self._classifiers) == len(ALL_MASKINGS)

    def find(self, radiograph: Radiograph) -> Found:
        """The lungs, and what is needed to correct them without another look at the image.

        Raises:
            CheckpointError: If there is no segmenter.
        """
        if self._segmenter is None:
            raise CheckpointError("No lung segmenter is installed: there is no lung mask.")
        return in_worker(partial(self._find, self._segmenter, radiograph))

    def correct(
        self,
        found: Found,
        *,
        click: tuple[float, float] | None = None,
        add: bool = True,
        box: tuple[float, float, float, float] | None = None,
        strokes: Sequence[Stroke] = (),
    ) -> Found:
        """Corrects a mask by a click, a box or a brush, from the embedding already there.

        What was clicked or painted is obeyed to the pixel, whatever the network answers now or
        later.

        Args:
            found: What `find` or an earlier correction gave.
            click: (x, y) in pixels of the radiograph: a place that belongs to a lung, or not. The
                network answers, and a disc of `CLICK_RADIUS` about the click is in or out.
            add: Whether the click adds or removes.
            box: XYXY around one lung, which is then found anew inside it.
            strokes: Of a brush, in the order in which they were made; the network is not asked.

        Raises:
            PromptError: If there is nothing to correct by, or it lies outside the image.
            CheckpointError: If there is no segmenter.
        """
        if self._segmenter is None:
            raise CheckpointError("No lung segmenter is installed: there is nothing to correct.")
        if strokes:
            drawn = tuple(strokes)
            return Found(paint(found.lungs, drawn), found.embedding, (*found.strokes, *drawn))
        kept = found.strokes
        if box is not None:
            ask = partial(self._segmenter.redo_box, found.embedding, found.lungs, box)
        else:
            prompts = Prompts(
                points=() if click is None else (click,),
                adds=() if click is None else (add,),
                logits=None if click is None else found.lungs.logits,
            )
            ask = partial(self._segmenter.segment, found.embedding, prompts)
            if click is not None:
                radius = CLICK_RADIUS * found.lungs.sides.shape[0]
                kept = (*kept, Stroke((click,), radius, add))
        return Found(paint(in_worker(ask), kept), found.embedding, kept)

    def probe(
        self, radiograph: Radiograph, lungs: LungMask, margins: Sequence[float]
    ) -> Iterator[Probes]:
        """Asks what the answers hang on: the margin, and what lies outside the lungs.

        Args:
            radiograph: The image.
            lungs: Its lungs, not empty.
            margins: Loose margins to read at, as fractions of the lungs' height.

        Yields:
            What is known after each question, for others may be served in between: first a reading
            of the image with the lungs removed, if there is a classifier for NONE, then one
            reading more per margin, if there is one for LOOSE.
        """
        loose = self._classifiers.get(MaskingMode.LOOSE)
        whole = self._classifiers.get(MaskingMode.NONE)
        known = Probes((), None)
        if whole:
            ask = partial(whole.classify, radiograph.pixels, ~lungs.inside)
            known = replace(known, outside=in_worker(ask)[0])
            yield known
        if loose:
            surroundings = Surroundings(lungs.inside)
            for margin in margins:
                ask = partial(loose.classify, radiograph.pixels, surroundings.within(margin))
                known = replace(known, curve=(*known.curve, (margin, in_worker(ask)[0])))
                yield known

    def analyse(
        self,
        radiograph: Radiograph,
        *,
        lungs: LungMask | None = None,
        maskings: Collection[MaskingMode] = ALL_MASKINGS,
        margin: float | None = None,
        method: str = GRAD_CAM,
    ) -> Analysis:
        """Finds the lungs, masks, classifies and explains.

        Args:
            radiograph: A frontal chest X-ray.
            lungs: A mask found or corrected before; None finds it.
            maskings: What to read; each is read by the weights trained for it.
            margin: Width of the loose margin as a fraction of the lungs' height; None takes the
                checkpoint's default. Outside the range seen in training a warning says so.
            method: One of `results.METHODS`.

        Returns:
            The analysis. A masking that could not be done is absent, and a warning says why.

        Raises:
            NoLungsFoundError: If every masking asked for needs lungs and none were found.
            ValueError: If no masking is asked for, or the margin is out of range.
        """
        return in_worker(partial(self._analyse, radiograph, lungs, maskings, margin, method))

    def side_by_side(self, work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """Does some work on several items, `at_once` of them at a time, each on its share of cores.

        A network on one image leaves cores idle between its layers; two images at a time do not.
        Until all are done nobody else gets an answer, so the items should be few.

        Args:
            work: What to do with an item, in a thread of its own; it may ask everything of this
                pipeline.
            items: Such as files.

        Returns:
            What the work returned, in the order of the items.
        """
        at_once = min(self.at_once, len(items))
        if at_once < 2:
            return in_worker(lambda: [work(item) for item in items])

        def share_cores() -> list[Made]:
            threads = torch.get_num_threads()
            take_share = partial(torch.set_num_threads, max(1, threads // at_once))
            try:
                return side_by_side(work, items, at_once=at_once, prepare=take_share)
            finally:
                torch.set_num_threads(threads)

        return in_worker(share_cores)

    def _analyse(
        self,
        radiograph: Radiograph,
        lungs: LungMask | None,
        maskings: Collection[MaskingMode],
        margin: float | None,
        method: str,
    ) -> Analysis:
        if not maskings:
            raise ValueError("at least one masking must be asked for")
        clock: dict[str, float] = {}
        warnings = [*radiograph.source.warnings, *self._notes]
        with _timed(clock, "lungs"):
            if lungs is None and self._segmenter:
                lungs = self._find(self._segmenter, radiograph).lungs
        with _timed(clock, "doubts"):
            doubts = check(radiograph, lungs)
        if lungs is None:
            warnings.append("No lung segmenter is installed: there is no lung mask.")
        else:
            warnings.extend(f"Lung mask: {reason}" for reason in lungs.quality.reasons)
            lungs = None if lungs.is_empty else lungs
        lungs_at = _regions_of(lungs)
        readings, unread = {}, []
        for mode in (m for m in ALL_MASKINGS if m in maskings):
            part = self._classifiers.get(mode)
            if part is None:
                unread.append(f"'{mode}'")
            elif mode is not MaskingMode.NONE and lungs is None:
                warnings.append(f"Masking '{mode}' was left out: there is no lung mask.")
            else:
                with _timed(clock, f"findings {mode}"):
                    readings[mode] = self._read(
                        radiograph, lungs, lungs_at, part, margin, method, warnings
                    )
        if unread:
            warnings.append(
                f"No classifier for masking {', '.join(unread)} is installed: no finding is shown."
            )
        if lungs is None and self._segmenter and MaskingMode.NONE not in maskings:
            raise NoLungsFoundError(
                "No lungs were found in this image, so it cannot be masked. Check that it is a "
                "frontal chest X-ray, or use masking 'none'."
            )
        return Analysis(
            radiograph=radiograph,
            lungs=lungs,
            readings=readings,
            checkpoints=self._checkpoints_used(readings),
            seconds=clock,
            warnings=tuple(warnings),
            doubts=doubts,
        )

    def find_lungs(self, radiograph: Radiograph) -> LungMask:
        """Only the lung mask; empty, with the reason in its quality, where nothing was found.

        Raises:
            CheckpointError: If there is no segmenter.
        """
        return self.find(radiograph).lungs

    def find_lungs_of_all(self, radiographs: Sequence[Radiograph]) -> list[LungMask]:
        """The lung masks of several radiographs, which the image encoder takes together.

        Raises:
            CheckpointError: If there is no segmenter.
        """
        if self._segmenter is None:
            raise CheckpointError("No lung segmenter is installed: there is no lung mask.")
        return in_worker(partial(self._find_all, self._segmenter, radiographs))

    def _find_all(
        self, segmenter: LungSegmenter, radiographs: Sequence[Radiograph]
    ) -> list[LungMask]:
        if self._coarse is None:
            return [segmenter.find_lungs(found) for found in segmenter.embed_all(radiographs)]
        return [self._find(segmenter, radiograph).lungs for radiograph in radiographs]

    def _find(self, segmenter: LungSegmenter, radiograph: Radiograph) -> Found:
        """The automatic mask, coarse to fine where the segmenter needs boxes."""
        embedding = segmenter.embed(radiograph)
        if self._coarse is None:
            return Found(segmenter.find_lungs(embedding), embedding)
        first = self._coarse.find_lungs(self._coarse.embed(radiograph))
        boxes = _lung_boxes(first)
        return Found(segmenter.find_lungs(embedding, boxes=boxes) if boxes else first, embedding)

    def _read(
        self,
        radiograph: Radiograph,
        lungs: LungMask | None,
        lungs_at: LungsAt,
        part: FindingClassifier,
        margin: float | None,
        method: str,
        warnings: list[str],
    ) -> Reading:
        mode, spec = part.mode, part.spec
        width = 0.0
        if mode is MaskingMode.LOOSE:
            width = margin if margin is not None else (spec.margin or DEFAULT_MARGIN)
            warnings.extend(margin_remarks(width, trained=spec.margin_range))
        if lungs is None:
            kept = np.ones(radiograph.hw, bool)
        else:
            kept = kept_region(lungs.inside, mode=mode, margin=width)
        findings, evidence = part.classify(radiograph.pixels, kept)
        if evidence.shares is not None and is_sparse(evidence.shares):
            warnings.append(
                f"Masking '{mode}' keeps less than half of every cell that the network tells "
                "apart, so each cell counts by what is kept of it. The numbers are unreliable."
            )
        maps = explain(part, evidence, method=method)
        where = (evidence.placement, maps[0].hw)
        given, lung = CanvasRegion.of(kept, *where), lungs_at(*where)
        places = tuple(heat.locate(given, lung) for heat in maps)
        chance = even_map(evidence).locate(given, lung).in_lungs
        return Reading(mode, width, kept, evidence.fill, findings, maps, places, chance)

    def _checkpoints_used(
        self, readings: Mapping[MaskingMode, Reading]
    ) -> tuple[CheckpointUse, ...]:
        parts: list[tuple[str, LungSegmenter | FindingClassifier | None]] = [
            ("lung boxes", self._coarse),
            ("lungs", self._segmenter),
            *((f"findings {mode}", self._classifiers[mode]) for mode in readings),
        ]
        return tuple(
            CheckpointUse(part.spec.name, part.spec.sha256, role, part.precision)
            for role, part in parts
            if part
        )


def _regions_of(lungs: LungMask | None) -> LungsAt:
    """The lungs on each classifier's canvas and cells, computed once for all that share them."""

    @functools.cache
    def lungs_at(placement: Placement, grid_hw: tuple[int, int]) -> CanvasRegion | None:
        return None if lungs is None else CanvasRegion.of(lungs.inside, placement, grid_hw)

    return lungs_at


def _lung_boxes(lungs: LungMask) -> dict[Side, tuple[float, float, float, float]]:
    """Each lung's box, grown a little and kept inside the image."""
    height, width = lungs.sides.shape
    boxes = {}
    for side in Side:
        box = bounding_box(lungs.side(side))
        if box is not None:
            grow_x, grow_y = BOX_MARGIN * (box[2] - box[0]), BOX_MARGIN * (box[3] - box[1])
            boxes[side] = (
                max(0.0, box[0] - grow_x),
                max(0.0, box[1] - grow_y),
                min(float(width), box[2] + grow_x),
                min(float(height), box[3] + grow_y),
            )
    return boxes


@contextlib.contextmanager
def _timed(clock: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    clock[stage] = time.perf_counter() - start
