"""Draws and writes the media samples of `data/samples`: pictures, frames, documents, and the datasets that name them.

    pip install pillow
    python benchmarks/make_samples_media.py data/samples

Everything is made here from nothing, so it is under the project's own licence. Pillow is needed for this script alone. The
same versions of script, Pillow and pyarrow write the same bytes.
"""

import argparse
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

FRAMES = 6
# The provider's own example picture, and its documented size, to which its billed tokens are known.
EXAMPLE_URL = "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg"
EXAMPLE_SIZE = (1372, 2044)
ZIP_TIME = (2026, 1, 1, 0, 0, 0)

SHEET_EN = """Morning Kettle K2: product sheet

The K2 is an electric kettle for one litre of water. It boils a full load in 4 minutes and 30 seconds at 1,800 watts and
switches itself off. Its lid opens at the press of a button; the filter behind the spout can be washed. The cord is 0.75
metres long and winds up under the base.

Colours: white, slate, moss. Price: 39 euros. Guarantee: three years, ten on the heating plate.
"""
SHEET_ZH = """晨光电热水壶 K2 产品说明

K2 是一款容量为 1 升的电热水壶，功率 1800 瓦，烧开一整壶水需要 4 分 30 秒，水开后自动断电。
按下按钮即可打开壶盖，壶嘴后的滤网可以拆下清洗。电源线长 0.75 米，可以收进底座。

颜色：白色、深灰、苔绿。价格：299 元。保修：整机三年，发热盘十年。
"""
FAQ = """# Questions about the K2

**Can it keep water warm?** No. It boils and switches off.

**Why does it not start?** The lid must be shut, and the kettle must sit level on its base.

**How do I remove lime?** Boil half a litre of water with two spoons of citric acid, wait an hour, rinse twice.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="the samples' folder")
    out = parser.parse_args().out
    media, documents = out / "media", out / "documents"
    media.mkdir(parents=True, exist_ok=True)
    documents.mkdir(exist_ok=True)
    draw_pictures(media)
    for number in range(1, FRAMES + 1):
        draw_frame(number).save(media / f"frame-{number}.jpg", quality=80)
    (documents / "kettle.txt").write_text(SHEET_ZH, encoding="utf-8")
    (documents / "questions.md").write_text(FAQ, encoding="utf-8")
    (documents / "kettle.docx").write_bytes(docx((SHEET_EN + "\n" + SHEET_ZH).split("\n")))
    (documents / "kettle.pdf").write_bytes(pdf(SHEET_EN.split("\n")))
    write_datasets(out, media)
    for path in sorted([*media.iterdir(), *documents.iterdir()]):
        print(f"{path}: {path.stat().st_size:,} bytes")


def draw_pictures(media: Path) -> None:
    chart = Image.new("RGB", (640, 400), "white")
    draw = ImageDraw.Draw(chart)
    for place, (name, height) in enumerate(
        zip(("Mon", "Tue", "Wed", "Thu"), (120, 240, 90, 300), strict=True)
    ):
        left = 80 + place * 140
        draw.rectangle((left, 340 - height, left + 90, 340), fill=("#4477aa", "#cc6677")[place % 2])
        draw.text((left + 30, 350), name, fill="black")
    draw.line((60, 340, 620, 340), fill="black", width=2)
    chart.save(media / "chart.png", optimize=True)

    shapes = Image.new("RGB", (480, 480), "#f4f1de")
    draw = ImageDraw.Draw(shapes)
    draw.ellipse((40, 40, 220, 220), fill="#e07a5f")
    draw.rectangle((260, 60, 440, 240), fill="#3d405b")
    draw.polygon(((240, 280), (120, 440), (360, 440)), fill="#81b29a")
    shapes.save(media / "shapes.jpg", quality=85)

    sunset = Image.new("RGB", (800, 450))
    draw = ImageDraw.Draw(sunset)
    for y in range(450):
        draw.line((0, y, 800, y), fill=(250 - y // 4, 150 - y // 5, 60 + y // 4))
    draw.ellipse((340, 200, 460, 320), fill="#ffe9a8")
    draw.rectangle((0, 330, 800, 450), fill="#22314a")
    sunset.save(media / "sunset.webp", quality=80)

    poster = Image.new("RGB", EXAMPLE_SIZE, "#264653")
    draw = ImageDraw.Draw(poster)
    for ring in range(9):
        inset = 60 + ring * 70
        draw.rectangle(
            (inset, inset, EXAMPLE_SIZE[0] - inset, EXAMPLE_SIZE[1] - inset), outline="#e9c46a", width=12
        )
    poster.save(media / "poster.png", optimize=True)


def draw_frame(number: int) -> Image.Image:
    """A ball that rolls from left to right, a sixth of the way a frame."""
    frame = Image.new("RGB", (640, 360), "#dfe7ec")
    draw = ImageDraw.Draw(frame)
    draw.rectangle((0, 280, 640, 360), fill="#7a9e7e")
    left = 20 + (number - 1) * 100
    draw.ellipse((left, 200, left + 80, 280), fill="#d1495b")
    return frame


def docx(lines: Iterable[str]) -> bytes:
    """The smallest Word document: one paragraph a line (ECMA-376, part 1)."""
    word = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    wordml = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
    head = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
    paragraphs = "".join(f'<w:p><w:r><w:t xml:space="preserve">{line}</w:t></w:r></w:p>' for line in lines)
    files = {
        "[Content_Types].xml": f'{head}<Types xmlns="{package}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/word/document.xml" ContentType="{wordml}"/></Types>',
        "_rels/.rels": f'{head}<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{office}/officeDocument" Target="word/document.xml"/></Relationships>',
        "word/document.xml": f'{head}<w:document xmlns:w="{word}"><w:body>{paragraphs}</w:body></w:document>',
    }
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name, ZIP_TIME), text, zipfile.ZIP_DEFLATED)
    return written.getvalue()


def pdf(lines: Iterable[str]) -> bytes:
    """A page of text in one of the fonts that every reader has (ISO 32000-1, annex H.2)."""
    shown = "".join(f"({line.replace('(', '').replace(')', '')}) Tj T*\n" for line in lines)
    stream = f"BT /F1 8 Tf 40 780 Td 14 TL\n{shown}ET".encode("ascii")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    written = bytearray(b"%PDF-1.4\n")
    places = []
    for number, one in enumerate(objects, 1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = len(written)
    written += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    written += b"".join(b"%010d 00000 n \n" % place for place in places)
    written += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, table)
    return bytes(written)


def write_datasets(out: Path, media: Path) -> None:
    write_rows(
        out / "images.jsonl",
        [
            {"image_id": "i1", "question": "这是什么?", "images": [EXAMPLE_URL]},
            {"image_id": "i2", "question": "Which day has the tallest bar?", "images": ["media/chart.png"]},
            {
                "image_id": "i3",
                "question": "Name the shapes and their colours.",
                "images": ["media/shapes.jpg"],
            },
            {
                "image_id": "i4",
                "question": "What do these two pictures have in common?",
                "images": ["media/sunset.webp", "media/poster.png"],
            },
        ],
    )
    pictures = ("chart.png", "shapes.jpg", "sunset.webp", "poster.png")
    table = pa.table(
        {
            "image_id": pa.array([Path(name).stem for name in pictures]),
            "question": pa.array(["Describe this picture in one sentence."] * len(pictures)),
            "image": pa.array([(media / name).read_bytes() for name in pictures], pa.binary()),
        }
    )
    pq.write_table(table, out / "images.parquet", compression="zstd")
    frames = [f"media/frame-{number}.jpg" for number in range(1, FRAMES + 1)]
    write_rows(
        out / "frames.jsonl",
        [
            {"clip_id": "c1", "question": "Which way does the ball roll?", "frames": frames},
            {"clip_id": "c2", "question": "小球向哪个方向滚动？", "frames": frames[::-1]},
            {"clip_id": "c3", "question": "Does the ball move?", "frames": frames[:4]},
        ],
    )
    write_rows(
        out / "documents.jsonl",
        [
            {"document_id": "d1", "question": "这款水壶的保修期是多久？", "path": "documents/kettle.docx"},
            {"document_id": "d2", "question": "What does the kettle cost?", "path": "documents/kettle.pdf"},
            {"document_id": "d3", "question": "这款水壶有哪些颜色？", "path": "documents/kettle.txt"},
            {"document_id": "d4", "question": "How do I remove lime?", "path": "documents/questions.md"},
            {"document_id": "d5", "question": "烧开一整壶水要多久？", "path": "documents/kettle.docx"},
        ],
    )


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


if __name__ == "__main__":
    main()
