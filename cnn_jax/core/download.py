"""Published files: downloaded with resuming, and verified by size and SHA-256 before anything reads them."""

import hashlib
import http.client
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cnn_jax.core.errors import UserError, check
from cnn_jax.core.files import storage_errors, sync_folder

TIMEOUT = 60  # seconds without a byte


@dataclass(frozen=True)
class RemoteFile:
    """A file as its authors published it."""

    url: str
    size: int  # bytes
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def verify(file: RemoteFile, path: Path) -> None:
    """Raises UserError unless `path` is the published file: its size and its SHA-256 are equal."""
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno()).st_size
            check(
                found == file.size,
                f"{path} has {found:,} bytes, but {file.name} has {file.size:,}: it is truncated or another file. "
                f"Download it again from {file.url}",
            )
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    check(
        digest == file.sha256,
        f"{path} has the SHA-256 {digest}, but {file.name} has {file.sha256}: it is damaged or another file. Download "
        f"it again from {file.url}",
    )


def download(file: RemoteFile, path: Path, advance: Callable[[int], None] = lambda done: None) -> None:
    """Downloads a file to `path`, which exists afterwards only if it is complete and verified.

    What an interrupted download left in `path`.partial is continued where the server allows it. No more bytes than the
    published size are written.

    Args:
      advance: is called with the number of bytes that arrived.

    Raises:
      UserError: there is no connection, it ended early, or the content is not the published one.
      StorageError: the file cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    if partial.is_file() and partial.stat().st_size > file.size:
        partial.unlink()
    try:
        _receive(file, partial, advance)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{file.url} cannot be downloaded: {error or type(error).__name__}\nThe same command resumes"
        ) from None
    try:
        verify(file, partial)
    except UserError:
        partial.unlink()
        raise
    with storage_errors(f"{path} cannot be written"):
        with partial.open("rb+") as written:
            os.fsync(written.fileno())
        partial.replace(path)
        sync_folder(path.parent)


def _receive(file: RemoteFile, partial: Path, advance: Callable[[int], None]) -> None:
    """Appends to `partial` what is missing; raises OSError or HTTPException where the connection fails."""
    done = partial.stat().st_size if partial.is_file() else 0
    if done == file.size:
        advance(done)
        return
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={done}-"} if done else {})
    cannot = f"{partial} cannot be written"
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if not (response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {done}-")):
            done = 0  # the server sends the whole file
        with storage_errors(cannot):
            output = partial.open("ab" if done else "wb")
        with output:
            advance(done)
            while done < file.size and (chunk := response.read(min(2**20, file.size - done))):
                with storage_errors(cannot):
                    output.write(chunk)
                done += len(chunk)
                advance(len(chunk))
    if done < file.size:
        raise ConnectionError(f"the connection ended after {done:,} of {file.size:,} bytes")
