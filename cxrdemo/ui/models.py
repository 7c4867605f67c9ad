"""The models behind the page: facts now, the pipeline when its weights are there."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from cxrdemo.results import ALL_MASKINGS, MaskingMode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cxrdemo.checkpoints import CheckpointStore
    from cxrdemo.pipeline import Pipeline
    from cxrdemo.specs import CheckpointSpec


class Models:
    """What the page knows of its models before they are loaded, and the way to them."""

    def __init__(
        self,
        lungs: CheckpointSpec | None,
        findings: Mapping[MaskingMode, CheckpointSpec | None],
    ) -> None:
        """Nothing is loaded yet.

        Args:
            lungs: The segmenter that will be loaded, or None.
            findings: The classifier for each masking, or None.
        """
        self._lungs = lungs
        self._findings = dict(findings)
        self._loaded: Future[Pipeline] = Future()

    @classmethod
    def listed(cls, store: CheckpointStore) -> Models:
        """What a manifest lists, to be loaded later."""
        return cls(store.lungs(), {mode: store.findings(mode) for mode in ALL_MASKINGS})

    @classmethod
    def of(cls, pipeline: Pipeline) -> Models:
        """Those of a pipeline that is there."""
        models = cls(None, {})
        models.load(lambda: pipeline)
        return models

    def load(self, make: Callable[[], Pipeline]) -> None:
        """Makes the pipeline; whoever waits for it gets it, or the error, which is raised here too.

        Args:
            make: Such as `Pipeline.from_checkpoints` with its arguments.
        """
        try:
            pipeline = make()
        except BaseException as error:
            self._loaded.set_exception(error)
            raise
        # Weights from outside the manifest may have taken a place.
        self._lungs = pipeline.segmenter_spec
        self._findings = {mode: pipeline.classifier_spec(mode) for mode in ALL_MASKINGS}
        self._loaded.set_result(pipeline)

    @property
    def are_loaded(self) -> bool:
        """Whether nobody has to wait."""
        return self._loaded.done()

    def pipeline(self) -> Pipeline:
        """The loaded pipeline; waits for it.

        Raises:
            CheckpointError: If loading failed.
        """
        return self._loaded.result()

    @property
    def lungs(self) -> CheckpointSpec | None:
        """Of the segmenter, or None."""
        return self._lungs

    @property
    def findings(self) -> Mapping[MaskingMode, CheckpointSpec | None]:
        """Of the classifier for each masking, or None."""
        return self._findings
