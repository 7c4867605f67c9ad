"""Journal: what was done to a file, and what looks unusual about it, in words for the user."""


class Journal:
    """Written while a file is read; `Source` keeps what stands in it.

    Attributes:
        steps: What was done, in order.
        remarks: What looks unusual and may mislead.
        window: See `Source.window`.
        inverted: See `Source.inverted`.
    """

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.remarks: list[str] = []
        self.window: tuple[float, float] | None = None
        self.inverted = False

    def did(self, step: str) -> None:
        """Writes down a step."""
        self.steps.append(step)

    def remark(self, words: str) -> None:
        """Writes down what looks unusual, once."""
        if words not in self.remarks:
            self.remarks.append(words)
