"""Runs in a bucket (gs://, s3://): their folder is copied to this machine, and a thread uploads what is new.

    URL/metrics.jsonl, ...              uploaded again where they have changed
    URL/checkpoints/200/state/...       as in a folder
    URL/checkpoints/200/manifest.json   uploaded last, removed first: without it there is no checkpoint
    URL/.lease                          {"by": "process 1 on host", "seconds": 60, "beats": 12}

The holder of the lease rewrites it, and a run that finds it unchanged for its seconds takes it over. A holder that was
silent for longer finds another name there before its next upload, and stops. No clock is compared with another one.
"""

import contextlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnn_jax.checkpoint import manifest
from cnn_jax.core.errors import StorageError, UserError

CHECKPOINT = re.compile(r"((?:not_finite/)?checkpoints/\d[^/]*)/(.+)", re.DOTALL)  # its folder, and a file of it
EXTRAS = {"gs": "gcs", "s3": "s3"}  # what reaches them
LOCKS = (".lease", ".lock")
AT_ONCE = 16  # files
LEASE = 60.0  # seconds of silence after which a run counts as dead, unless CNN_JAX_LEASE says otherwise
POLL = 1.0  # seconds between two looks at what is new
PATIENCE = 60.0  # seconds for which an upload that the bucket refuses is tried again

Stamp = tuple[int, int]  # size and time of a file


@contextlib.contextmanager
def opened(where: Path | str, *, hold: bool = False) -> Iterator[Path]:
    """Yields the folder of a run on this machine: a path itself, or a copy of what is in the bucket.

    Args:
      hold: the first process of a run holds the bucket's folder and uploads what is new until the block ends. Without
        it new records are uploaded at the end.

    Raises:
      UserError: what reaches the bucket is not installed, or a running run holds it. StorageError: it refuses.
    """
    if isinstance(where, Path):
        yield where
        return
    from cnn_jax.parallel import collectives

    with tempfile.TemporaryDirectory(prefix="cnn_jax-", ignore_cleanup_errors=True) as scratch:
        bucket = _Bucket(where, Path(scratch).resolve())
        try:
            with contextlib.ExitStack() as holding:
                first = hold and collectives.is_first()
                if first:
                    held = holding.enter_context(_Lease(bucket))
                if hold:
                    collectives.meet("bucket")
                bucket.download()
                if first:
                    holding.enter_context(_Uploads(bucket, held))
                yield bucket.path
                if not hold and collectives.is_first():
                    bucket.upload(records=True)
        except UserError as error:  # names files on this machine
            error.args = (str(error).replace(str(bucket.path), where),)
            raise


class _Bucket:
    """A folder in a bucket, and its copy on this machine."""

    def __init__(self, url: str, path: Path):
        self.url, self.path = url, path
        self.there: dict[str, Stamp] = {}  # the files there, as they were here
        try:
            import fsspec

            self.store, self.root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except ImportError as error:
            raise UserError(f"{url} cannot be reached: {error}. pip install 'cnn-jax[{EXTRAS[url[:2]]}]'") from None

    @contextlib.contextmanager
    def reaching(self, doing: str) -> Iterator[None]:
        """Raises StorageError where the store refuses; its libraries have no class of errors in common."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise StorageError(f"{self.url} cannot be {doing}: {reason}") from error

    def download(self) -> None:
        """Copies the records and the checkpoints to this machine."""
        with self.reaching("read"):
            found = [name.removeprefix(f"{self.root}/") for name in self.store.find(self.root)]
            names = [name for name in found if "/" not in name or CHECKPOINT.fullmatch(name)]
            names = [name for name in names if name not in LOCKS and not name.endswith("/")]
            for name in names:
                parts = name.split("/")
                if not all(re.fullmatch(r"[^/\\\0]+", part) and part not in (".", "..") for part in parts):
                    raise StorageError(f"{self.url} has an object {name!r}, which cannot be a file: remove it")
            _each(self._get, names)
        here = self._files()
        self.there = {name: here.get(name, (0, 0)) for name in names}

    def upload(self, *, records: bool = False) -> None:
        """Uploads what is new here, and removes checkpoints there that are not here: a manifest last, and first.

        Args:
          records: only what is outside of checkpoints, and nothing is removed.
        """
        with self.reaching("written"):
            here = {name: stamp for name, stamp in self._files().items() if not records or "/" not in name}
            changed = {name for name, stamp in here.items() if self.there.get(name) != stamp}
            gone = self.there.keys() - here.keys()
            checkpoints = {name for name in changed if CHECKPOINT.fullmatch(name)}
            manifests = {name for name in changed | gone if name.endswith(f"/{manifest.NAME}")}
            _each(self._put, changed - checkpoints)
            if records:
                return
            _each(self._remove, manifests & self.there.keys())
            _each(self._remove, gone - manifests)
            _each(self._put, checkpoints - manifests)
            _each(self._put, checkpoints & manifests)
            self.there = here

    def _files(self) -> dict[str, Stamp]:
        """Returns the files here, without what is half-written."""
        paths = {path.relative_to(self.path).as_posix(): path for path in self.path.rglob("*") if path.is_file()}
        half = {name for name in paths if ".partial" in name or name in LOCKS}
        inside = {name: match[1] for name in paths if (match := CHECKPOINT.fullmatch(name))}
        half |= {name for name, folder in inside.items() if f"{folder}/{manifest.NAME}" not in paths}
        status = {name: path.stat() for name, path in paths.items() if name not in half}
        return {name: (found.st_size, found.st_mtime_ns) for name, found in status.items()}

    def _get(self, name: str) -> None:
        to = self.path / name
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.store.get_file(f"{self.root}/{name}", str(to))
        except FileNotFoundError:  # a running run has removed it
            to.unlink(missing_ok=True)

    def _put(self, name: str) -> None:
        self.store.put_file(str(self.path / name), f"{self.root}/{name}")

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.store.rm_file(f"{self.root}/{name}")


def _each(action: Callable[[str], Any], names: Iterable[str]) -> None:
    """Calls action(name) for all names, several at once; after an error none is still running."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(action, names))


