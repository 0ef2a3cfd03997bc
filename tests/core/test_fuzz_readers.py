"""Whatever a file holds: a value or one UserError, no traceback, no hang, and no other file is touched."""

import contextlib
import gzip
import io
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

import published_archives
from cnn_jax.checkpoint import manifest
from cnn_jax.config import recorded
from cnn_jax.config.configuration import Configuration
from cnn_jax.core.errors import UserError
from cnn_jax.data import archive_formats, decode
from cnn_jax.pretrained import features, source
from cnn_jax.reporting import runs
from cnn_jax.tracking import recorder, run_folder, run_record

pytestmark = pytest.mark.nightly
often = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = [
    "model",
    "name",
    "data",
    "classes",
    "mean",
    "std",
    "step",
    "kind",
    "files",
    "error",
    "run",
    "starts",
    "seconds",
]
NAMED = st.recursive(
    JSON, lambda inner: st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=6), max_leaves=8
)
TEXTS = NAMED.map(json.dumps)
BYTES = (
    st.binary(max_size=200)
    | TEXTS.map(str.encode)
    | st.sampled_from([b"[" * 200_000, b'{"a":' * 50_000, b"\xef\xbb\xbf{}"])
)


@st.composite
def mutated(draw, whole):
    """Returns a file with bytes changed, removed or inserted."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if how == "set" and data:
            data[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[place : place + draw(st.integers(1, 40))]
        elif how == "insert":
            data[place:place] = draw(st.binary(max_size=20))
        else:
            del data[place:]
    return bytes(data)


@contextlib.contextmanager
def untouched(folder):
    """Checks that a folder and its neighbors do not change."""

    def listing():
        return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()}

    before = listing()
    with contextlib.suppress(UserError):
        yield
    assert listing() == before


READERS = {
    "config.json": lambda path: (run_folder.stored_config(path.parent), recorded.read(path)),
    "input.json": lambda path: run_folder.read_input(path.parent),
    "run.json": run_record.read,
    "metrics.jsonl": recorder.read_jsonl,
    "manifest.json": lambda path: (manifest.damage(path.parent), manifest.error(path.parent)),
}


@pytest.mark.parametrize("name", READERS)
@often
@given(content=BYTES)
def test_records_of_a_run(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with untouched(tmp_path):
        READERS[name](tmp_path / name)


@often
@given(lines=st.lists(BYTES, max_size=4))
def test_records_of_many_lines(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([b'{"kind": "test", "step": 3}', *lines]))
    with untouched(tmp_path):
        recorder.read_jsonl(tmp_path / "metrics.jsonl")


@often
@given(contents=st.fixed_dictionaries({name: BYTES for name in runs.FILES}))
def test_a_folder_for_a_report(tmp_path, contents):
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with untouched(tmp_path), contextlib.suppress(runs.LeftOut):
        runs.read(tmp_path)


def picture(form, **options):
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 256, (24, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    Image.fromarray(values).convert(options.pop("mode", "RGB")).save(file, form, exif=exif, **options)
    return file.getvalue()


PICTURES = [
    *(picture(form) for form in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")),
    picture("PNG", mode="P"),
    picture("JPEG", progressive=True),
    picture("TIFF", compression="tiff_lzw"),
]


@often
@given(data=st.sampled_from(PICTURES).flatmap(mutated) | st.binary(max_size=300), channels=st.sampled_from([1, 3]))
def test_pictures(tmp_path, data, channels):
    (tmp_path / "a.png").write_bytes(data)
    with untouched(tmp_path):
        found = decode.decode(tmp_path / "a.png", channels)
        assert found.dtype == np.uint8 and found.shape[-1] == channels
    with untouched(tmp_path):
        lazy = decode.Picture(tmp_path / "a.png", channels)
        lazy.scaled = True
        assert lazy.resize((3, 2)).shape == (3, 2, channels)


IMAGES, LABELS = published_archives.examples("cifar10")
SPLITS = published_archives.SPLITS
PUBLISHED = {
    "idx": published_archives.idx(np.arange(24, dtype=np.uint8)),
    "cifar": gzip.decompress(published_archives.files_of("cifar10", IMAGES, LABELS)["cifar-10-binary.tar.gz"]),
    "svhn": published_archives.svhn_file(IMAGES["test"][:1], LABELS["test"][:1]),
    "svhn, not compressed": published_archives.svhn_file(IMAGES["test"][:1], LABELS["test"][:1], do_compression=False),
}
READ_ARCHIVE = {
    "idx": lambda path: archive_formats.read_idx(path, (24,)),
    "cifar": lambda path: archive_formats.open_cifar10({"cifar-10-binary.tar.gz": path}, SPLITS),
    "svhn": lambda path: archive_formats.read_svhn(path, 1),
    "svhn, not compressed": lambda path: archive_formats.read_svhn(path, 1),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
@often
@given(data=st.data())
def test_published_archives(tmp_path, name, data):
    content = data.draw(mutated(PUBLISHED[name]))
    if name in ("idx", "cifar") and data.draw(st.booleans()):
        content = gzip.compress(content, compresslevel=1)
    (tmp_path / "archive").write_bytes(content)
    with untouched(tmp_path), contextlib.suppress(UserError):
        READ_ARCHIVE[name](tmp_path / "archive")


def archive():
    file = io.BytesIO()
    arrays = dict(features=np.ones((2, 3), np.float32), files=np.array(["a", "b"]), source=np.array("x"))
    np.savez(file, **arrays)
    return file.getvalue()


@often
@given(data=mutated(archive()) | st.binary(max_size=300))
def test_files_of_features(tmp_path, data):
    (tmp_path / "a.npz").write_bytes(data)
    with untouched(tmp_path):
        features.read(tmp_path / "a.npz")


def weights():
    model = json.dumps({"model": {"name": "mlp"}, "input": {}})
    return save({"a": np.ones((2, 3), np.float32)}, metadata={"cnn_jax": model})


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "ckpt"])
@often
@given(data=mutated(weights()) | st.binary(max_size=300))
def test_files_of_weights(tmp_path, suffix, data):
    (tmp_path / f"a.{suffix}").write_bytes(data)
    with untouched(tmp_path):
        source.open_source(str(tmp_path / f"a.{suffix}"))


@often
@given(header=NAMED)
def test_headers_of_weights(tmp_path, header):
    (tmp_path / "a.safetensors").write_bytes(
        save({"a": np.ones((2, 3), np.float32)}, metadata={"cnn_jax": json.dumps(header)})
    )
    with untouched(tmp_path):
        source.open_source(str(tmp_path / "a.safetensors"))


VALUES = st.text(max_size=30) | st.sampled_from(
    ["()", "(1,", "[]", "None", "1e999", "__import__('os')", "{}", "'a'", "()" * 9]
)
FIELD = st.sampled_from(
    ["seed", "duration", "data.augment", "optim.schedule", "optim", "model.width", "x", "", "data."]
)


@often
@given(field=FIELD | st.text(max_size=12), value=VALUES)
def test_changes_of_a_configuration(tmp_path, field, value):
    with untouched(tmp_path):
        Configuration.from_recipe("lenet5", [f"{field}={value}"])


LINES = [
    "import os",
    "raise OSError",
    "x = (",
    "def get_config(dataset='digits'):",
    "    return 3",
    "    raise KeyError(1)",
]


@often
@given(
    lines=st.lists(st.sampled_from([*LINES, "    import sys; sys.exit(3)", "\x00", "\ufeff", "    return"]), max_size=5)
)
def test_configuration_files(tmp_path, lines):
    (tmp_path / "c.py").write_text("\n".join(lines))
    with untouched(tmp_path):
        Configuration.from_recipe(str(tmp_path / "c.py"))
    assert os.listdir(tmp_path) == ["c.py"]
