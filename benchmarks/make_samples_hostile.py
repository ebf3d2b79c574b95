"""Writes data/samples/hostile.jsonl: rows that try to do harm, each in one way, among good ones.

    python benchmarks/make_samples_hostile.py data/samples

What each row tries, and how it ends, stands in data/samples/README.md. Some things cannot lie in a repository (pipes, links
out of the folder, cells of 50 MB): the tests make those.
"""

import sys
from pathlib import Path
from typing import Any

import orjson

PICTURE = "media/chart.png"


def row(number: int, text: str = "What does it show?", **more: Any) -> bytes:
    return orjson.dumps({"id": f"h{number:02d}", "text": text, "image": PICTURE, "marks": 1, **more})


def nested(levels: int) -> bytes:
    return row(13).removesuffix(b"}") + b',"more":' + b"[" * levels + b"]" * levels + b"}"


def lines() -> list[bytes]:
    return [
        row(1),
        row(2, "{{ 7 * 7 }} {% include '/etc/passwd' %} {{ ''.__class__.__mro__[1].__subclasses__() }}"),
        row(3, "{0.__class__.__init__.__globals__} %(x)s ${HOME} $(id) `id`"),
        row(4, image="../../../../../../etc/passwd"),
        row(5, image="/etc/passwd"),
        row(6, image="file:///etc/passwd"),
        row(7, image="FILE:/proc/self/environ"),
        row(8, image="/dev/zero"),
        row(9, image="..\\..\\etc\\passwd"),
        row(10, image=f"{PICTURE}\0.jpg"),
        row(11, image="．．/．．/etc/passwd"),
        row(12, image="media/" * 2000 + "chart.png"),
        nested(300),
        row(14, marks=1_000_000_000),
        row(15, marks=1e300),
        row(16, image=[PICTURE] * 300),
        b'{"id": "h17", "text": "half of a surrogate pair: \\udc80", "image": "media/chart.png", "marks": 1}',
        b'{"id": "h18", "text": "a raw NUL: \x00", "image": "media/chart.png", "marks": 1}',
        row(19, "=cmd|' /C calc'!A0"),
        row(20, "\x1b]0;a title of mine\x07\x1b[2J\x9b31m \u202egnp.exe"),
        row(21, "a number too large for any float", marks=0).replace(b'"marks":0', b'"marks":1e999'),
        row(
            22,
            id="h22\x1b[2J\n2026-01-01 00:00:00,000 INFO ended: every row has its outcome",
            image="gone.png",
        ),
        row(23, image={"bytes": None, "path": "../README.md"}),
        row(24, image="https://me:secret@pictures.example/a.png?Signature=abc&width=200&height=300"),
        row(25),
    ]


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "hostile.jsonl").write_bytes(b"\n".join([*lines(), b""]))


if __name__ == "__main__":
    main()
