"""Where the part files of a run lie: its own folder, another one, or S3. Here is what S3 does as a `Storage`."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from pyarrow import fs

from pipeline.s3 import S3Path, S3Settings, client, is_s3, s3_path, said_plainly
from pipeline.storage import DAMAGED, RESULTS, SCRATCH_SUFFIX, Disk, LocalFiles, Storage, numbered

_PROBE = ".writable"
_ONE_REQUEST_BYTES = 8 * 1024 * 1024  # Arrow begins to cut a file into pieces at 10 MiB


class S3Files:
    """A `Storage` below a prefix of a bucket. What is damaged goes to the prefix `damaged` beside this one.

    A file of usual size is put by one request. A larger one is uploaded in pieces, under a scratch name, since Arrow completes
    what it could not write to the end; only then does it get its name, by a copy within the service. Pieces that a killed
    process left are never seen, and the bucket's own rule for incomplete uploads removes them.
    """

    def __init__(self, place: S3Path, settings: S3Settings) -> None:
        self._place = place
        self._settings = settings
        self._s3 = client(settings)

    @property
    def where(self) -> str:
        return str(self._place)

    def prepare(self) -> None:
        """See that objects can be put and removed, before anything is paid for that could not be written."""
        self._upload(_PROBE, memoryview(b""))
        self.remove(_PROBE)

    def put(self, name: str, data: memoryview) -> str:
        self._upload(name, data)
        with said_plainly(self._place, self._settings):
            (info,) = self._s3.get_file_info([self._place.below(name).path])
        return _stamp(info)

    def _upload(self, name: str, data: memoryview) -> None:
        place = self._place.below(name)
        with said_plainly(place, self._settings):
            if len(data) <= _ONE_REQUEST_BYTES:
                with self._s3.open_output_stream(place.path, compression=None) as stream:
                    stream.write(data)  # nothing is sent until it closes
                return
            scratch = self._place.below(name + SCRATCH_SUFFIX)
            try:
                with self._s3.open_output_stream(scratch.path, compression=None) as stream:
                    stream.write(data)
                self._s3.move(scratch.path, place.path)
            except OSError:
                with contextlib.suppress(OSError):
                    self._s3.delete_file(scratch.path)
                raise

    def stamps(self) -> dict[str, str]:
        with said_plainly(self._place, self._settings):
            found = self._s3.get_file_info(fs.FileSelector(self._place.path, allow_not_found=True))
        return {
            info.base_name: _stamp(info)
            for info in found
            if info.is_file and not info.base_name.endswith(SCRATCH_SUFFIX)
        }

    def read(self, name: str) -> bytes:
        place = self._place.below(name)
        with said_plainly(place, self._settings), self._s3.open_input_file(place.path) as file:
            return file.read()

    def remove(self, name: str) -> None:
        place = self._place.below(name)
        with said_plainly(place, self._settings):
            self._s3.delete_file(place.path)

    def set_aside(self, name: str) -> str:
        above = S3Path(self._place.bucket, self._place.key.rpartition("/")[0]).below(DAMAGED)
        with said_plainly(self._place, self._settings):
            number = 1
            while self._s3.get_file_info([above.below(numbered(name, number)).path])[0].is_file:
                number += 1
            to = above.below(numbered(name, number))
            self._s3.move(self._place.below(name).path, to.path)
        return str(to)

    def clear_scratch(self) -> None:
        with said_plainly(self._place, self._settings):
            for info in self._s3.get_file_info(fs.FileSelector(self._place.path, allow_not_found=True)):
                if info.is_file and info.base_name.endswith(SCRATCH_SUFFIX):
                    self._s3.delete_file(info.path)


def _stamp(info: fs.FileInfo) -> str:
    # To the second: some services tell a list's times more exactly than an object's.
    return f"{info.size}-{(info.mtime_ns or 0) // 1_000_000_000}"


def open_results(where: str, settings: S3Settings, disk: Disk | None = None) -> Storage:
    """The storage of an address: `s3://...`, or a folder of this machine."""
    return S3Files(s3_path(where), settings) if is_s3(where) else LocalFiles(Path(where), disk)


def results_of(folder: Path, manifest: Mapping[str, str], settings: S3Settings) -> Storage:
    """The storage of a run's results, by what its journal says of them."""
    return open_results(manifest.get("results") or str(folder / RESULTS), settings)
