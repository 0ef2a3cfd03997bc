"""The Hugging Face Hub, as a server on this computer that answers as it does: files to read, and files pushed."""

import base64
import contextlib
import functools
import hashlib
import http.server
import importlib
import json
import threading
from typing import Any, ClassVar

import pytest
import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_the_test"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for `repositories`: {"OWNER/NAME": {file: bytes}, or "gated"}; large files come to `stored` first."""

    repositories: ClassVar[dict] = {}
    stored: ClassVar[dict] = {}
    private: ClassVar[set] = set()
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.resolve(body=False)

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            self.describe("/".join(self.path.split("/")[3:5]))
        else:
            self.resolve(body=True)

    def describe(self, name):
        files = self.repositories.get(name)
        if files is None:
            self.answer(404, problem="RepoNotFound")
            return
        card = files.get("README.md", b"").decode()
        fields = yaml.safe_load(card.split("---\n")[1]) if card.startswith("---\n") else None
        siblings = [{"rfilename": file} for file in files]
        self.answer(200, {"id": name, "siblings": siblings, **({"cardData": fields} if fields else {})})

    def resolve(self, *, body):
        """/OWNER/NAME/resolve/REVISION/FILE."""
        owner, name, _, revision, file = self.path.split("?")[0].strip("/").split("/", 4)
        files = self.repositories.get(f"{owner}/{name}")
        problem = None
        if files is None:
            problem = (401, "RepoNotFound")
        elif files == "gated":
            problem = (403, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            problem = (404, "RevisionNotFound")
        elif file not in files:
            problem = (404, "EntryNotFound")
        code, error = problem or (200, "")
        self.answer(code, b"" if problem else files[file], problem=error, body=body)

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            text = json.loads(content)["content"]
            fields = yaml.safe_load(text.split("---\n")[1])
            self.answer(200 if isinstance(fields, dict) else 400, {"warnings": [], "errors": []})
            return
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
            return
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "others":
                self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
                return
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(name)
            new = name not in self.repositories
            self.repositories.setdefault(name, {})
            self.answer(200 if new else 409, {"url": f"{self.root}/{name}", "name": name})
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            modes = {True: "lfs", False: "regular"}
            answers = [
                {"path": f["path"], "uploadMode": modes[f["path"].endswith("tensors")], "shouldIgnore": False}
                for f in files
            ]
            self.answer(200, {"files": answers})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(content)["objects"]
            put = [{**one, "actions": {"upload": {"href": f"{self.root}/store/{one['oid']}"}}} for one in objects]
            self.answer(200, {"transfer": "basic", "objects": put})
        else:  # /api/models/OWNER/NAME/commit/main
            self.commit("/".join(self.path.split("/")[3:5]), map(json.loads, content.splitlines()))

    def commit(self, name, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.repositories[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repositories[name][value["path"]] = self.stored[value["oid"]]
        self.answer(200, {"commitUrl": f"{self.root}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.removeprefix("/store/")
        whole = hashlib.sha256(content).hexdigest() == name
        if whole:
            self.stored[name] = content
        self.answer(200 if whole else 400)

    @property
    def root(self):
        return f"http://{self.headers['Host']}"

    def answer(self, code, content: Any = b"", *, problem="", body=True):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        if problem:
            self.send_header("X-Error-Code", problem)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving(cache, monkeypatch):
    """Yields the repositories that the library's real client then finds over HTTP, and pushes to with `TOKEN`."""
    library = pytest.importorskip("huggingface_hub")
    constants = importlib.import_module("huggingface_hub.constants")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name in ("repositories", "stored"):
        monkeypatch.setattr(Handler, name, {})
    monkeypatch.setattr(Handler, "private", set())
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # another protocol for large files
    options = dict(endpoint=endpoint, cache_dir=cache, token=False)
    monkeypatch.setattr(library, "hf_hub_download", functools.partial(library.hf_hub_download, **options))
    monkeypatch.setattr(library, "HfApi", functools.partial(library.HfApi, endpoint=endpoint))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield Handler.repositories
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
