"""How far labels agree with known ones: accuracy, and precision, recall and F1 a label."""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.report.facts import OTHERS, LabelFacts
from pipeline.report.shown import Column, Kind, Table, Value, share


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


def tables(facts: LabelFacts) -> Iterator[Table]:
    """The labels with their scores, and which were given for which; counts alone where none is known."""
    scores = per_label(facts)
    agreed = agreement(facts)
    rows = [
        (one.label, one.given, one.known, one.precision, one.recall, one.f1)
        for one in (*scores, *((agreed.mean,) if agreed is not None else ()))
    ]
    if without := facts.given[None]:
        rows.append(("(no valid label)", without, None, None, None, None))
    heads = ("precision", "recall", "F1")
    columns = (
        Column("label"),
        Column("given", Kind.COUNT),
        Column("known", Kind.COUNT),
        *(Column(head, Kind.SHARE) for head in heads),
    )
    if agreed is None:
        yield Table("Labels", columns[:2], [row[:2] for row in rows])
        return
    note = f"accuracy {share(agreed.accuracy)}: {agreed.agreed:,} of {agreed.known:,} rows with a known label"
    yield Table("Labels", columns, rows, note)
    given: list[str | None] = [*facts.labels, None]
    matrix: list[tuple[Value, ...]] = [
        (truth, *(facts.pairs[truth, label] for label in given))
        for truth in (*facts.labels, OTHERS)
        if truth != OTHERS or any(known == OTHERS for known, _ in facts.pairs)
    ]
    heads_given = (Column(label or "(no valid label)", Kind.COUNT) for label in given)
    yield Table("Confusion", (Column("known, below; given, beside"), *heads_given), matrix)
