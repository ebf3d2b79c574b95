"""What a check comes to: a figure, and what broke the promise, if anything did."""

from typing import NamedTuple

from pipeline.errors import PromptmillError


class Verdict(NamedTuple):
    """`figure` says in a few words what was counted; `breaches` says, a sentence each, what the promise does not allow."""

    figure: str
    breaches: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.breaches


class Unproven(PromptmillError):
    """A check did not get its evidence: what it set up did not come about. Counts as a promise that does not hold."""


def breaches(*found: tuple[object, str]) -> tuple[str, ...]:
    """The sentences whose condition is true."""
    return tuple(sentence for wrong, sentence in found if wrong)


def some(names: list[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
