"""Where the folder of a run is: here, or in a bucket (gs://, s3://), with what is needed of it in a folder here.

A run reads and writes files of this machine in both cases. Those of a bucket are in a temporary folder: its records and
the manifests of its checkpoints come at the start, a checkpoint when it is restored, and `push` uploads what is new.

    URL/metrics.jsonl, ...              uploaded again where they have changed
    URL/checkpoints/200/state/...       as in a folder
    URL/checkpoints/200/manifest.json   uploaded last, removed first: without it there is no checkpoint
    URL/.lock/                          see `lease`
"""

import contextlib
import errno
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnn_jax.checkpoint.lease import Lease
from cnn_jax.core.errors import StorageError, UserError, check, check_folder
from cnn_jax.tracking import workdir

MANIFEST = "manifest.json"
CHECKPOINTS = ("checkpoints", "not_finite/checkpoints")
INSIDE = re.compile(rf"((?:{'|'.join(CHECKPOINTS)})/\d[^/]*)/(.+)", re.DOTALL)  # a checkpoint, and a file of it
STORES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}  # what reaches them, and our extra that has it
AT_ONCE = 16  # files

Patiently = Callable[[Callable[[], None]], Any]


def located(flag: str, value: str) -> Path | str:
    """Returns the path that `value` is, or the URL of a folder in a bucket; raises UserError if it is another URL."""
    if re.match(r"(gs|s3)://", value) is None:
        check_folder(flag, value)
        return Path(value)
    check(
        re.fullmatch(r"\w+://[^/]+(/+[^/]+)+/*", value) is not None,
        f"{flag} is {value!r}, but must name a folder in a bucket, such as {value[:2]}://bucket/run",
    )
    return value.rstrip("/")


@contextlib.contextmanager
def opened(where: Path | str) -> Iterator["Folder"]:
    """Yields the folder of a run, by what `located` returns. Nothing is written before it is `held`.

    Raises:
      UserError: what reaches the bucket is not installed.
      StorageError: the bucket cannot be read.
    """
    if isinstance(where, Path):
        yield Folder(where)
        return
    with tempfile.TemporaryDirectory(prefix="cnn_jax-", ignore_cleanup_errors=True) as scratch:
        bucket = Bucket(where, Path(scratch).resolve())
        try:
            bucket.pull()
            yield bucket
        except UserError as error:  # says where files are here
            error.args = (bucket.named(str(error)),)
            raise


