"""Inputs for the targets of `fuzz_targets.py`, drawn by hypothesis: words put together, and seeds with pieces changed."""

from random import Random

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


def many_inputs_for(target: Target) -> st.SearchStrategy[bytes]:
    """The same kinds of inputs, ten times as fast and without shrinking: hypothesis draws what each is made from."""
    seeds = sorted({seed[:_SEED_BYTES] for seed in target.seeds}, key=len)

    def made(number: int) -> bytes:
        random = Random(number)

        def word() -> bytes:
            return (
                random.choice(target.words)
                if random.random() < 0.8
                else random.randbytes(random.randrange(7))
            )

        if random.random() < 0.4:
            return b"".join(word() for _ in range(random.randrange(26)))
        edits = (
            (random.randrange(_SEED_BYTES), random.randrange(61), word()) for _ in range(random.randrange(6))
        )
        return _changed(random.choice(seeds), list(edits))

    return st.integers(0, 2**64 - 1).map(made)


def _changed(seed: bytes, edits: list[_Edit]) -> bytes:
    for at, length, word in edits:
        place = at % (len(seed) + 1)
        seed = seed[:place] + word + seed[place + length :]
    return seed
