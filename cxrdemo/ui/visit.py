"""What one visitor has on the page, and the answers to what the visitor asks. No gradio.

An upload reads all three maskings at once and sends the viewer everything it may be asked to show;
toggles and sliders then work in the browser alone. Only an upload, a margin let go of, a mask
correction and an override come here.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack

from cxrdemo.errors import CheckpointError, CxrDemoError, PromptError
from cxrdemo.examples import Example
from cxrdemo.export import case_archive
from cxrdemo.files import read_radiograph
from cxrdemo.lesions import plant
from cxrdemo.lungs import Stroke
from cxrdemo.masking import margin_remarks
from cxrdemo.radiograph import Radiograph, Remedy, remedied
from cxrdemo.results import MAX_MARGIN, Analysis, MaskingMode, Probes
from cxrdemo.ui import panels
from cxrdemo.ui.batch import Batch
from cxrdemo.ui.line import Line
from cxrdemo.ui.models import Models
from cxrdemo.ui.payload import (
    PROBED_MARGINS,
    Payload,
    case_part,
    doubts_part,
    findings_part,
    fine_part,
    image_part,
    lungs_part,
    payload,
    planted_part,
    probes_part,
)
from cxrdemo.ui.turn import Ticket, Turn
from cxrdemo.ui.uploads import take

if TYPE_CHECKING:
    from cxrdemo.pipeline import Found

MAX_CORRECTIONS: Final = 20
MAX_HISTORY_BYTES: Final = 256 * 2**20
"""How many corrections can be taken back one by one, and what their masks may take in memory; the
automatic mask always can be had again."""

_FARTHEST: Final = 1e6
"""No picture has so many pixels side by side."""

_MOST_POINTS: Final = 20_000
"""Of all strokes of a question; a hand gives a hundred a second."""

_MOST_PAINTED: Final = 500_000_000
"""Pixels under all strokes of a question, each as often as it is painted over."""

_TOO_LONG: Final = "That is too much to paint at once. Please paint it in shorter strokes."

MAX_VISITS: Final = 64
MAX_HELD_BYTES: Final = 2 * 2**30
"""Visitors whose image is kept, and what their images may take in memory together."""

MAX_DECODING: Final = 2
"""Files decoded at the same time: a large one takes more than a gigabyte meanwhile."""

GONE: Final = (
    "The server no longer has this image: it was let go of, or the server was started anew. Please "
    "open it again."
)

UNREAD: Final = "This image was not read to its end. Please open it again."

_EXAMPLES: Final = Path(__file__).parent / "examples"

decoding: Final = threading.BoundedSemaphore(MAX_DECODING)
"""Held by whoever decodes a visitor's file."""

_log = logging.getLogger(__name__)

Detail = Mapping[str, Any]
"""What the viewer tells with a question, as plain JSON types."""


@dataclass(frozen=True)
class Shown:
    """What the page is to show next; None leaves a part as it is.

    Attributes:
        payload: For the viewer.
        status: HTML of the line of status.
        details: HTML on how the image was read.
    """

    payload: Payload | None = None
    status: str | None = None
    details: str | None = None


@dataclass(frozen=True, eq=False)
class Planted:
    """A lesion that the visitor has planted.

    Attributes:
        analysis: Of the image with it.
        kind: A key of `lesions.KINDS`.
        centre: (x, y) in pixels of the radiograph.
        diameter: As a fraction of the lungs' height.
    """

    analysis: Analysis
    kind: str
    centre: tuple[float, float]
    diameter: float


@dataclass(frozen=True, eq=False)
class Session:
    """An image that was read, and what was done with it since.

    Attributes:
        study: Identifies the image, for the viewer.
        analysis: What is shown.
        found: The mask and the embedding to correct it from; None without a segmenter.
        automatic: The mask before all corrections.
        history: Masks before each correction, the latest last.
        accepted: Whether the user asked for the numbers in spite of the doubts.
        probes: What the findings hang on; None until it is known.
        planted: The image with a lesion planted, if there is one.
    """

    study: str
    analysis: Analysis
    found: Found | None
    automatic: Found | None = None
    history: tuple[Found, ...] = ()
    accepted: bool = False
    probes: Probes | None = None
    planted: Planted | None = None

    @property
    def withheld(self) -> bool:
        """Whether no number is shown."""
        return bool(self.analysis.doubts) and not self.accepted

    @property
    def can_be_probed(self) -> bool:
        """Whether there is something to ask what it hangs on, and it was not asked yet."""
        return bool(self.analysis.readings) and not self.withheld and self.probes is None


