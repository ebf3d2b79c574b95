"""How far labels agree with known ones: accuracy, and precision, recall and F1 a label."""

from typing import NamedTuple

from pipeline.report.facts import LabelFacts


class LabelScore(NamedTuple):
    """One label: how often it was given and known, and how well. None where there is nothing to divide by.

    precision = right / given where known, recall = right / known, f1 their harmonic mean.
    """

    label: str
    given: int
    known: int | None
    precision: float | None
    recall: float | None
    f1: float | None


class Agreement(NamedTuple):
    """All rows with a known label together; `mean` is that of the labels' scores (macro average)."""

    known: int
    agreed: int
    accuracy: float
    mean: LabelScore


def per_label(facts: LabelFacts) -> list[LabelScore]:
    """A score a label, in the job's order; without known labels all but `given` is None."""
    return [_score(facts, label) for label in facts.labels]


def _score(facts: LabelFacts, label: str) -> LabelScore:
    if not facts.pairs:
        return LabelScore(label, facts.given[label], None, None, None, None)
    right = facts.pairs[label, label]
    known = sum(count for (truth, _), count in facts.pairs.items() if truth == label)
    given = sum(count for (_, said), count in facts.pairs.items() if said == label)
    precision, recall = _ratio(right, given), _ratio(right, known)
    # 2 * right / (known + given) is the harmonic mean, also where one of the two is 0.
    return LabelScore(label, facts.given[label], known, precision, recall, _ratio(2 * right, known + given))


def agreement(facts: LabelFacts) -> Agreement | None:
    """How far all labels agree; None where none is known."""
    known = sum(facts.pairs.values())
    if not known:
        return None
    agreed = sum(count for (truth, said), count in facts.pairs.items() if truth == said)
    scores = per_label(facts)
    mean = LabelScore(
        "(mean)",
        sum(score.given for score in scores),
        known,
        _mean([score.precision for score in scores]),
        _mean([score.recall for score in scores]),
        _mean([score.f1 for score in scores]),
    )
    return Agreement(known, agreed, agreed / known, mean)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