class Folder:
    """A folder that all processes of the run see."""

    shared = True

    def __init__(self, path: Path):
        self.path = path

    def named(self, text: str) -> str:
        """Returns `text` with the names that its readers know."""
        return text

    def held(
        self, records: Path, *, seconds: float, patiently: Patiently, report: Callable[[str], Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Holds the folder for this run; see `workdir.locked`.

        Args:
          records: where this process records, `path` or a folder that is thrown away.
          seconds, report: see `lease.Lease`. patiently: calls what writes, again where it is refused.
        """
        return workdir.locked(records)

    def fetch(self, checkpoint: Path) -> None:
        """Returns when all files of a checkpoint, or its remains, are in its folder."""

    def push(self) -> None:
        """Returns when what was written is where it stays."""

    def push_records(self) -> None:
        """The same, of all but the checkpoints."""


class Bucket(Folder):
    """A folder in a bucket. Of several processes each has one, with a `path` of its own; the first writes."""

    shared = False

    def __init__(self, url: str, path: Path):
        """Prepares the way to `url`; what is read of it, or written to it, is in `path`."""
        super().__init__(path)
        self.url = url
        self.store, self.root = _connect(url)
        self._stamps: dict[str, tuple[int, int]] = {}  # of the records that are the same there
        self._whole: dict[str, bytes] = {}  # the checkpoints there, with their manifests
        self._remains: set[str] = set()  # of checkpoints there, without manifests
        self._fetched: set[str] = set()  # checkpoints with all their files here
        self._lease: Lease | None = None
        self._pushing = threading.Lock()

    def named(self, text: str) -> str:
        return text.replace(str(self.path), self.url)

    @contextlib.contextmanager
    def held(
        self, records: Path, *, seconds: float, patiently: Patiently, report: Callable[[str], Any]
    ) -> Iterator[None]:
        if records != self.path:  # the first process holds it for all
            yield
            return
        lease = Lease(self.store, f"{self.root}/.lock", seconds=seconds, name=self.url, report=report)
        with contextlib.ExitStack() as holding:
            with workdir.storage_errors(f"{self.url} cannot be written"), self._reaching():
                holding.enter_context(lease)
            self._lease = lease
            self.pull()
            try:
                yield
            except BaseException:
                with contextlib.suppress(OSError, UserError):  # the first error is the one to show
                    self.push()
                raise
            patiently(self.push)

    # ------------------------------------------------------------ from there

    def pull(self) -> None:
        """Reads the records and the manifests, in the place of what is in `path`."""
        for path in self.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._fetched.clear()
        with workdir.storage_errors(f"{self.url} cannot be read"), self._reaching():
            objects = [name for folder in CHECKPOINTS for name in self._find(folder)]
            manifests = [name for name in objects if _is_manifest(name)]
            records = self._find()
            self._download([*records, *manifests])
        self._stamps = {name: self._stamp(name) for name in records}
        self._whole = {folder: self._manifest(folder) for folder in self._here()[0]}
        self._remains = {inside[1] for name in objects if (inside := INSIDE.fullmatch(name))} - self._whole.keys()

    def fetch(self, checkpoint: Path) -> None:
        name = checkpoint.relative_to(self.path).as_posix()
        if name not in self._fetched:
            with workdir.storage_errors(f"{self.url}/{name} cannot be read"), self._reaching():
                self._download(self._find(name))
            self._fetched.add(name)

    def _find(self, folder: str = "") -> list[str]:
        """Returns the names of all objects below `folder`; without one, of those that are in none."""
        self.store.invalidate_cache()
        where = f"{self.root}/{folder}".rstrip("/")
        found = self.store.find(where, maxdepth=None if folder else 1)
        found = [name for name in found if not name.endswith("/")]  # consoles make such objects for folders
        names = [name.removeprefix(f"{self.root}/") for name in found if name.startswith(f"{where}/")]
        for name in names:
            if not all(re.fullmatch(r"[^/\\\0]+", part) and part not in (".", "..") for part in name.split("/")):
                raise StorageError(f"{self.url} has an object {name!r}, which cannot be a file: remove it")
        return names

    def _download(self, names: Iterable[str]) -> None:
        def get(name: str) -> None:
            to = self.path / name
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.store.get_file(f"{self.root}/{name}", str(to))
            except FileNotFoundError:  # a run that lives has removed it
                to.unlink(missing_ok=True)

        _all(get, names)

    # ------------------------------------------------------------ to there

    def push(self) -> None:
        """Uploads what is new here; removes checkpoints there that are not here; keeps only manifests here."""
        if self._lease is None:
            return
        with self._pushing, self._reaching():
            self._lease.check()
            self._push_records()
            checkpoints, _ = self._here()
            for folder in checkpoints:
                manifest = self._manifest(folder)
                if self._whole.get(folder) != manifest:
                    self._remove(folder)
                    files = [path for path in (self.path / folder).rglob("*") if path.is_file()]
                    names = [path.relative_to(self.path).as_posix() for path in files]
                    self._remains.add(folder)
                    self._upload(name for name in names if name != f"{folder}/{MANIFEST}")
                    self._upload([f"{folder}/{MANIFEST}"])
                    self._remains.discard(folder)
                    self._whole[folder] = manifest
            for folder in (self._whole.keys() | self._remains) - checkpoints:
                self._remove(folder)
            self._fetched.clear()
            for folder in checkpoints:
                for path in (self.path / folder).iterdir():
                    if path.name != MANIFEST:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def push_records(self) -> None:
        with self._pushing, self._reaching():
            self._push_records()

    def _push_records(self) -> None:
        stamps = {name: self._stamp(name) for name in self._here()[1]}
        changed = [name for name, stamp in stamps.items() if self._stamps.get(name) != stamp]
        self._upload(changed)
        self._stamps |= {name: stamps[name] for name in changed}

    def _here(self) -> tuple[set[str], list[str]]:
        """Returns the checkpoints that are here, and the files outside of them; not what is half-written."""
        found = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()]
        names = [name for name in found if ".partial" not in name]
        checkpoints = {name.removesuffix(f"/{MANIFEST}") for name in names if _is_manifest(name)}
        return checkpoints, [name for name in names if not INSIDE.fullmatch(name)]

    def _manifest(self, folder: str) -> bytes:
        return (self.path / folder / MANIFEST).read_bytes()

    def _stamp(self, name: str) -> tuple[int, int]:
        status = (self.path / name).stat()
        return status.st_size, status.st_mtime_ns

    def _upload(self, names: Iterable[str]) -> None:
        _all(lambda name: self.store.put_file(str(self.path / name), f"{self.root}/{name}"), names)

    def _remove(self, folder: str) -> None:
        names = self._find(folder)
        if f"{folder}/{MANIFEST}" in names:
            self.store.rm_file(f"{self.root}/{folder}/{MANIFEST}")
        self._whole.pop(folder, None)
        _all(lambda name: self.store.rm_file(f"{self.root}/{name}"), set(names) - {f"{folder}/{MANIFEST}"})
        self._remains.discard(folder)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Turns the errors of a store into one that `workdir.storage_errors` knows."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of botocore, aiohttp, google.auth and others: they have no class in common
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OSError(errno.EIO, reason, self.url) from error


def _is_manifest(name: str) -> bool:
    inside = INSIDE.fullmatch(name)
    return inside is not None and inside[2] == MANIFEST


def _all(action: Callable[[str], Any], names: Iterable[str]) -> None:
    """Calls action(name) for all names, several at once; after an error none is still under way."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for future in [threads.submit(action, name) for name in names]:
            future.result()


def _connect(url: str) -> tuple[Any, str]:
    """Returns the store that has `url`, and its path there."""
    try:
        import fsspec

        return fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError:
        module, extra = STORES[url[:2]]
        raise UserError(f"{url} cannot be reached without {module}: pip install -e '.[{extra}]'") from None
