"""What a labelling run came to: how many of each label, and how far they agree with known ones."""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RunFolderError
from pipeline.jobspec import ResponseSection
from pipeline.part_reading import reading_part
from pipeline.parts import RESULT_COLUMNS, part_names
from pipeline.storage import Storage


def label_lines(results: Storage, response: ResponseSection) -> Iterator[str]:
    """Lines to print after a run that asked for labels; none where it asked for something else, or has no part yet.

    Raises RunFolderError where a part cannot be read.
    """
    if response.labels is None:
        return
    try:
        names = part_names(results)
    except OSError as error:
        raise RunFolderError(f"the results in {results.where} cannot be read: {error}") from error
    if not names:
        return
    found: Counter[str | None] = Counter()
    gold = response.gold
    known = agreed = 0
    for file in names:
        with reading_part(results, file) as part:
            name = gold and gold_name(gold, part.schema_arrow.names)
            if name and pa.types.is_nested(part.schema_arrow.field(name).type):
                gold = name = None
            table = part.read(columns=["label", name] if name else ["label"])
        labels = table["label"]
        found.update(labels.to_pylist())
        if name:
            truth = table[name].cast(pa.string())
            known += len(truth) - truth.null_count
            agreed += pc.sum(pc.equal(_plain(truth), _plain(labels))).as_py() or 0
    said = [f"{label} {found[label]:,}" for label in response.labels]
    if without := found[None]:
        said.append(f"no valid label {without:,}")
    yield f"labels: {', '.join(said)}"
    if known:
        yield f"agreement with the known labels in {gold!r}: {agreed:,} of {known:,} ({agreed / known:.0%})"


def _plain(texts: Any) -> Any:
    return pc.utf8_lower(pc.utf8_trim_whitespace(texts))


def gold_name(gold: str, names: Collection[str]) -> str:
    """The gold column's name among the results; renamed where it bears a result column's, past other columns' own names."""
    if gold in RESULT_COLUMNS | {"label"}:
        while f"{gold}_input" in names:
            gold += "_input"
    return gold
