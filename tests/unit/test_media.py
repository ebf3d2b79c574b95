"""Media of a row: what becomes a part, what is refused before sending, and that no path leads out of the root."""

import base64
import os
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import catalog
from pipeline.errors import JobError
from pipeline.media import (
    LocalFile,
    MediaLimits,
    MediaProblem,
    MediaReader,
    MediaSettings,
    document_messages,
    limits_of,
)
from pipeline.media.kinds import media_type, picture_size
from pipeline.media.local import locate, open_file
from pipeline.vision_tokens import EARLIER_RULE, frames_tokens, image_tokens, vision_rule
from tests.support.opened import opened_names

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
NEWER = limits_of("dashscope", "qwen3.5-plus")
OLDER = limits_of("dashscope", "qwen-vl-max")


def reader(root: Path | None = SAMPLES, limits: MediaLimits = NEWER, **more: Any) -> MediaReader:
    return MediaReader(MediaSettings(root=root, rule=EARLIER_RULE, limits=limits, **more))


def png(width: int, height: int, padding: int = 0) -> bytes:
    """A PNG's header, without a picture behind it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", bytes(padding)) + chunk(b"IEND", b"")
    )


def data_url(content: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def only_part(media: Any) -> dict[str, Any]:
    [part] = media.parts
    assert isinstance(part, dict)
    return part


# What a value becomes


@pytest.mark.parametrize("url", ["https://host/a.jpg?x=1", "HTTP://host/a", "oss://bucket/key.png"])
def test_a_url_is_passed_on_as_it_is(url: str) -> None:
    assert reader(None).image_parts(url).parts == [{"type": "image_url", "image_url": {"url": url}}]


@pytest.mark.parametrize(
    ("name", "mime"),
    [("chart.png", "image/png"), ("shapes.jpg", "image/jpeg"), ("sunset.webp", "image/webp")],
)
def test_a_local_picture_becomes_a_data_url_of_its_own_bytes(name: str, mime: str) -> None:
    content = (SAMPLES / "media" / name).read_bytes()
    for value in (
        f"media/{name}",
        content,
        {"bytes": content, "path": None},
        {"bytes": None, "path": f"media/{name}"},
    ):
        assert only_part(reader().image_parts(value))["image_url"] == {"url": data_url(content, mime)}


def test_the_type_is_that_of_the_content_whatever_the_name_says(tmp_path: Path) -> None:
    (tmp_path / "picture.jpg").write_bytes(png(20, 20))
    part = only_part(reader(tmp_path).image_parts("picture.jpg"))
    assert part["image_url"]["url"].startswith("data:image/png;base64,")


def test_several_values_become_as_many_parts_in_their_order() -> None:
    media = reader().image_parts(["https://h/1", ["media/chart.png", "https://h/3"]])
    urls = [part["image_url"]["url"] for part in media.parts]
    assert urls[::2] == ["https://h/1", "https://h/3"]
    assert urls[1].startswith("data:image/png")


def test_an_absolute_path_and_a_link_that_stay_below_the_root_are_read(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(png(20, 20))
    (tmp_path / "link.png").symlink_to("deep/a.png")
    for value in (str(tmp_path / "deep" / "a.png"), "link.png", "deep/../deep/./a.png"):
        assert only_part(reader(tmp_path).image_parts(value))["image_url"]["url"] == data_url(png(20, 20))


def test_the_root_itself_may_be_reached_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(png(20, 20))
    (tmp_path / "link").symlink_to("real")
    assert only_part(reader(tmp_path / "link").image_parts("a.png"))


def test_a_root_that_is_no_folder_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="there is no folder"):
        reader(tmp_path / "gone")


def test_tokens_are_those_of_the_formula_and_of_the_providers_example() -> None:
    # 1372 x 2044 pixels are billed as 1247 tokens in the provider's own example.
    assert reader().image_parts("media/poster.png").tokens == 1247 + 2
    assert reader().image_parts(["media/poster.png"] * 2).tokens == 2 * (1247 + 2)


def test_a_picture_behind_a_url_is_estimated_as_the_largest() -> None:
    largest = max(image_tokens(side, side, EARLIER_RULE) for side in range(28, 5000, 28))
    assert reader().image_parts("https://h/a.png").tokens == largest
    assert reader(high_resolution=True).image_parts("https://h/a.png").tokens > largest


def test_frames_become_one_part_with_its_rate_and_tokens() -> None:
    frames = [f"media/frame-{n}.jpg" for n in range(1, 7)]
    media = reader().video_parts(frames, fps=2)
    part = only_part(media)
    assert (part["type"], part["fps"], len(part["video"])) == ("video", 2, 6)
    assert all(url.startswith("data:image/jpeg;base64,") for url in part["video"])
    assert media.tokens == frames_tokens(6, 640, 360, EARLIER_RULE)
    assert "fps" not in only_part(reader().video_parts(frames))


def test_a_single_video_becomes_a_video_url(tmp_path: Path) -> None:
    clip = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"mp41") + bytes(100)
    (tmp_path / "clip.dat").write_bytes(clip)
    part = only_part(reader(tmp_path).video_parts("clip.dat", fps=1.0))
    assert part == {"type": "video_url", "video_url": {"url": data_url(clip, "video/mp4")}, "fps": 1.0}
    link = reader(tmp_path).video_parts("https://h/v.mp4")
    assert link.parts == [{"type": "video_url", "video_url": {"url": "https://h/v.mp4"}}]
    assert link.tokens > 0


def test_messages_keep_everything_but_their_local_media() -> None:
    frames = [f"media/frame-{n}.jpg" for n in range(1, 5)]
    text = {"type": "text", "text": "media/chart.png", "image_url": None}
    messages = [
        {"role": "system", "content": "media/chart.png"},
        {
            "role": "user",
            "content": [
                text,
                {
                    "type": "image_url",
                    "image_url": {"url": "media/chart.png", "detail": "low"},
                    "max_pixels": 4096,
                },
                {"type": "image_url", "image_url": "https://h/bare.png"},
                {"type": "video", "video": frames, "fps": 2},
            ],
        },
    ]
    media = reader().messages(messages)
    assert media.parts[0] is messages[0]
    words, local, link, video = media.parts[1]["content"]
    assert words == {"type": "text", "text": "media/chart.png"}
    assert local["image_url"]["url"].startswith("data:image/png")
    assert (local["image_url"]["detail"], local["max_pixels"]) == ("low", 4096)
    assert link["image_url"] == {"url": "https://h/bare.png"}
    assert [url[:15] for url in video["video"]] == ["data:image/jpeg"] * 4
    assert messages[1]["content"][1]["image_url"]["url"] == "media/chart.png", "the row's own message changed"


# What is refused


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no image"),
        ([], "no image"),
        ([None], "found null"),
        ("", "is empty"),
        (7, "found a value of type int"),
        ({"url": "x"}, "found a value of type dict"),
        (b"", "is empty"),
        ("media/gone.png", "does not exist"),
        ("media", "no regular file"),
        (".", "root itself"),
        ("reviews.csv/x.png", "does not exist"),
        ("file:///etc/passwd", "neither a local path nor a URL"),
        ("FILE:/etc/passwd", "neither a local path nor a URL"),
        ("ftp://host/a.png", "neither a local path nor a URL"),
        ("media\\chart.png", "separate folders by /"),
        ("media/chart.png\0.jpg", "separate folders by /"),
        ("~/chart.png", "does not exist"),
        ("../../README.md", "outside"),
        ("/etc/passwd", "outside"),
        ("/etc/there-is-no-such-file", "outside"),
        ("x" * 5000, "not a path"),
        ("a/" * 4_000_000 + "x.png", "not a path"),
        ("\ud800.png", "not a path"),
        ("documents/kettle.pdf", "no image by its content"),
        ("data:text/plain;base64,AAAA", "does not begin a data URL"),
        ("data:image/png,AAAA", "does not begin a data URL"),
        ("data:image/png;base64,A!AA", "not valid base64"),
        (data_url(b"no picture"), "no image by its content"),
        (data_url(png(5, 5)), "5 x 5 pixels"),
    ],
)
def test_a_value_that_cannot_be_sent_says_why(value: Any, reason: str) -> None:
    with pytest.raises(MediaProblem, match=reason):
        reader().image_parts(value)


def test_without_a_root_no_local_path_is_looked_at() -> None:
    with pytest.raises(MediaProblem, match=r"\[input\] root"):
        reader(None).image_parts("media/chart.png")


@pytest.mark.parametrize(
    ("width", "height", "taken"),
    [
        (10, 100, False),
        (11, 100, True),
        (11, 2200, True),
        (11, 2201, False),
        (2201, 11, False),
        (8000, 8000, True),
    ],
)
def test_sides_and_aspect_stay_within_the_models_bounds(width: int, height: int, taken: bool) -> None:
    if taken:
        assert reader().image_parts(png(width, height)).tokens > 0
    else:
        with pytest.raises(MediaProblem, match="pixels"):
            reader().image_parts(png(width, height))


def test_a_header_that_is_broken_is_told_from_one_that_is_far_behind() -> None:
    with pytest.raises(MediaProblem, match="header is broken"):
        reader().image_parts(b"\xff\xd8\xff\xe0" + bytes(1000))
    far = b"\xff\xd8\xff\xe0" + struct.pack(">H", 60_000) + bytes(59_998)
    assert reader().image_parts(far[:2] + far[2:] * 10).tokens > 0


def test_a_format_that_the_model_does_not_take_is_refused_and_taken_elsewhere() -> None:
    gif = b"GIF89a" + struct.pack("<HH", 40, 30) + bytes(20)
    with pytest.raises(MediaProblem, match="image/gif; this model takes bmp, heic, jpeg"):
        reader().image_parts(gif)
    assert reader(limits=limits_of("openai", "gpt-4o")).image_parts(gif).parts


def test_the_bound_on_bytes_is_that_of_the_data_url_and_differs_by_model() -> None:
    fits = png(100, 100, padding=7_864_000 - 100)  # 10 MiB once encoded
    assert reader(limits=OLDER).image_parts(fits).parts
    too_much = png(100, 100, padding=7_864_400)
    with pytest.raises(MediaProblem, match=r"as a data URL 10\.0 MiB"):
        reader(limits=OLDER).image_parts(too_much)
    with pytest.raises(MediaProblem, match=r"10\.0 MiB"):
        reader(limits=OLDER).image_parts(data_url(too_much))
    assert reader(limits=NEWER).image_parts(too_much).parts


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 42)  # sparse: to read it would take hours
    with pytest.raises(MediaProblem, match="this model takes"):
        reader(tmp_path).image_parts("huge.png")


def test_fifo_and_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with pytest.raises(MediaProblem, match="no regular file"):
        reader(tmp_path).image_parts("pipe.png")
    with pytest.raises(MediaProblem, match="outside"):
        reader(tmp_path).image_parts("device.png")
    with pytest.raises(MediaProblem, match="no regular file"):
        reader(Path("/dev")).image_parts("zero")


@pytest.mark.parametrize(
    "value",
    ["self/environ", "self/root/etc/passwd", "self/cwd/pyproject.toml", "self/fd/0", "kmsg", "kcore", "self/mem",
     "thread-self/root/etc/passwd", "self/task", "sysrq-trigger", "self/pagemap"],
)  # fmt: skip
def test_nothing_of_proc_is_read_even_with_proc_as_root(value: str) -> None:
    with pytest.raises(MediaProblem):
        reader(Path("/proc")).image_parts(value)


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "a.png"))
        with pytest.raises(MediaProblem, match="no regular file"):
            reader(tmp_path).image_parts("a.png")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MediaProblem):
        reader(tmp_path).image_parts("a/x.png")


def test_a_link_put_in_after_the_path_was_checked_leads_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "album", outside):
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(png(20, 20))
    found = locate(root, "album/a.png")
    open_file(found).close()
    (root / "album").rename(root / "moved")
    (root / "album").symlink_to(outside)
    with pytest.raises(MediaProblem):
        open_file(found)
    file = locate(root, "moved/a.png")
    (root / "moved" / "a.png").unlink()
    (root / "moved" / "a.png").symlink_to(outside / "a.png")
    with pytest.raises(MediaProblem):
        open_file(file)


@pytest.mark.parametrize(("count", "taken"), [(3, False), (4, True), (80, True), (81, False)])
def test_the_number_of_frames_stays_within_the_models_bounds(count: int, taken: bool) -> None:
    frames = [f"https://h/{n}.jpg" for n in range(count)]
    if taken:
        assert reader(limits=OLDER).video_parts(frames).parts
    else:
        with pytest.raises(MediaProblem, match=f"{count} frames; this model takes 4 to 80"):
            reader(limits=OLDER).video_parts(frames)


@pytest.mark.parametrize("fps", [0, 0.05, 10.5, -1, float("nan"), True, "2"])
def test_a_rate_out_of_bounds_is_refused(fps: Any) -> None:
    with pytest.raises(MediaProblem, match="fps"):
        reader().video_parts(["https://h/a"] * 4, fps=fps)


def test_the_number_of_images_is_counted_over_the_whole_prompt() -> None:
    link = {"type": "image_url", "image_url": {"url": "https://h/a.png"}}
    messages = [{"role": "user", "content": [link] * 200}, {"role": "user", "content": [link] * 57}]
    with pytest.raises(MediaProblem, match="257 images or more; a request takes 256"):
        reader().messages(messages)
    assert reader(limits=limits_of("dashscope", "qwen3.8-max")).messages(messages).parts
    with pytest.raises(MediaProblem, match="251 images as data URLs or more; a request takes 250"):
        reader().image_parts([png(20, 20)] * 251)


def test_a_row_that_names_one_file_a_million_times_is_refused_before_it_is_read_so_often(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(png(20, 20) + bytes(8 * 2**20))
    (tmp_path / "a.txt").write_text("some text")
    part = {"type": "image_url", "image_url": {"url": "a.png"}}
    rows: list[Callable[[], object]] = [
        lambda: reader(tmp_path).image_parts(["a.png"] * 1_000_000),
        lambda: reader(tmp_path).messages([{"role": "user", "content": [part] * 1_000_000}]),
        lambda: reader(tmp_path).video_parts(["a.png"] * 500),
        lambda: reader(tmp_path).documents(["a.txt"] * 1_000_000),
    ]
    for read in rows:
        with (
            opened_names() as names,
            pytest.raises(MediaProblem, match=r"a request takes|more than 64\.0 MiB"),
        ):
            read()
        assert names.count("a.png") <= 10
        assert "a.txt" not in names


@pytest.mark.parametrize("model", sorted(catalog.load("dashscope").models))
def test_every_model_of_the_catalogue_has_limits_that_agree_with_its_family(model: str) -> None:
    limits = limits_of("dashscope", model)
    assert limits.max_frames >= limits.min_frames
    image = catalog.load("dashscope").models[model].image
    if image is not None and image.min_pixels == 65_536:
        assert limits.inline_bytes == 20 * 1024 * 1024
        assert limits.max_frames >= 512
    assert vision_rule(image, model).max_pixels > 0


# Uploads to come


def test_media_above_the_bound_are_named_by_a_marker_and_listed(tmp_path: Path) -> None:
    small, large = png(20, 20), png(20, 20, padding=5000)
    (tmp_path / "large.jpg").write_bytes(large)
    media = reader(tmp_path, upload_over_bytes=1000).image_parts([small, "large.jpg", large])
    assert media.parts[0]["image_url"]["url"].startswith("data:")
    by_path, by_bytes = media.files
    assert by_path.marker == by_bytes.marker, "the same content has one identity"
    assert [part["image_url"]["url"] for part in media.parts[1:]] == [by_path.marker] * 2
    assert (by_path.mime, by_path.name, by_path.size_bytes) == ("image/png", "large.png", len(large))
    assert by_path.content is None
    with by_path.open() as file, by_bytes.open() as content:
        assert file.read() == content.read() == large


def test_a_video_above_the_bound_is_hashed_but_never_held(tmp_path: Path) -> None:
    clip = struct.pack(">I4s4sI", 16, b"ftyp", b"qt  ", 0) + bytes(20_000)
    (tmp_path / "clip.mov").write_bytes(clip)
    [file] = reader(tmp_path, upload_over_bytes=1000).video_parts("clip.mov").files
    assert (file.mime, file.name, file.content) == ("video/quicktime", "clip.quicktime", None)


# Documents


def test_documents_are_named_by_one_system_message_in_their_order() -> None:
    found = reader().documents(["documents/kettle.docx", "fileid://file-fe-1", "documents/kettle.txt"])
    docx, txt = found.files
    assert found.messages == [
        {"role": "system", "content": f"fileid://{docx.marker},fileid://file-fe-1,fileid://{txt.marker}"}
    ]
    assert (docx.purpose, docx.name) == ("document", "kettle.docx")
    assert docx.mime.endswith("wordprocessingml.document")
    assert found.tokens > 0
    assert document_messages([]) == []


def test_the_same_document_twice_is_one(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("same")
    found = reader(tmp_path).documents(["a.txt", "b.txt"])
    assert len(found.files) == 1
    assert found.messages[0]["content"].count("fileid://") == 1


def test_a_document_that_changed_has_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = reader(tmp_path).documents("a.txt").files[0].digest
    path.write_text("two, and longer")
    assert reader(tmp_path).documents("a.txt").files[0].digest != before


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no document"),
        (b"%PDF", "named by its path"),
        ("https://h/a.pdf", "a local path is needed"),
        ("documents/kettle.exe", "extension"),
        ("documents/kettle", "extension"),
        ("documents/gone.pdf", "does not exist"),
        ("../../pyproject.toml.txt", "outside"),
        ("fileid://a,fileid://b", "not the id of one file"),
        ("fileid://", "not the id of one file"),
        (["fileid://x"] * 101, "101 documents; a request takes 100"),
    ],
)
def test_a_document_that_cannot_be_uploaded_says_why(value: Any, reason: str) -> None:
    with pytest.raises(MediaProblem, match=reason):
        reader().documents(value)


@pytest.mark.parametrize(
    ("name", "size"), [("a.pdf", 150 * 2**20 + 1), ("a.png", 20 * 2**20 + 1), ("a.txt", 0)]
)
def test_a_document_too_large_or_empty_is_refused(tmp_path: Path, name: str, size: int) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(size)
    with pytest.raises(MediaProblem, match=r"at most|is empty"):
        reader(tmp_path).documents(name)


# Kinds


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"BM" + bytes(40), "image/bmp"),
        (b"II*\0" + bytes(40), "image/tiff"),
        (b"MM\0*" + bytes(40), "image/tiff"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0AVI LIST", "video/x-msvideo"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic"), "image/heic"),
        (struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"mif1", 0, b"mif1", b"heic"), "image/heic"),
        (struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"avif", 0, b"mif1", b"avif"), "image/avif"),
        (b"\x1aE\xdf\xa3" + bytes(20), "video/webm"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"<?xml version='1.0'?><svg/>", None),
        (b"P6 1 1 255", None),
        (b"", None),
    ],
)
def test_kinds_are_told_by_their_first_bytes(head: bytes, mime: str | None) -> None:
    assert media_type(head) == mime


@given(st.sampled_from(sorted((SAMPLES / "media").iterdir())), st.data())
def test_a_damaged_picture_has_a_size_or_none_and_raises_nothing(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    mime = media_type(cut)
    size = picture_size(cut, mime) if mime and mime.startswith("image/") else None
    assert size is None or min(size) > 0


# The property: no path outside the root is ever opened

SECRET = b"outside and secret"


@pytest.fixture(scope="module")
def maze() -> Iterator[Path]:
    """A root with pictures, links within and links out, beside a folder that nobody may read."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        root = base / "root"
        (root / "album" / "inner").mkdir(parents=True)
        (base / "outside").mkdir()
        (base / "root-too").mkdir()
        for folder in (base / "outside", base / "root-too", base):
            (folder / "secret.png").write_bytes(SECRET)
        for folder in (root, root / "album", root / "album" / "inner"):
            (folder / "pic.png").write_bytes(png(20, 20))
        (root / "out").symlink_to("../outside")
        (root / "out-far").symlink_to(base / "outside")
        (root / "up").symlink_to("..")
        (root / "secret.png").symlink_to("../outside/secret.png")
        (root / "album" / "back").symlink_to("..")
        (root / "in").symlink_to("album/inner")
        (root / "loop").symlink_to("loop")
        (root / "~").mkdir()
        (root / "a\\b").mkdir()
        yield root


