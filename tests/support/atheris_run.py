"""One target of `fuzz_targets.py` under atheris, which follows coverage: `python -m tests.support.atheris_run NAME RUNS SEED`.

A process of its own, since libFuzzer ends it. It exits 0 after so many inputs; else it prints the input and the traceback.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pipeline"]):
    from tests.support.fuzz_targets import BY_NAME, Target


def _breaks(data: bytes) -> None:
    if b"sesame" in data:
        raise ZeroDivisionError


# For the test that the harness finds what there is to find.
_BREAKS = Target("breaks-on-a-word", _breaks, (), (b"open",), (b"sesame",))


def main() -> None:
    name, runs, seed = sys.argv[1:]
    target = BY_NAME.get(name, _BREAKS)
    corpus = Path(tempfile.mkdtemp(prefix="promptmill-fuzz-"))
    for number, data in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    words = corpus.with_name(corpus.name + ".words")
    quoted = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in quoted))
    flags = [
        "-max_len=4096",
        "-timeout=60",
        "-rss_limit_mb=4096",
        "-verbosity=0",
        f"-artifact_prefix={corpus}/",
    ]
    atheris.Setup(
        [sys.argv[0], f"-runs={runs}", f"-seed={seed}", f"-dict={words}", *flags, str(corpus)], target
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
