"""A Hugging Face hub on the loopback address, of folders: what a download asks one for, and no more.

Each repository has one commit and the branch `main`. A file is served in ranges; a gated one asks for the token; and a
transfer can be made to break off, as a busy network does.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """A folder as `models/owner/name` or `datasets/owner/name`."""

    folder: Path
    commit: str
    gated: bool = False
    breaks_at: dict[str, int] = field(default_factory=dict)
    """Bytes after which a transfer of a file ends too early, by its path; asked for the rest, it ends at once."""

    @property
    def files(self) -> dict[str, Path]:
        return {file.relative_to(self.folder).as_posix(): file for file in self.folder.rglob("*") if file.is_file()}


@dataclass
class Hub:
    """`asked` has a line of each request: method and path."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def publish(self, name: str, folder: Path, *, commit: str = "", gated: bool = False) -> Repository:
        commit = commit or hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
        self.repositories[name] = Repository(folder, commit, gated)
        return self.repositories[name]

    def environment(self, home: Path) -> dict[str, str]:
        """Variables for a process that is to ask this hub, with nothing in its cache but what is in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve a hub in a thread of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    hub = server.hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status: int, code: str):
        super().__init__(code)
        self.status, self.code = status, code


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None: ...

    def _answer(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path).strip("/")
        hub.asked.append(f"{self.command} {path}")
        try:
            if path.startswith("api/"):
                self._api(hub, path.removeprefix("api/"))
            else:
                self._resolve(hub, path if path.startswith("datasets/") else f"models/{path}")
        except _Refused as refused:
            self._send(refused.status, b"{}", {"X-Error-Code": refused.code, "X-Error-Message": refused.code})

    def _find(self, hub: Hub, path: str) -> tuple[Repository, str, list[str]]:
        """The repository, its name, and the parts of the path behind it."""
        kind, owner, name, *rest = [*path.split("/"), "", ""]
        repository = hub.repositories.get(f"{kind}/{owner}/{name}")
        if repository is None:
            raise _Refused(401 if "Authorization" not in self.headers else 404, "RepoNotFound")
        return repository, f"{owner}/{name}", [part for part in rest if part]

    def _api(self, hub: Hub, path: str) -> None:
        repository, name, rest = self._find(hub, path)
        what, revision, *below = rest or ["revision", "main"]
        self._require(repository, revision)
        files = repository.files
        if what == "tree":
            self._json([_entry(name, file) for name, file in files.items() if name.startswith("/".join(below))])
        elif what == "revision":
            siblings = [{"rfilename": name} for name in files]
            about = {"id": name, "sha": repository.commit, "private": False, "gated": repository.gated}
            self._json(about | {"tags": [], "downloads": 0, "siblings": siblings})
        else:
            raise _Refused(404, "EntryNotFound")

    def _resolve(self, hub: Hub, path: str) -> None:
        repository, _, rest = self._find(hub, path)
        if len(rest) < 3 or rest[0] != "resolve":
            raise _Refused(404, "EntryNotFound")
        self._require(repository, rest[1])
        name = "/".join(rest[2:])
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise _Refused(403 if "Authorization" in self.headers else 401, "GatedRepo")
        if name not in repository.files:
            raise _Refused(404, "EntryNotFound")
        content = repository.files[name].read_bytes()
        headers = {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        last = repository.breaks_at.get(name)
        self._send(206 if first else 200, content[first:], headers, only=None if last is None else max(0, last - first))

    def _require(self, repository: Repository, revision: str) -> None:
        if revision not in (repository.commit, "main"):
            raise _Refused(404, "RevisionNotFound")

    def _json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], only: int | None = None) -> None:
        self.send_response(status)
        for name, value in (*headers.items(), ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:only])
            if only is not None and only < len(content):
                self.close_connection = True


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _entry(name: str, file: Path) -> dict[str, object]:
    content = file.read_bytes()
    return {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
