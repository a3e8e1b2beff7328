"""A Hugging Face Hub on loopback for the real client: models, datasets, buckets, gated files, byte ranges, pushes.

The name of a dataset is ``datasets/OWNER/NAME``, of a bucket ``buckets/OWNER/NAME``. Pushed files are stored in
commits, not by LFS or Xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from huggingface_hub import constants
from support.servers.hub_buckets import answer_bucket

TOKEN = "hf_test_token"
# Entries in one response of a listing.
PAGE_SIZE = 3


@dataclass
class Repository:
    """Files by commit, and commits by branch or tag.

    ``gate``: "" is public; without ``TOKEN``, the files of "closed" can't be read, and "hidden" does not exist.
    """

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gate: str = ""


@dataclass
class Hub:
    """The repositories of the server, and the requests that it received.

    ``lost``: how many commits are refused, after ``kept_commits`` more are stored; with ``held``, they have no answer,
    and the event is set.
    ``cut``: by file, the number of bytes after which each of its next transfers is broken off. ``failing``: if not 0,
    the status of every response. ``seen``: method, path and Range header of each request.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    failing: int = 0
    kept_commits: int = 1 << 30
    lost: int = 0
    held: threading.Event | None = None
    url: str = ""

    def add(self, name, files, *refs, gate=""):
        """Add a commit of ``files`` to a repository, with ``refs`` (branches or tags) on it. Return its hash."""
        commit = hashlib.sha1(name.encode() + b"".join(key.encode() + files[key] for key in sorted(files))).hexdigest()
        repository = self.repositories.setdefault(name, Repository({}, {}, gate))
        repository.commits[commit] = files
        repository.refs |= dict.fromkeys(refs or ("main",), commit)
        return commit

    def fetched(self, file):
        """Return the Range headers of all GET requests for a file."""
        return [part for method, path, part in self.seen if method == "GET" and path.endswith(f"/{file}")]

    @contextmanager
    def serving(self, monkeypatch, cache):
        """Run the server within this block for the client of this process, whose cache folder is ``cache``."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        point_client_at(monkeypatch, self.url, cache)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def point_client_at(monkeypatch, url, cache):
    """Set the client's hub and cache folder, as HF_ENDPOINT and HF_HUB_CACHE do when a process starts."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    # Shorten the delays of its retries (1, 2, 4 seconds), and the chunks of which it keeps the complete ones.
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.01)))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def do_POST(self):
            self.answer()

        def answer(self):
            length = int(self.headers.get("Content-Length") or 0)
            self.body = self.rfile.read(length)
            parts = urlsplit(self.path)
            hub.seen.append((self.command, unquote(parts.path), self.headers.get("Range")))
            if hub.failing:
                return self.send(hub.failing, b"", {})
            if parts.path == "/api/repos/create":
                return self.create(**json.loads(self.body))
            if parts.path == "/api/validate-yaml":
                return self.send_json({"errors": [], "warnings": []})
            # Only a slash that is no part of a name is not encoded.
            name = r"(?:models/)?((?:datasets/)?[^/]+/[^/]+)"
            for action, form in (
                (self.bucket, r"/(?:api/)?(buckets/[^/]+/[^/]+)(?:/(tree|paths-info|resolve))?(?:/(.+))?"),
                (self.post, rf"/api/{name}/(paths-info|preupload|commit)/([^/]+)"),
                (self.tree, rf"/api/{name}/tree/([^/]+)(?:/(.+))?"),
                (self.info, rf"/api/{name}(?:/revision/([^/]+))?(?:/.*)?"),
                (self.file, rf"/{name}/resolve/([^/]+)/(.+)"),
            ):
                if match := re.fullmatch(form, parts.path):
                    return action(*(unquote(each) if each else each for each in match.groups()))
            return self.send(404, b"{}", {})

        def find(self, name, revision, content):
            """Return the commit, or None if an error response was sent."""
            token = self.headers.get("Authorization")
            hub.tokens.add(token)
            authorized, repository = token == f"Bearer {TOKEN}", hub.repositories.get(name)
            if repository is None or (repository.gate == "hidden" and not authorized):
                # Without a token, the real hub answers 401 for a repository that does not exist.
                return self.refuse(404 if authorized else 401, "RepoNotFound")
            if repository.gate == "closed" and content and not authorized:
                return self.refuse(401, "GatedRepo")
            commit = repository.refs.get(revision, revision)
            if commit not in repository.commits:
                return self.refuse(404, "RevisionNotFound")
            return commit

        def bucket(self, name, action=None, path=None):
            if self.find(name, "main", content=bool(action)) is not None:
                answer_bucket(self, hub.repositories[name].commits[hub.repositories[name].refs["main"]], action, path)

        def info(self, name, revision=None):
            commit = self.find(name, revision or "main", content=self.path.endswith("/auth-check"))
            if commit is None:
                return
            names = [{"rfilename": each} for each in hub.repositories[name].commits[commit]]
            found = {"id": name.removeprefix("datasets/"), "modelId": name, "sha": commit, "siblings": names}
            self.send_json(
                found
                | {
                    "private": hub.repositories[name].gate == "hidden",
                    "gated": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                }
            )

        def tree(self, name, revision, folder):
            commit = self.find(name, revision, content=False)
            if commit is None:
                return
            files = hub.repositories[name].commits[commit]
            start, found = f"{folder}/" if folder else "", {}
            for path in (each for each in files if each.startswith(start)):
                child = path[len(start) :].partition("/")[0]
                if "/" in path[len(start) :]:
                    found[start + child] = {"type": "directory", "path": start + child, "size": 0, "oid": "0" * 40}
                if "/" not in path[len(start) :] or "recursive=True" in self.path or "recursive=true" in self.path:
                    found[path] = _listed(path, files[path])
            if folder and not found:
                return self.refuse(404, "EntryNotFound", commit)
            # In pages, each with a link to the next one.
            entries, query = list(found.values()), parse_qs(urlsplit(self.path).query)
            at = int(query.pop("cursor", ["0"])[0])
            url = f"{hub.url}{urlsplit(self.path).path}?{urlencode(query | {'cursor': at + PAGE_SIZE}, doseq=True)}"
            link = {"Link": f'<{url}>; rel="next"'} if at + PAGE_SIZE < len(entries) else {}
            self.send_json(entries[at : at + PAGE_SIZE], link)

        def create(self, name, organization=None, visibility="public", **_):
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.refuse(401, "")
            name = f"datasets/{organization or 'me'}/{name}"
            there = name in hub.repositories
            if not there:
                hub.add(name, {".gitattributes": b""}, gate="hidden" * (visibility == "private"))
            made = {"url": f"{hub.url}/{name}", "name": name, "id": name}
            self.send_json(made, status=409 if there else 200)

        def post(self, name, action, revision):
            commit = self.find(name, revision, content=True)
            if commit is None:
                return
            files = hub.repositories[name].commits[commit]
            if action == "paths-info":
                paths = parse_qs(self.body.decode())["paths"]
                return self.send_json([_listed(path, files[path]) for path in paths if path in files])
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.refuse(403, "")
            if action == "preupload":
                asked = [each["path"] for each in json.loads(self.body)["files"]]
                known = [{"oid": _listed(path, files[path])["oid"]} if path in files else {} for path in asked]
                modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
                return self.send_json({"files": [mode | each for mode, each in zip(modes, known, strict=True)]})
            if hub.kept_commits == 0 and hub.lost:
                hub.lost -= 1
                return self.refuse(403, "")
            if hub.kept_commits == 0 and hub.held:
                hub.held.set()
                self.close_connection = True
                # Until the client is killed: it sends nothing more, and its end of the connection closes.
                return self.rfile.read(1)
            hub.kept_commits -= 1
            self.commit(name, revision, dict(files))

        def commit(self, name, revision, files):
            for line in map(json.loads, self.body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del files[line["value"]["path"]]
            commit = hub.add(name, files, revision)
            self.send_json({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})

        def file(self, name, revision, path):
            commit = self.find(name, revision, content=True)
            if commit is None:
                return
            data = hub.repositories[name].commits[commit].get(path)
            if data is None:
                return self.refuse(404, "EntryNotFound", commit)
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_sha(data)}"', "Accept-Ranges": "bytes"}
            if _is_large(path):
                headers |= {"X-Linked-ETag": f'"{_sha(data)}"', "X-Linked-Size": str(len(data))}
            self.send_part(path, data, headers)

        def send_part(self, path, data, headers):
            """Send a file, or the part of it that the header Range names."""
            status, body = 200, data
            if part := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                start, end = int(part[1]), min(int(part[2] or len(data)), len(data) - 1)
                if start >= len(data):
                    return self.send(416, b"", headers)
                status, body = 206, data[start : end + 1]
                headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            cuts = hub.cut.get(path)
            self.send(status, body, headers, cuts.pop(0) if cuts and self.command == "GET" else None)

        def refuse(self, status, code, commit=None):
            headers = {"X-Error-Code": code, "X-Error-Message": code}
            self.send(status, b"{}", headers | ({"X-Repo-Commit": commit} if commit else {}))

        def send_json(self, value, headers=None, status=200):
            self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | (headers or {}))

        def send(self, status, body, headers, cut=None):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[:cut])
            if cut is not None:
                self.close_connection = True

    return Handler


def _listed(path, data):
    # git's name of a blob.
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    large = {"lfs": {"oid": _sha(data), "size": len(data), "pointerSize": 134}} if _is_large(path) else {}
    return {"type": "file", "path": path, "size": len(data), "oid": oid} | large


def _sha(data):
    return hashlib.sha256(data).hexdigest()


def _is_large(path):
    return path.endswith(".safetensors")
