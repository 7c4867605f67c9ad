"""A pipeline whose weights are still on their way, so that the page need not wait for them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, cast

from cxrdemo.results import ALL_MASKINGS, MaskingMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from cxrdemo.checkpoints import CheckpointSpec, CheckpointStore
    from cxrdemo.pipeline import Pipeline


class LoadingPipeline:
    """Answers from the manifest what can be, and waits for the loaded pipeline with the rest.

    It has a pipeline's interface: `as_pipeline` says so to the type checker.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._loaded: Future[Pipeline] = Future()

    def load(self, make: Callable[[], Pipeline]) -> None:
        """Makes the pipeline; whoever waits for it gets it, or the error, which is raised here too.

        Args:
            make: Such as `Pipeline.from_checkpoints` with its arguments.
        """
        try:
            self._loaded.set_result(make())
        except BaseException as error:
            self._loaded.set_exception(error)
            raise

    @property
    def is_ready(self) -> bool:
        """Whether nobody has to wait any more."""
        return self._loaded.done()

    @property
    def segmenter_spec(self) -> CheckpointSpec | None:
        """Of the segmenter, or None."""
        return self._loaded.result().segmenter_spec if self.is_ready else self._store.lungs()

    def classifier_spec(self, mode: MaskingMode) -> CheckpointSpec | None:
        """Of the classifier for a masking, or None."""
        return self._store.findings(mode)

    @property
    def is_complete(self) -> bool:
        """Whether there is a segmenter, and a classifier for every masking."""
        return self._store.lungs() is not None and all(map(self._store.findings, ALL_MASKINGS))

    def as_pipeline(self) -> Pipeline:
        """This object, as what it stands for."""
        return cast("Pipeline", self)

    def __getattr__(self, name: str) -> Any:
        # Called for what is not defined above: all that needs the weights.
        return getattr(self._loaded.result(), name)
