"""A hub on 127.0.0.1: the few endpoints that fetching a model at a revision needs, for one model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Hub:
    """`asked` lists the files whose contents were requested; `authorizations` the tokens that were sent."""

    def __init__(self, folder: Path, identifier: str, revision: str) -> None:
        self.asked: list[str] = []
        self.authorizations: list[str] = []
        self.url = ""
        hub, files = self, {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Silent."""

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, *, with_body: bool) -> None:
                if token := self.headers.get("Authorization"):
                    hub.authorizations.append(token)
                path = unquote(urlsplit(self.path).path)
                resolved = f"/{identifier}/resolve/{revision}/"
                if path == f"/api/models/{identifier}/revision/{revision}":
                    siblings = [{"rfilename": name} for name in sorted(files)]
                    self._send(json.dumps({"id": identifier, "sha": revision, "siblings": siblings}).encode(), with_body)
                elif path.startswith(resolved) and path.removeprefix(resolved) in files:
                    name = path.removeprefix(resolved)
                    if with_body:
                        hub.asked.append(name)
                    self._send(files[name].read_bytes(), with_body)
                else:
                    code = "RevisionNotFound" if path.startswith(f"/api/models/{identifier}/") else "RepoNotFound"
                    self._send(b"{}", with_body, status=404, code=code)

            def _send(self, body: bytes, with_body: bool, *, status: int = 200, code: str | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/json")
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.send_header("X-Repo-Commit", revision)
                if code is not None:
                    self.send_header("X-Error-Code", code)
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()
