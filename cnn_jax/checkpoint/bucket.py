"""Runs in a bucket (gs://, s3://): their folder is copied to this machine, and a thread uploads what is new.

    URL/metrics.jsonl, ...              uploaded again where they have changed
    URL/checkpoints/200/state/...       as in a folder
    URL/checkpoints/200/manifest.json   uploaded last, removed first: without it there is no checkpoint
    URL/.lease                          {"by": "process 1 on host", "id": ..., "seconds": 60, "beats": 12}

The holder of the lease rewrites it, and a run that finds it unchanged for its seconds takes it over. A holder that was
silent for longer finds another name there before its next upload, and stops. No clock is compared with another one.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
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
PATIENCE = 60.0  # seconds for which a refused upload is tried again, unless CNN_JAX_PATIENCE says otherwise

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
                first = collectives.is_first()
                check_lease = holding.enter_context(_lease(bucket)) if hold and first else None
                if hold:
                    collectives.meet("bucket")
                bucket.download()
                if check_lease:
                    holding.enter_context(_uploading(bucket, check_lease))
                yield bucket.path
                if not hold and first:
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
            names = [name for name in names if name not in ("", *LOCKS) and not name.endswith("/")]
            for name in names:
                parts = name.split("/")
                if not all(re.fullmatch(r"[^/\\\0]+", part) and part not in (".", "..") for part in parts):
                    raise StorageError(f"{self.url} has an object {name!r}, which cannot be a file: remove it")
            _each(self.get, set(names) - _half_written(names))
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
            _each(self.put, changed - checkpoints)
            if records:
                return
            _each(self.remove, manifests & self.there.keys())
            _each(self.remove, gone - manifests)
            _each(self.put, checkpoints - manifests)
            _each(self.put, checkpoints & manifests)
            self.there = here

    def _files(self) -> dict[str, Stamp]:
        """Returns the files here, without what is half-written."""
        paths = {path.relative_to(self.path).as_posix(): path for path in self.path.rglob("*") if path.is_file()}
        half = _half_written(paths)
        status = {name: path.stat() for name, path in paths.items() if name not in half and name not in LOCKS}
        return {name: (found.st_size, found.st_mtime_ns) for name, found in status.items()}

    def get(self, name: str) -> None:
        to = self.path / name
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.store.get_file(f"{self.root}/{name}", str(to))
        except FileNotFoundError:  # a running run has removed it
            to.unlink(missing_ok=True)

    def put(self, name: str) -> None:
        try:
            self.store.put_file(str(self.path / name), f"{self.root}/{name}")
        except FileNotFoundError:
            if (self.path / name).exists():
                raise  # else the run has just removed its checkpoint

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.store.rm_file(f"{self.root}/{name}")


def _half_written(names: Collection[str]) -> set[str]:
    """Returns those of the names that belong to a checkpoint without a manifest, or to a file that is being written."""
    inside = {name: match[1] for name in names if (match := CHECKPOINT.fullmatch(name))}
    half = {name for name, folder in inside.items() if f"{folder}/{manifest.NAME}" not in names}
    return half | {name for name in names if ".partial" in name}


def _each(action: Callable[[str], Any], names: Iterable[str]) -> None:
    """Calls action(name) for all names, several at once; after an error none is still running."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(action, names))


@contextlib.contextmanager
def _uploading(bucket: _Bucket, check_lease: Callable[[], None]) -> Iterator[None]:
    """While the block runs, a thread uploads what is new; at its end everything is uploaded.

    Where the bucket refuses for `PATIENCE` seconds, or another run took over, the run is asked to stop as by a signal.
    """
    end, failures = threading.Event(), []
    patience = float(os.environ.get("CNN_JAX_PATIENCE", PATIENCE))

    def run() -> None:
        last, since = False, time.monotonic()  # of the last upload that went well
        while not last or time.monotonic() - since > POLL:
            last = end.wait(POLL)
            try:
                check_lease()
                bucket.upload()
                since = time.monotonic()
            except UserError as error:
                if not isinstance(error, StorageError) or time.monotonic() - since > patience:
                    failures.append(error)
                    print(f"error: {error}", file=sys.stderr, flush=True)
                    return None if last else os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(POLL)

    thread = threading.Thread(target=run, name="uploads", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        if failures:
            raise failures[0]


@contextlib.contextmanager
def _lease(bucket: _Bucket) -> Iterator[Callable[[], None]]:
    """Holds a bucket's folder while the block runs; yields a check that raises UserError if another run took over.

    Raises:
      UserError: a running run holds it.
    """
    seconds = float(os.environ.get("CNN_JAX_LEASE", LEASE))
    own = {"by": f"process {os.getpid()} on {socket.gethostname()}", "id": uuid.uuid4().hex, "seconds": seconds}
    path, end = f"{bucket.root}/.lease", threading.Event()

    def read() -> dict[str, Any]:
        with bucket.reaching("read"):
            try:
                found = json.loads(bucket.store.cat_file(path))
                return {**found, "by": str(found["by"]), "seconds": float(found["seconds"])}
            except FileNotFoundError:
                return {}
            except (ValueError, TypeError, KeyError):
                return {"by": "another process", "seconds": seconds}

    def write(beats: int) -> None:
        with bucket.reaching("written"):
            bucket.store.pipe_file(path, json.dumps(own | {"beats": beats}).encode())

    def check() -> None:
        if (holder := read()).get("id") != own["id"]:
            raise UserError(
                f"{bucket.url} is held by {holder.get('by', 'nobody')}: this run was silent for {seconds:g} s and "
                "counted as dead, or another started at the same time. It stops, and uploads nothing more"
            )

    def renew() -> None:
        for beats in itertools.count(1):
            if end.wait(seconds / 4):
                return
            with contextlib.suppress(UserError):  # the next renewal may come in time; uploads check who holds
                check()
                write(beats)

    if holder := read():
        print(f"{bucket.url} is held by {holder['by']}: waiting for a sign of life", flush=True)
        until = time.monotonic() + holder["seconds"]
        while time.monotonic() < until and (found := read()):
            if found != holder:
                raise UserError(
                    f"{bucket.url} is in use by {holder['by']}: wait until it ends, or give another --workdir"
                )
            time.sleep(min(1.0, holder["seconds"] / 8))
    write(0)
    time.sleep(min(2.0, seconds / 4))  # of two that start at once, the last to write holds it
    check()
    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        end.set()
        thread.join()
        with contextlib.suppress(UserError):  # it will count as dead
            check()
            bucket.remove(".lease")
