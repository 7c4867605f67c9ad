"""ZeroGPU: a GPU that Spaces share, there only while a decorated function runs, in a fork.

Imported on such a Space alone: `spaces` is installed nowhere else. It has to be imported, and the
function decorated, before the page is launched.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import gradio as gr
import spaces

from cxrdemo.errors import BusyError, CxrDemoError
from cxrdemo.pipeline import Item, Made, Pipeline
from cxrdemo.radiograph import Radiograph
from cxrdemo.results import LungMask, Probes

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")

MOST_SECONDS: Final = 20
"""For one question, the networks' way to the GPU included. Who asks for less is served sooner."""


def _rented(
    method: Callable[Concatenate[Pipeline, Asked], Answer],
) -> Callable[Concatenate[RentedPipeline, Asked], Answer]:
    """A method of the pipeline, answered where the GPU is."""

    @functools.wraps(method)
    def ask(pipeline: RentedPipeline, /, *args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        answer: Answer = pipeline.ask(method.__name__, args, kwargs)
        return answer

    return ask


class RentedPipeline(Pipeline):
    """A pipeline whose questions are answered by a process forked for it, which holds a GPU.

    Networks are loaded here, on the CPU; a fork inherits them and brings them to its GPU. Questions
    and answers are pickled, so they are values: no network and nothing of a device among them. The
    next question may meet another fork, so nothing that one remembers is relied on.
    """

    device = "cuda"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes loaded parts, see `Pipeline`."""
        super().__init__(*args, **kwargs)
        self._on_gpu = spaces.GPU(duration=MOST_SECONDS)(self._answer)

    find = _rented(Pipeline.find)
    correct = _rented(Pipeline.correct)
    analyse = _rented(Pipeline.analyse)

    def probe(
        self, radiograph: Radiograph, lungs: LungMask, margins: Sequence[float]
    ) -> Iterator[Probes]:
        """All of `Pipeline.probe` in one go: to ask for the GPU costs more than to use it."""
        yield from self.ask("probe", (radiograph, lungs, margins), {})

    def side_by_side(self, work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
        """One after the other, by whoever asks: the GPU goes by whose thread it is."""
        return [work(item) for item in items]

    def ask(self, question: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Has a method of `Pipeline` answered where the GPU is.

        Raises:
            CxrDemoError: As the method does.
            BusyError: If no GPU is to be had, in the words of ZeroGPU.
        """
        try:
            answer = self._on_gpu(question, args, kwargs)
        except gr.Error as error:
            words = re.sub("<[^>]*>", "", str(error.message))
            raise BusyError(f"The shared GPU gave no answer. {words}") from error
        if isinstance(answer, CxrDemoError):
            raise answer
        return answer

    def _answer(self, question: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The answer, or the error in words, of which ZeroGPU would pass on the name alone."""
        self.move_to(self.device)
        try:
            made = getattr(super(), question)(*args, **kwargs)
            return list(made) if isinstance(made, Iterator) else made
        except CxrDemoError as error:
            return error