class _Uploads:
    """While the block runs, a thread uploads what is new; at its end everything is uploaded.

    Where the bucket refuses for `PATIENCE` seconds, or another run took over, the run is asked to stop as by a signal.
    """

    def __init__(self, bucket: _Bucket, lease: "_Lease"):
        self.bucket, self.lease = bucket, lease
        self.failure: UserError | None = None
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, kind: Any, *_: Any) -> None:
        self.end.set()
        self.thread.join()
        failure = self.failure or self._attempt()
        if failure is not None and (kind is None or self.failure is not None):  # else another error is the first
            raise failure

    def _run(self) -> None:
        while not self.end.wait(POLL):
            self.failure = self._attempt()
            if self.failure is not None:
                print(f"error: {self.failure}", file=sys.stderr, flush=True)
                return os.kill(os.getpid(), signal.SIGTERM)

    def _attempt(self) -> UserError | None:
        """Uploads what is new, again where the bucket refuses; returns the error that is left."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.lease.check()
                return self.bucket.upload()
            except StorageError as error:  # also where the run has just removed a file
                if time.monotonic() > until:
                    return error
                time.sleep(POLL)
            except UserError as error:
                return error


class _Lease:
    """Holds a bucket's folder while the block runs; raises UserError if a running run holds it."""

    def __init__(self, bucket: _Bucket):
        self.bucket, self.path = bucket, f"{bucket.root}/.lease"
        self.seconds = float(os.environ.get("CNN_JAX_LEASE", LEASE))
        self.by, self.beats = f"process {os.getpid()} on {socket.gethostname()}", 0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def check(self) -> None:
        """Raises UserError if another run has taken over."""
        holder = self._read().get("by")
        if holder != self.by:
            raise UserError(
                f"{self.bucket.url} is held by {holder or 'nobody'}: this run was silent for {self.seconds:g} s and "
                "counted as dead, or another one started at the same time. It stops, and uploads nothing more"
            )

    def __enter__(self) -> "_Lease":
        self._wait_for(self._read())
        self._write()
        time.sleep(min(2.0, self.seconds / 4))  # of two that start at once, the last to write holds it
        self.check()
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.end.set()
        self.thread.join()
        with contextlib.suppress(StorageError):  # it will count as dead
            if self._read().get("by") == self.by:
                self.bucket._remove(".lease")

    def _wait_for(self, holder: dict[str, Any]) -> None:
        """Returns when the holder has ended, or counts as dead."""
        by, until = holder.get("by"), time.monotonic() + float(holder.get("seconds", 0))
        if holder:
            print(f"{self.bucket.url} is held by {by}: waiting for a sign of life", flush=True)
        while time.monotonic() < until and (found := self._read()):
            if found != holder:
                raise UserError(f"{self.bucket.url} is in use by {by}: wait until it ends, or give another --workdir")
            time.sleep(min(1.0, float(holder["seconds"]) / 8))

    def _renew(self) -> None:
        while not self.end.wait(self.seconds / 4):
            with contextlib.suppress(StorageError):  # the next renewal may come in time; uploads check who holds
                if self._read().get("by") == self.by:
                    self._write()

    def _read(self) -> dict[str, Any]:
        """Returns the content of the lease, {} where there is none."""
        with self.bucket.reaching("read"):
            try:
                found = json.loads(self.bucket.store.cat_file(self.path))
                return {"by": str(found["by"]), "seconds": float(found["seconds"]), "beats": found["beats"]}
            except FileNotFoundError:
                return {}
            except (ValueError, TypeError, KeyError):
                return {"by": "another process", "seconds": self.seconds}

    def _write(self) -> None:
        self.beats += 1
        content = {"by": self.by, "seconds": self.seconds, "beats": self.beats}
        with self.bucket.reaching("written"):
            self.bucket.store.pipe_file(self.path, json.dumps(content).encode())
