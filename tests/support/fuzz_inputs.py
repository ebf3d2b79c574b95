"""Inputs for the targets of `fuzz_targets.py`, drawn by hypothesis: words put together, and seeds with pieces changed."""

from hypothesis import strategies as st

from tests.support.fuzz_targets import Target

_SEED_BYTES = 2048
_Edit = tuple[int, int, bytes]


def inputs_for(target: Target) -> st.SearchStrategy[bytes]:
    word = st.sampled_from(target.words) | st.binary(max_size=6)
    edit = st.tuples(st.integers(0, _SEED_BYTES), st.integers(0, 60), word)
    seeds = sorted({seed[:_SEED_BYTES] for seed in target.seeds}, key=len)
    changed = st.builds(_changed, st.sampled_from(seeds), st.lists(edit, max_size=4))
    return st.lists(word, max_size=25).map(b"".join) | changed | st.binary(max_size=60)


def _changed(seed: bytes, edits: list[_Edit]) -> bytes:
    for at, length, word in edits:
        place = at % (len(seed) + 1)
        seed = seed[:place] + word + seed[place + length :]
    return seed
