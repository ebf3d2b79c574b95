"""Local files of a row: opened below one folder only, regular ones only, and never larger than asked.

A dataset is untrusted: its paths must not read what the operator did not put below `input.root`. So a path is first
resolved (symbolic links, `..`) and compared, then opened name by name from the folder downwards without
following a link, so that a link put there in between leads nowhere. Nothing outside is opened, and a message does not
tell whether it exists. What a file holds is not looked at here.
"""

import errno
import hashlib
import io
import os
import re
import stat
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import BinaryIO, Literal, NamedTuple

# Kept so that a document named by thousands of rows is hashed once; the stamp makes a changed file another entry.
_DIGESTS_KEPT = 4096
_PATH_CHARS = 4096  # PATH_MAX of Linux, in bytes
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:", re.IGNORECASE)
_O_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_O_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class MediaProblem(Exception):
    """Why a value of a row cannot be sent; the text goes into the row's failure, after its place."""


class Located(NamedTuple):
    """A path that was found to lie below `root`: real names all the way, no links, no `..`."""

    root: Path
    names: tuple[str, ...]


class Stamp(NamedTuple):
    """What tells one state of a file from another."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int


def shown(value: str) -> str:
    """A value as a message shows it: quoted, printable, short."""
    return repr(value if len(value) <= 120 else value[:117] + "...")


def locate(root: Path | None, value: str) -> Located:
    """Find where a path of a row leads, without opening anything.

    `root` is a real path (no links in it). Relative paths start there. Raises MediaProblem for what is no
    plain path or leads elsewhere.
    """
    if root is None:
        raise MediaProblem(
            f"{shown(value)} is a local path, and [input] root, the folder to read from, is not set"
        )
    if not value.strip():
        raise MediaProblem("it is empty where a path or URL is expected")
    if "\0" in value or "\\" in value:
        raise MediaProblem(
            f"{shown(value)} is not a path: separate folders by / and leave out backslashes and NUL"
        )
    if _SCHEME.match(value):
        raise MediaProblem(
            f"{shown(value)} is neither a local path nor a URL that can be sent (http, https, oss, data)"
        )
    not_one = MediaProblem(f"{shown(value)} is not a path that this system can hold")
    if len(value) > _PATH_CHARS:  # to follow one takes time that grows with the square of its length
        raise not_one
    try:
        real = os.path.realpath(root / value)
    except (
        ValueError,
        OSError,
    ):  # half a surrogate pair, which no file name holds; a link that cannot be read
        raise not_one from None
    try:
        names = PurePath(real).relative_to(root).parts
    except ValueError:
        raise MediaProblem(
            f"{shown(value)} lies outside [input] root, from which alone files are read"
        ) from None
    return Located(root, names)


def open_file(located: Located) -> BinaryIO:
    """Open a located file for reading. Raises MediaProblem for what is not there or is no regular file."""
    name = shown("/".join(located.names))
    if not located.names:
        raise MediaProblem("it names [input] root itself, not a file in it")
    folder = -1
    try:
        folder = os.open(located.root, _O_FOLDER)
        for inner in located.names[:-1]:
            outer, folder = folder, os.open(inner, _O_FOLDER, dir_fd=folder)
            os.close(outer)
        last = located.names[-1]
        # Looked at before it is opened: to open a device can do things.
        if not stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
            raise MediaProblem(f"{name} is no regular file")
        file = os.fdopen(os.open(last, _O_FILE, dir_fd=folder), "rb")
    except OSError as error:
        raise MediaProblem(f"{name} below [input] root {_said(error)}") from None
    finally:
        if folder >= 0:
            os.close(folder)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise MediaProblem(f"{name} is no regular file")
    return file


def _said(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "does not exist"
    if error.errno == errno.ELOOP:
        return "changed into a symbolic link while it was looked at"
    return f"cannot be read: {os.strerror(error.errno or 0)}"


def stamp_of(file: BinaryIO) -> Stamp:
    """The present state of an open file."""
    status = os.fstat(file.fileno())
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def digest_of(stream: BinaryIO) -> str:
    """The content's hash (blake2b, 128 bits, hex) from where the stream stands to its end."""
    digest = hashlib.blake2b(digest_size=16)
    while chunk := stream.read(1024 * 1024):
        digest.update(chunk)
    return digest.hexdigest()


@lru_cache(maxsize=_DIGESTS_KEPT)
def digest_at(located: Located, stamp: Stamp) -> str:
    """The hash of a file in the state of `stamp`. Raises MediaProblem where it has changed since."""
    with open_file(located) as file:
        digest = digest_of(file)
        if stamp_of(file) != stamp:
            raise MediaProblem(f"{shown('/'.join(located.names))} changed while it was read")
    return digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFile:
    """A file, or a bytes value, to be uploaded before its row is sent.

    `digest` is the content's hash and its identity: the address the provider gives it may change from run to run, so
    messages carry `marker` until the upload, and content keys are made from those. Only bytes values are held (`content`);
    a file is opened again when it is sent.
    """

    purpose: Literal["document", "media"]
    name: str
    mime: str
    size_bytes: int
    digest: str
    located: Located | None = None
    content: bytes | None = field(default=None, repr=False)

    @property
    def marker(self) -> str:
        """What stands in messages for the address: a file id for documents, a URL for media."""
        return f"upload-{self.digest}" if self.purpose == "document" else f"oss://upload/{self.digest}"

    def open(self) -> BinaryIO:
        """Open the content for reading. Raises MediaProblem where the file has gone."""
        if self.located is not None:
            return open_file(self.located)
        return io.BytesIO(self.content or b"")
