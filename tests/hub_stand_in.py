"""A stand-in for the Hugging Face Hub on this machine: the part of its HTTP API that downloads use.

It answers as https://huggingface.co does where ``huggingface_hub`` looks: status codes, ``X-Error-Code``, the headers
of a file, and a redirect to another host, the storage, for files kept in Git LFS. The list of a gated repository's
files is open to all, as it is there; the files are not.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS = (".bin", ".safetensors", ".model")
"""Files with these endings are served by the storage."""

Files = Mapping[str, bytes]


@dataclass
class Repository:
    """Commits, the branches and tags that name them, and who may read the files (None: everybody)."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    readers: set[str] | None = None


class Hub(ThreadingHTTPServer):
    """Serves repositories until closed; what a test does to it holds from the next request on.

    Attributes:
        tokens: The access tokens that it knows.
        down: A status to answer everything with, if not None.
        cut: Names of files whose content breaks off half way, always.
        short: Names of files whose content is half as long as their description says.
        on_download: Called with a file's name before its content is sent.
        requests: How many requests have come.
        downloads: How often the content of each file was sent, by name.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, Repository] = {}
        self.tokens: set[str] = set()
        self.down: HTTPStatus | None = None
        self.cut: set[str] = set()
        self.short: set[str] = set()
        self.on_download: Callable[[str], None] = lambda _: None
        self.requests = 0
        self.downloads: Counter[str] = Counter()
        self.stored: dict[str, tuple[str, bytes]] = {}  # sha256 -> name and content
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.storage_url = f"http://localhost:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def push(self, repository: str, files: Files, ref: str = "main") -> str:
        """Commit a whole tree and point a branch or tag at it; returns the commit."""
        tree = {name: _sha256(content) for name, content in sorted(files.items())}
        commit = hashlib.sha1(json.dumps(tree).encode()).hexdigest()
        place = self.repositories.setdefault(repository, Repository())
        place.commits[commit] = dict(files)
        place.refs[ref] = commit
        self.stored |= {key: (name, files[name]) for name, key in tree.items()}
        return commit

    def close(self) -> None:
        """Stop serving; from now on connections are refused."""
        self.shutdown()
        self.server_close()


class _RefusedError(Exception):
    """An answer that is no success."""

    def __init__(self, status: HTTPStatus, code: str = "", message: str = "") -> None:
        self.status = status
        self.headers = {"X-Request-Id": "Root=1-2-3"}
        if code:
            self.headers["X-Error-Code"] = code
        if message:
            self.headers["X-Error-Message"] = message


class _Answer(BaseHTTPRequestHandler):
    """One request; the connection ends with it."""

    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests += 1
        try:
            self._route()
        except _RefusedError as refused:
            self._send(refused.status, refused.headers)
        except ConnectionError:
            pass  # the client has gone away

    def _route(self) -> None:
        if self.server.down is not None:
            raise _RefusedError(self.server.down)
        match [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]:
            case ["api", "models", owner, name, "revision", revision]:
                commit, files = self._find(f"{owner}/{name}", revision)
                siblings = [{"rfilename": file} for file in files]
                self._send_json({"id": f"{owner}/{name}", "sha": commit, "siblings": siblings})
            case ["api", "models", owner, name, "tree", revision]:
                _, files = self._find(f"{owner}/{name}", revision)
                self._send_json([_describe(file, content) for file, content in files.items()])
            case [owner, name, "resolve", revision, *path]:
                self._resolve(f"{owner}/{name}", revision, "/".join(path))
            case ["storage", key] if "Authorization" not in self.headers:
                name, content = self.server.stored[key]
                self._send_content(name, content, {"Content-Disposition": f'inline; filename="{name}";'})
            case _:
                raise _RefusedError(HTTPStatus.NOT_FOUND)

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token is not None and token not in self.server.tokens:
            raise _RefusedError(HTTPStatus.UNAUTHORIZED, message="Invalid credentials in Authorization header")
        return token

    def _find(self, repository: str, revision: str) -> tuple[str, Files]:
        token = self._token()
        if repository not in self.server.repositories:
            unknown = HTTPStatus.UNAUTHORIZED if token is None else HTTPStatus.NOT_FOUND
            raise _RefusedError(unknown, "RepoNotFound", "Repository not found")
        found = self.server.repositories[repository]
        commit = found.refs.get(revision, revision)
        if commit not in found.commits:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, found.commits[commit]

    def _resolve(self, repository: str, revision: str, path: str) -> None:
        commit, files = self._find(repository, revision)
        readers = self.server.repositories[repository].readers
        token = self._token()
        if readers is not None and token not in readers:
            closed = HTTPStatus.UNAUTHORIZED if token is None else HTTPStatus.FORBIDDEN
            raise _RefusedError(closed, "GatedRepo", f"Access to model {repository} is restricted.")
        if path not in files:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        content = files[path]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_git_id(content)}"'}
        if not path.endswith(LFS):
            self._send_content(path, content, headers)
            return
        headers["X-Linked-Etag"] = f'"{_sha256(content)}"'
        headers["X-Linked-Size"] = str(len(content))
        headers["Location"] = f"{self.server.storage_url}/storage/{_sha256(content)}"
        self._send(HTTPStatus.FOUND, headers)

    def _send_content(self, name: str, content: bytes, headers: Mapping[str, str]) -> None:
        if self.command == "HEAD":
            self._send(HTTPStatus.OK, headers, content)
            return
        self.server.on_download(name)
        with self.server.lock:
            self.server.downloads[name] += 1
        half = content[: len(content) // 2]
        if name in self.server.short:
            self._send(HTTPStatus.OK, headers, half)
        elif name in self.server.cut:
            self._send(HTTPStatus.OK, {**headers, "Content-Length": str(len(content))}, half)
        else:
            self._send(HTTPStatus.OK, headers, content)

    def _send_json(self, value: object) -> None:
        self._send(HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: HTTPStatus, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: stderr belongs to the tests."""


def _describe(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": _git_id(content)}
    if path.endswith(LFS):
        entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return entry


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
