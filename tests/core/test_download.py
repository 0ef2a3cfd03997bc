"""Downloads from a server on this machine that breaks off, ignores ranges, or sends something else."""

import hashlib
import http.server
import re
import threading

import numpy as np
import pytest

from cnn_jax.core.download import RemoteFile, download
from cnn_jax.core.errors import StorageError, UserError

CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 5)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        state = self.server.state
        state["ranges"].append(self.headers["Range"])
        if state["content"] is None:
            self.send_error(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "") if state["resumes"] else None
        start, size = int(match[1]) if match else 0, len(state["content"])
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        self.wfile.write(state["content"][start : state["breaks"]])

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server: `state` sets what it sends, and records the ranges that were requested."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.state = dict(content=CONTENT, resumes=True, breaks=None, ranges=[])
        thread = threading.Thread(target=found.serve_forever, kwargs=dict(poll_interval=0.01))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def file(server):
    url = f"http://127.0.0.1:{server.server_port}/folder/set.gz"
    return RemoteFile(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_file_is_complete_and_progress_adds_up(server, file, tmp_path):
    steps = []
    download(file, tmp_path / file.name, steps.append)
    assert (tmp_path / "set.gz").read_bytes() == CONTENT and sum(steps) == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["set.gz"] and server.state["ranges"] == [None]


@pytest.mark.parametrize("resumes", [True, False])
def test_interrupted_download_continues(server, file, tmp_path, resumes):
    server.state |= dict(breaks=10**6, resumes=resumes)
    with pytest.raises(UserError, match=r"set.gz cannot be downloaded: .*\n?.*The same command resumes"):
        download(file, tmp_path / "set.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["set.gz.partial"]
    assert (tmp_path / "set.gz.partial").read_bytes() == CONTENT[: 10**6]
    server.state["breaks"] = None
    steps = []
    download(file, tmp_path / "set.gz", steps.append)
    assert server.state["ranges"] == [None, "bytes=1000000-"]
    assert (tmp_path / "set.gz").read_bytes() == CONTENT and sum(steps) == len(CONTENT)
    assert steps[0] == (10**6 if resumes else 0)


def test_other_content_is_refused_and_removed(server, file, tmp_path):
    server.state["content"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(UserError, match=f"has the SHA-256 .*, but set.gz has {file.sha256}"):
        download(file, tmp_path / "set.gz")
    assert not list(tmp_path.iterdir())


def test_no_more_than_the_published_size_is_written(server, file, tmp_path):
    server.state["content"] = CONTENT + b"more"
    download(file, tmp_path / "set.gz")
    assert (tmp_path / "set.gz").read_bytes() == CONTENT


def test_partial_file_of_another_size_starts_again(server, file, tmp_path):
    (tmp_path / "set.gz.partial").write_bytes(CONTENT + b"more")
    download(file, tmp_path / "set.gz")
    assert (tmp_path / "set.gz").read_bytes() == CONTENT and server.state["ranges"] == [None]
    (tmp_path / "set.gz").rename(tmp_path / "set.gz.partial")
    download(file, tmp_path / "set.gz")  # complete: nothing is requested
    assert (tmp_path / "set.gz").read_bytes() == CONTENT and server.state["ranges"] == [None]


def test_missing_file_and_full_folder_get_one_message(server, file, tmp_path):
    (tmp_path / "set.gz.partial").mkdir()
    with pytest.raises(StorageError, match=r"set.gz.partial cannot be written"):
        download(file, tmp_path / "set.gz")
    server.state["content"] = None
    with pytest.raises(UserError, match=r"set.gz cannot be downloaded: HTTP Error 404"):
        download(file, tmp_path / "other")