_STEPS = (
    "..", ".", "", "album", "inner", "pic.png", "secret.png", "out", "out-far", "up", "back", "in", "loop",
    "outside", "root", "root-too", "~", "~root", "\0", "..\\..", "a\\b", "%2e%2e", "file:", "C:", "…", "..;",
    "．．", "‥", "..\u200b", ".\u0300.", "PIC.PNG", "Album", "ａlbum", "\r..", "..\n",
)  # fmt: skip
_BEGINNINGS = (
    "",
    "/",
    "//",
    "./",
    "{root}/",
    "{base}/",
    "file://",
    "file://{base}/",
    "~/",
    "oss:/",
    "\\\\host\\",
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(beginning=st.sampled_from(_BEGINNINGS), steps=st.lists(st.sampled_from(_STEPS), max_size=7))
@example(beginning="", steps=["out", "secret.png"])
@example(beginning="", steps=["secret.png"])
@example(beginning="{base}/", steps=["root-too", "secret.png"])
@example(beginning="", steps=["album", "back", "up", "outside", "secret.png"])
@example(beginning="", steps=["in", "..", "..", "pic.png"])
def test_no_path_of_a_row_opens_anything_outside_the_root(
    maze: Path, beginning: str, steps: list[str]
) -> None:
    value = beginning.format(root=maze, base=maze.parent) + "/".join(steps)
    media = reader(maze)
    with opened_names() as names:
        try:
            located = locate(maze, value)
            with open_file(located) as file:
                content = file.read()
        except MediaProblem:
            content = None
        try:
            parts = media.image_parts([value]).parts
        except MediaProblem:
            parts = []
    # The root by its own name, and from there one name at a time: who follows no link on this way stays inside.
    assert all(name == str(maze) or ("/" not in name and name != "..") for name in names), names
    assert content in (None, png(20, 20))
    assert all(part["image_url"]["url"].startswith(("data:image/png", "oss:")) for part in parts)


def test_the_maze_has_ways_that_lead_somewhere(maze: Path) -> None:
    for value in (
        "pic.png",
        "album/back/pic.png",
        "in/pic.png",
        f"{maze}/album/../pic.png",
        "up/root/pic.png",
    ):
        assert reader(maze).image_parts(value).parts, value


def test_a_file_of_bytes_shows_none_of_them_in_logs() -> None:
    file = LocalFile(purpose="media", name="a", mime="image/png", size_bytes=1, digest="d", content=SECRET)
    assert "secret" not in repr(file)
