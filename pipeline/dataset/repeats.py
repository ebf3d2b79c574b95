"""Which of a great many ids stand more than once, in memory that does not grow with their number.

First pass: 64-bit hashes go to bucket files on disk; a hash that is there twice marks a candidate. Second
pass: the candidates' ids are compared by a 128-bit digest. Nothing here knows where ids come from.
"""

from array import array
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

BUCKETS = 256
BUCKET_VALUES = 1024  # held in memory, a bucket: 2 MiB in all
CHUNK_BYTES = 4 * 1024 * 1024
MAX_CANDIDATES = 20_000


class Candidates(NamedTuple):
    """Hashes that may belong to repeated ids; `beyond` counts the repeats of those that did not fit in."""

    hashes: frozenset[int]
    beyond: int


class HashSpill:
    """Takes one hash an id and keeps them in `folder`, a file a bucket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buckets = [array("q") for _ in range(BUCKETS)]

    def add(self, text: str) -> None:
        # Python's own hash: 64 bits, keyed anew in each process, so no dataset can be made to collide in it.
        value = hash(text)
        bucket = self._buckets[value % BUCKETS]
        bucket.append(value)
        if len(bucket) >= BUCKET_VALUES:
            with self._path(value % BUCKETS).open("ab") as file:
                bucket.tofile(file)
            del bucket[:]

    def candidates(self) -> Candidates:
        """Return the hashes that were added more than once, up to MAX_CANDIDATES of them."""
        hashes: set[int] = set()
        beyond = 0
        for number in range(BUCKETS):
            counted = self._counted(number)
            if counted is None:
                continue
            repeated = counted.filter(pc.field("counts") > 1)
            room = MAX_CANDIDATES - len(hashes)
            hashes.update(v for v in repeated.slice(0, room).column("values").to_pylist() if v is not None)
            over = repeated.slice(room).column("counts")
            beyond += (pc.sum(over).as_py() or 0) - len(over)
        return Candidates(frozenset(hashes), beyond)

    def _counted(self, number: int) -> pa.Table | None:
        """Return the distinct values of a bucket and their `counts`; None where there are none."""
        counted = None
        for data in self._chunks(number):
            values = pa.Array.from_buffers(pa.int64(), len(data) // 8, [None, pa.py_buffer(data)])
            more = pa.Table.from_struct_array(pc.value_counts(values))
            # A chunk at a time, because a bucket grows with the repeats of one id too.
            both = more if counted is None else pa.concat_tables([counted, more])
            summed = both.group_by("values", use_threads=False).aggregate([("counts", "sum")])
            counted = summed.rename_columns({"values": "values", "counts_sum": "counts"})
        return counted

    def _chunks(self, number: int) -> Iterator[bytes]:
        path = self._path(number)
        if path.exists():
            with path.open("rb") as file:
                while data := file.read(CHUNK_BYTES):
                    yield data
        if self._buckets[number]:
            yield self._buckets[number].tobytes()

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03d}"


class RepeatedIds:
    """Confirms candidates: told every id again with its place, says of each where it stood first."""

    def __init__(self, candidates: Candidates) -> None:
        self._hashes = candidates.hashes
        self._first: dict[bytes, str] = {}
        self.count = candidates.beyond

    def first_place(self, text: str, where: str) -> str | None:
        """Return the earlier place of `text`, None where this is its first; counts repeats in `count`."""
        if hash(text) not in self._hashes:
            return None
        digest = blake2b(text.encode(), digest_size=16).digest()
        first = self._first.get(digest)
        if first is None:
            self._first[digest] = where
        else:
            self.count += 1
        return first