class Visit:
    """One visitor: the image being read, the batch, and whose turn it is.

    Every answer is a generator of what to show, stage by stage. An error is shown too, in words
    that name no file; it changes nothing.
    """

    def __init__(self, models: Models, line: Line | None = None, *, key: str = "visitor") -> None:
        """Nothing is open yet.

        Args:
            models: The models of the page.
            line: Where all visitors wait; None for a visitor alone.
            key: The visitor's name in that line.
        """
        self._models = models
        self._line = line or Line()
        self._key = key
        self._turn = Turn()
        self._lock = threading.Lock()
        self._probed: Found | None = None
        # Chosen by the visitor, and kept from image to image; None: the checkpoint's.
        self._margin: float | None = None
        self.session: Session | None = None
        self.batch: Final = Batch(models, self._line, key)

    # ---- A new image ---------------------------------------------------------------------------

    def open_upload(self, path: str) -> Iterator[Shown]:
        """Takes an uploaded file off the disk, and analyses the image stage by stage."""
        ticket = self._turn.start()
        yield from self._opened(ticket, lambda: read_radiograph(take(path)))

    def open_example(self, example: Example) -> Iterator[Shown]:
        """Analyses a bundled example, marked as synthetic wherever it is shown."""
        ticket = self._turn.start()
        yield from self._opened(ticket, partial(_read_example, example))

    def _opened(self, ticket: Ticket, read: Callable[[], Radiograph]) -> Iterator[Shown]:
        """Image, then lungs, then findings, then probes: each is shown as soon as it is there."""
        yield Shown(status=panels.note("Reading the file…"))
        with _Failures() as failures:
            with decoding:
                radiograph = read()
            if ticket.is_off():
                return
            study = secrets.token_hex(4)
            bare = Analysis(radiograph, None, {}, (), {}, ())
            parts: Payload = {"study": study, "synthetic": radiograph.source.synthetic}
            parts |= image_part(bare)

            def stage(words: str) -> Shown:
                return Shown(payload(**(parts | {"stage": words})), panels.note(words))

            def read_findings() -> Iterator[Shown]:
                pipeline = self._models.pipeline()
                start = time.perf_counter()
                found = pipeline.find(radiograph) if pipeline.segmenter_spec else None
                seconds = time.perf_counter() - start
                lungs = found.lungs if found else None
                parts.update(lungs_part(replace(bare, lungs=lungs)))
                yield stage("Reading the findings…")
                analysis = pipeline.analyse(radiograph, lungs=lungs, margin=self._margin)
                analysis = _and_lungs(analysis, seconds)
                session = Session(study, analysis, found, automatic=found)
                if self._keep(ticket, session):
                    yield self._shown(session, parts, probes=None)

            yield stage("Finding the lungs…" if self._models.are_loaded else "Loading the models…")
            yield from self._served(ticket, read_findings, waiting=stage)
            yield from self._probes(ticket, parts)
        yield from failures.shown()

    def open_listed(self) -> Iterator[Shown]:
        """Analyses the file of the batch that is open there."""
        ticket = self._turn.start()
        yield from self._opened(ticket, lambda: read_radiograph(self.batch.opened()))

    def read_batch(self) -> Iterator[tuple[str, bool]]:
        """Reads the files of the batch that were not read yet.

        Yields:
            How far it is, or why it goes no further, and whether that is an error.
        """
        with _Failures() as failures:
            for words in self.batch.read():
                yield words, False
        if failures.reason is not None:
            yield failures.reason, True

    # ---- Questions about the image ---------------------------------------------------------------

    def ask(self, question: str, detail: Detail) -> Iterator[Shown]:
        """Answers a question of the viewer about the image it shows.

        A question about another image than the session's, one whose reading was stopped, is not
        answered: the answer would be about the image before.

        Args:
            question: The event's name, one of `QUESTIONS`, or `READ_AGAIN`.
            detail: With `study`, and what the question needs.
        """
        ticket = self._turn.join()
        session = self.session
        if session is None or session.study != detail.get("study"):
            yield _gone() if session is None else _failed(UNREAD)
            return
        if question == READ_AGAIN:
            yield from self._remedied(session, str(detail.get("remedy")))
            return
        with _Failures() as failures:
            answer = partial(QUESTIONS[question], self, ticket, detail)
            yield from self._served(ticket, answer, waiting=_says)
            yield from self._probes(ticket)
        yield from failures.shown()

    def _remedied(self, session: Session, remedy: str) -> Iterator[Shown]:
        """Reads the image anew, turned, mirrored, inverted or cropped as the visitor asks."""

        def read() -> Radiograph:
            return remedied(session.analysis.radiograph, Remedy.parse(remedy))

        yield from self._opened(self._turn.start(), read)

    def _change_margin(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Reads the loose masking again at another margin; the others stay as they are."""
        session = self._session()
        (margin,) = _numbers(detail, "margin")
        if not 0.0 <= margin <= MAX_MARGIN:
            raise PromptError(f"A margin lies between 0 and {MAX_MARGIN:.0%} of the lungs' height.")
        session = replace(session, analysis=self._at_margin(session.analysis, margin))
        if session.planted is not None:
            changed = self._at_margin(session.planted.analysis, margin)
            session = replace(session, planted=replace(session.planted, analysis=changed))
        if self._keep(ticket, session):
            self._margin = margin
            yield self._shown(session, self._planted_part(session))

    def _at_margin(self, before: Analysis, margin: float) -> Analysis:
        """An analysis with its loose masking at another margin."""
        mode = MaskingMode.LOOSE
        loose = self._models.pipeline().analyse(
            before.radiograph, lungs=before.lungs, maskings=[mode], margin=margin
        )
        warnings = before.warnings
        if mode in loose.readings and mode in before.readings:
            spec = self._models.findings.get(mode)
            trained = spec.margin_range if spec else None
            old = margin_remarks(before.readings[mode].margin, trained=trained)
            new = margin_remarks(margin, trained=trained)
            warnings = (*(text for text in warnings if text not in old), *new)
        return replace(before, readings={**before.readings, **loose.readings}, warnings=warnings)

    def _plant(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Reads the image with a synthetic lesion in it, beside the image itself."""
        session, pipeline = self._session(), self._models.pipeline()
        if session.withheld:
            raise PromptError("The numbers of this image are withheld; ask for them first.")
        x, y, diameter, contrast = _numbers(detail, "x", "y", "diameter", "contrast")
        kind, lungs = str(detail.get("kind")), session.analysis.lungs
        radiograph = plant(
            session.analysis.radiograph, lungs, kind, (x, y), diameter=diameter, contrast=contrast
        )
        analysis = pipeline.analyse(radiograph, lungs=lungs, margin=_margin_of(session.analysis))
        session = replace(session, planted=Planted(analysis, kind, (x, y), diameter))
        if self._keep(ticket, session):
            yield Shown(_payload(session) | self._planted_part(session))

    def _remove_planted(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Takes the lesion out again."""
        session = replace(self._session(), planted=None)
        if self._keep(ticket, session):
            yield Shown(_payload(session, planted=None))

    def _planted_part(self, session: Session) -> Payload:
        planted = session.planted
        if planted is None:
            return {"planted": None}
        return planted_part(
            planted.analysis,
            self._models.findings,
            kind=planted.kind,
            centre=planted.centre,
            diameter=planted.diameter,
        )

    def _correct(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Corrects the mask by a click or a box and reads the findings again."""
        session, pipeline = self._session(), self._models.pipeline()
        found = _there_is_a_mask(session)
        start = time.perf_counter()
        if detail.get("kind") == "box":
            x0, y0, x1, y1 = _numbers(detail, "x0", "y0", "x1", "y1")
            corrected = pipeline.correct(found, box=(x0, y0, x1, y1))
        else:
            x, y = _numbers(detail, "x", "y")
            corrected = pipeline.correct(found, click=(x, y), add=bool(detail.get("add", True)))
        seconds = time.perf_counter() - start
        yield from self._read_again(ticket, _with_mask(session, corrected), seconds)

    def _paint(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Corrects the mask by strokes of a brush, exactly, and reads the findings again."""
        session, pipeline = self._session(), self._models.pipeline()
        for stroke in _strokes(detail, session.analysis.radiograph.hw):
            found = pipeline.correct(_there_is_a_mask(session), strokes=[stroke])
            session = _with_mask(session, found)
        yield from self._read_again(ticket, session)

    def _undo(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Takes back the last correction, be it the return to the automatic mask."""
        session = self._session()
        if not session.history:
            yield Shown(_payload(session))
            return
        *history, found = session.history
        yield from self._read_again(
            ticket, replace(session, found=found, history=tuple(history), probes=None)
        )

    def _reset(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Takes the automatic mask."""
        session = self._session()
        if session.automatic is None or session.found is session.automatic:
            yield Shown(_payload(session))
            return
        yield from self._read_again(ticket, _with_mask(session, session.automatic))

    def _accept(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Shows the numbers of an image that the gate holds back; the doubts stay in sight."""
        session = replace(self._session(), accepted=True)
        if self._keep(ticket, session):
            yield self._shown(session, probes=None)

    def _pack(self, ticket: Ticket, detail: Detail) -> Iterator[Shown]:
        """Hands out all that is known about the image that is looked at, in one file."""
        session = self._session()
        analysis = session.analysis if session.planted is None else session.planted.analysis
        yield Shown(_payload(session, **case_part(case_archive(analysis))))

    def _read_again(
        self, ticket: Ticket, session: Session, seconds: float = 0.0
    ) -> Iterator[Shown]:
        """The same image with another mask, found in some seconds."""
        pipeline = self._models.pipeline()
        radiograph, found = session.analysis.radiograph, session.found
        lungs = found.lungs if found else None
        margin = _margin_of(session.analysis)
        analysis = _and_lungs(pipeline.analyse(radiograph, lungs=lungs, margin=margin), seconds)
        # A mask made by hand answers the doubts about the automatic one, and only those. What was
        # planted was read with the mask before.
        session = replace(session, analysis=analysis, planted=None)
        if self._keep(ticket, session):
            yield self._shown(session, lungs_part(analysis), probes=None, planted=None)

    def fine(self, detail: Detail) -> Iterator[Shown]:
        """The picture at its native size and full depth, at once: no network is asked."""
        session = self.session
        if session is not None and session.study == detail.get("study"):
            part = fine_part(session.analysis.radiograph)
            yield Shown(payload(**(part | {"study": session.study})))

    def still_there(self, detail: Detail) -> Iterator[Shown]:
        """Says so if the image that the viewer shows is not here: asked after a lost connection.

        In the viewer alone, which may have been cleared since: the status is of what came last.
        """
        session = self.session
        if session is None or session.study != detail.get("study"):
            yield replace(_gone(), status=None)

    # ---- Ends ------------------------------------------------------------------------------------

    def stop(self) -> Iterator[Shown]:
        """Ends what runs or waits, between two stages."""
        self._turn.end()
        yield replace(_failed("Stopped."), status=panels.note("Stopped."))

    def clear(self) -> Iterator[Shown]:
        """The page as it was before any image."""
        self._forget()
        yield Shown(payload(clear=True), panels.status(None), "<p>No image yet.</p>")

    def end(self) -> None:
        """Forgets everything: the visitor has gone."""
        self._forget()
        self.batch.clear()

    @property
    def held_bytes(self) -> int:
        """About what the open image takes in memory."""
        session = self.session
        if session is None:
            return 0
        pixels = session.analysis.radiograph.pixels
        # The pixels, and a byte per pixel for each mask and each masking's region.
        masks = len(session.history) + 1 + len(session.analysis.readings)
        images = 1 if session.planted is None else 2
        return images * (pixels.nbytes + pixels.size * masks)

    # ---- How an answer comes about ---------------------------------------------------------------

    def _served(
        self,
        ticket: Ticket,
        work: Callable[[], Iterator[Shown]],
        *,
        waiting: Callable[[str], Shown],
    ) -> Iterator[Shown]:
        """What some work shows, once its turn has come and as long as its ticket stands."""
        with self._line.join(self._key) as place:
            for ahead in place.wait(ticket.is_off):
                yield waiting(panels.ahead(ahead))
            if ticket.is_off():
                return
            for shown in work():
                if ticket.is_off():
                    return
                yield shown

    def _probes(self, ticket: Ticket, image: Payload | None = None) -> Iterator[Shown]:
        """What the findings hang on, if it is not known yet; others are served in between.

        Args:
            ticket: Of the question that is answered.
            image: What the viewer must be sent again, for it may drop what is overtaken.
        """
        session = self.session
        if ticket.is_off() or session is None or not session.can_be_probed:
            return
        lungs = session.analysis.lungs
        if lungs is None or self._probed is session.found:
            return

        def is_off() -> bool:
            now = self.session
            return ticket.is_off() or now is None or now.found is not session.found

        self._probed = session.found
        try:
            radiograph = session.analysis.radiograph
            answers = self._models.pipeline().probe(radiograph, lungs, PROBED_MARGINS)
            probes, more = None, True
            while more:
                with self._line.join(self._key, again=True) as place:
                    for _ in place.wait(is_off):
                        pass
                    if is_off():
                        return
                    known = next(answers, None)
                probes, more = known or probes, known is not None
        finally:
            self._probed = None
        with self._lock:
            now = self.session
            if is_off() or now is None:
                return
            now = self.session = replace(now, probes=probes)
        parts = (image or {}) | lungs_part(now.analysis) | probes_part(probes)
        yield Shown(self._shown(now, parts).payload)

    def _keep(self, ticket: Ticket, session: Session) -> bool:
        """Keeps an image, unless it was called off meanwhile."""
        with self._lock:
            if ticket.is_off():
                return False
            self.session = session
            return True

    def _forget(self) -> None:
        with self._lock:
            self._turn.end()
            self.session = self._margin = None

    def _session(self) -> Session:
        """The image as the question before has left it."""
        if self.session is None:
            raise PromptError(GONE)
        return self.session

    def _shown(
        self, session: Session, parts: Payload | None = None, **more: Unpack[Payload]
    ) -> Shown:
        analysis = session.analysis
        sent: Payload = (parts or {}) | _payload(session, **more)
        if session.withheld:
            sent |= {"maskings": None, "peak": 0.0}
        else:
            sent |= findings_part(analysis, self._models.findings)
        return Shown(sent, panels.status(analysis), panels.how_read(analysis))


QUESTIONS: Final[Mapping[str, Callable[[Visit, Ticket, Detail], Iterator[Shown]]]] = {
    "margin_changed": Visit._change_margin,
    "mask_prompt": Visit._correct,
    "mask_undo": Visit._undo,
    "mask_reset": Visit._reset,
    "accept_anyway": Visit._accept,
    "mask_painted": Visit._paint,
    "case_wanted": Visit._pack,
    "plant": Visit._plant,
    "plant_removed": Visit._remove_planted,
}
"""The viewer's events, and who answers."""

READ_AGAIN: Final = "read_again"
"""The event after which the image is another one, and everything about it is asked anew."""


class Visits:
    """The visitors that are here; a bound on how many, and on how much of theirs is kept."""

    def __init__(
        self,
        models: Models,
        *,
        most: int = MAX_VISITS,
        most_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        """Nobody is here yet.

        Args:
            models: The models of the page.
            most: How many visitors are kept; whoever has asked for nothing the longest goes first.
            most_bytes: How much memory their images may take together, likewise.
        """
        self._models = models
        self._most, self._most_bytes = most, most_bytes
        self._lock = threading.Lock()
        self._here: dict[str, Visit] = {}
        self._open: Counter[str] = Counter()
        self.line: Final = Line()

    def opened(self, key: str) -> None:
        """A tab is open, until `closed` is told as often: a broken connection overlaps the next.

        Args:
            key: Names the tab.
        """
        with self._lock:
            self._open[key] += 1

    def closed(self, key: str) -> None:
        """Forgets a visitor whose tab is no longer open."""
        with self._lock:
            self._open -= Counter([key])
        self._forget_unless_open(key)

    @contextmanager
    def of(self, key: str) -> Iterator[Visit]:
        """A visitor's, who has just asked for something, while it is answered.

        What was asked may begin after its tab was closed; then nothing is kept of the answer.

        Args:
            key: Names the visitor's tab.
        """
        with self._lock:
            visit = self._here.pop(key, None) or Visit(self._models, self.line, key=key)
            self._here[key] = visit  # the last in the order of asking
            gone = self._too_many()
        for other in gone:
            other.end()
        try:
            yield visit
        finally:
            self._forget_unless_open(key)

    def end_all(self) -> None:
        """Forgets all, and sends away whoever waits: the server ends."""
        self.line.close()
        with self._lock:
            here, self._here = list(self._here.values()), {}
        for visit in here:
            visit.end()

    def __len__(self) -> int:
        return len(self._here)

    def _forget_unless_open(self, key: str) -> None:
        with self._lock:
            visit = None if key in self._open else self._here.pop(key, None)
        if visit is not None:
            visit.end()

    def _too_many(self) -> list[Visit]:
        """Takes out who must go for the last one's sake; the lock is held."""
        gone = []
        held = sum(visit.held_bytes for visit in self._here.values())
        while len(self._here) > 1 and (len(self._here) > self._most or held > self._most_bytes):
            other = self._here.pop(next(iter(self._here)))
            held -= other.held_bytes
            gone.append(other)
        return gone


class _Failures:
    """Turns every failure inside it into words that name no file and show no traceback."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self.reason = in_words(error)
        return True

    def shown(self) -> Iterator[Shown]:
        """The failure, if there was one."""
        if self.reason is not None:
            yield _failed(self.reason)


def in_words(error: Exception) -> str:
    """What a visitor is told of an error; an unforeseen one is logged under the number told."""
    if isinstance(error, CxrDemoError):
        return str(error)
    incident = secrets.token_hex(4)
    _log.error("Incident %s", incident, exc_info=error)
    return f"Something went wrong here, not with your image. Incident {incident} in the log."


def _read_example(example: Example) -> Radiograph:
    radiograph = read_radiograph(_EXAMPLES / example.name)
    source = radiograph.source
    marked = replace(
        source, warnings=(panels.PHANTOM, example.story, *source.warnings), synthetic=True
    )
    return replace(radiograph, source=marked)


def _and_lungs(analysis: Analysis, seconds: float) -> Analysis:
    """An analysis that was given its mask, with the seconds that the mask took."""
    sum_of = analysis.seconds.get("lungs", 0.0) + seconds
    return replace(analysis, seconds={**analysis.seconds, "lungs": sum_of})


def _margin_of(analysis: Analysis) -> float | None:
    """The loose margin that an analysis was read at; None if it has none."""
    loose = analysis.readings.get(MaskingMode.LOOSE)
    return loose.margin if loose else None


def _there_is_a_mask(session: Session) -> Found:
    if session.found is None:
        raise CheckpointError("There is no lung segmenter, so no mask to correct.")
    return session.found


def _strokes(detail: Detail, hw: tuple[int, int]) -> list[Stroke]:
    """The strokes of a question about an image of some height and width.

    Raises:
        PromptError: If there is none, one is no stroke, or they would keep others waiting.
    """
    given = detail.get("strokes")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_CORRECTIONS:
        raise PromptError(f"Expected 1 to {MAX_CORRECTIONS} strokes of the brush.")
    strokes, left = [], _MOST_POINTS
    for stroke in given:
        points = stroke.get("points") if isinstance(stroke, Mapping) else None
        if not isinstance(points, list) or not all(
            isinstance(point, list) and len(point) == 2 for point in points
        ):
            raise PromptError("Expected a stroke as a list of x and y; the page sent another.")
        left -= len(points)
        if left < 0:
            raise PromptError(_TOO_LONG)
        (radius,) = _numbers(stroke, "radius")
        pairs = [_numbers({"x": x, "y": y}, "x", "y") for x, y in points]
        strokes.append(Stroke(tuple((x, y) for x, y in pairs), radius, bool(stroke.get("add"))))
    if sum(stroke.cost(hw) for stroke in strokes) > _MOST_PAINTED:
        raise PromptError(_TOO_LONG)
    return strokes


def _with_mask(session: Session, found: Found) -> Session:
    """A session whose mask was corrected; what it was can be taken back."""
    history = () if session.found is None else (*session.history, session.found)
    most = max(1, min(MAX_CORRECTIONS, MAX_HISTORY_BYTES // found.lungs.sides.nbytes))
    return replace(session, found=found, history=history[-most:], probes=None)


def _numbers(detail: Detail, *names: str) -> list[float]:
    """Some numbers of a question.

    Raises:
        PromptError: If one is missing, is no number, or lies beyond any picture.
    """
    values = [detail.get(name) for name in names]
    numbers = [
        float(value)
        for value in values
        if isinstance(value, (int, float)) and abs(value) <= _FARTHEST
    ]
    if len(numbers) != len(names):
        raise PromptError(f"Expected numbers for {', '.join(names)}; the page sent something else.")
    return numbers


def _payload(session: Session, **parts: Unpack[Payload]) -> Payload:
    """A payload with the state of an image."""
    state: Payload = {
        "study": session.study,
        "stage": None,
        "doubts": doubts_part(session.analysis),
        "withheld": session.withheld,
        "corrections": len(session.history),
    }
    return payload(**(state | parts))


def _says(words: str) -> Shown:
    return Shown(status=panels.note(words))


def _gone() -> Shown:
    """Tells the viewer that its image is no longer here."""
    return Shown(payload(failed=True, reason=GONE, gone=True), panels.note(GONE, is_error=True))


def _failed(reason: str) -> Shown:
    """Tells the viewer that no answer will come, and why."""
    return Shown(payload(failed=True, reason=reason), panels.note(reason, is_error=True))
