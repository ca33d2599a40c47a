"""A local endpoint that behaves like the Hugging Face hub, as far as files of repositories are concerned."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_aSecretOfTheUserThatNobodyMaySee"
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the endpoint holds, and what it was asked.

    Attributes:
        address: its address.
        repositories: content of each file, by repository; those of data sets are named datasets/OWNER/NAME.
        sent: bytes of files that were sent.
        private: the private repositories.
        asked: method and path of each request.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    sent: int = 0

    def environment(self, home: Any, *, token: str | None = TOKEN) -> dict[str, str]:
        """Variables for a process that uses this hub, with a cache in the folder ``home``."""
        variables = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
        return variables | ({"HF_TOKEN": token} if token else {})


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a hub without repositories on a free port."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        """Create a repository, say how files are uploaded, and take a commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"POST {self.path}")
        if match := re.fullmatch(r"/api/(datasets/.+?/.+?)/paths-info/[^/]+", self.path):
            wanted = json.loads(body)["paths"]
            self._json([entry for entry in self._tree(match[1]) if entry["path"] in wanted])
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'jane'}/{asked['name']}"
            self.hub.repositories.setdefault(name, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.hub.private.add(name)
            self._json({"url": f"{self.hub.address}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+?/.+?)/preupload/main", self.path):
            files = json.loads(body)["files"]
            self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
                    ]
                }
            )
        elif match := re.fullmatch(r"/api/models/(.+?/.+?)/commit/main", self.path):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.hub.repositories[match[1]][entry["value"]["path"]] = content
            url = f"{self.hub.address}/{match[1]}/commit/{REVISION}"
            self._json({"success": True, "commitOid": REVISION, "commitUrl": url, "hookOutput": ""})
        else:
            self._json({"error": "unknown"}, 404)

    def do_HEAD(self) -> None:
        """Say which version of a file there is."""
        self.do_GET()

    def do_GET(self) -> None:
        """List the files of a repository, or send one."""
        self.hub.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if match := re.match(r"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)(?:/revision/[^/]+)?$", path):
            files = self.hub.repositories.get(match[1])
            if files is None:
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                return
            listed = [{"rfilename": name} for name in files]
            name = match[1].removeprefix("datasets/")
            self._json({"id": name, "modelId": name, "sha": REVISION, "siblings": listed})
        elif match := re.match(r"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)/tree/[^/]+", path):
            self._json(self._tree(match[1]))
        elif match := re.match(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/[^/]+/(.+)$", path):
            self._file(self.hub.repositories.get(match[1], {}).get(match[2]))
        else:
            self._json({"error": "unknown"}, 404)

    def _tree(self, repository: str) -> list[dict[str, Any]]:
        files = self.hub.repositories.get(repository, {}).items()
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in files
        ]

    def _file(self, content: bytes | None) -> None:
        if content is None:
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": REVISION}
        status = 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[first : last + 1], 206
        if self.command == "GET":
            self.hub.sent += len(content)
        self._send(content, status, headers, "application/octet-stream")

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), status, headers or {}, "application/json")

    def _send(self, content: bytes, status: int, headers: dict[str, str], kind: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
