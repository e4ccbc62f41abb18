"""A stand-in for the Hub's HTTP API: what `huggingface_hub` 2.x calls to create, commit, list and download, with LFS.

Repositories live in memory. Every request is logged. Faults are set by the test: a status for paths that match, or a
connection that is cut in the middle of an answer.
"""

import base64
import hashlib
import json
import os
import re
import site
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_a_token_that_may_write"  # not a secret: this server's own
HIDDEN = ("anople_hf", "peft", "accelerate", "datasets", "matplotlib")  # what transformers itself does not bring
READ_ONLY = "hf_a_token_that_may_read"


class Repository:
    """Commits as whole trees, path to bytes."""

    def __init__(self, private=False, gated=False):
        self.private, self.gated = private, gated
        self.commits, self.refs, self.messages, self.lfs = {}, {}, {}, set()
        self.refs["main"] = self.add({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def add(self, tree, message):
        oid = hashlib.sha1(f"{len(self.commits)}{message}{sorted(tree)}".encode()).hexdigest()
        self.commits[oid], self.messages[oid] = tree, message
        return oid

    def resolve(self, revision):
        return revision if revision in self.commits else self.refs.get(revision)


class HubServer:
    """`with HubServer() as hub:` listens on `hub.url`."""

    def __init__(self):
        self.repositories, self.blobs, self.log, self.faults = {}, {}, [], []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.cdn = self.url.replace(
            "127.0.0.1", "localhost"
        )  # another host, as with the real one: no token goes there

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo_id, revision="main"):
        repository = self.repositories[repo_id]
        return repository.commits[repository.resolve(revision)]

    def fail(self, method, pattern, status=None, *, cut=False, times=1000, headers=None):
        """Answer matching requests with `status`, or send half of the answer and hang up."""
        self.faults.append(
            {
                "method": method,
                "pattern": pattern,
                "status": status,
                "cut": cut,
                "times": times,
                "headers": headers or {},
            }
        )

    def requests(self, method, pattern):
        return [path for m, path in self.log if m == method and re.search(pattern, path)]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):  # noqa: N802
        self._route()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    # -- routing ------------------------------------------------------------------------------------------------

    def _route(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.log.append((self.command, path))
        self.cut = False
        for fault in self.hub.faults:
            if fault["times"] and self.command in fault["method"].split("|") and re.search(fault["pattern"], path):
                fault["times"] -= 1
                if fault["cut"]:
                    self.cut = True
                    break
                return self._send(fault["status"], {"error": "as asked"}, fault["headers"])
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/validate-yaml":
            return self._validate()
        if match := re.fullmatch(r"/(?:cdn|lfs)/([0-9a-f]{64})", path):
            return self._blob(match[1])
        if match := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/(.+))?)?", path):
            return self._api(match[1], match[2], match[3])
        if match := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return self._batch(match[1])
        if match := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            return self._resolve(match[1], match[2], match[3])
        return self._send(404, {"error": f"no route {self.command} {path}"})

    def _send(self, status, content=b"", headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)

    def _error(self, status, code, message):
        self._send(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _may_write(self):
        if not self._token():
            self._send(401, {"error": "Unauthorized"}, {"X-Error-Message": "Invalid username or password."})
            return False
        if self._token() != TOKEN:
            self._error(403, "Forbidden", "You don't have the rights to create a model under this namespace")
            return False
        return True

    def _readable(self, repo_id):
        """The repository, or None once an error was sent; the Hub hides private repositories behind a 401."""
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and self._token() not in (TOKEN, READ_ONLY)):
            self._error(404 if self._token() else 401, "RepoNotFound", "Repository not found")
            return None
        return repository

    # -- writing ------------------------------------------------------------------------------------------------

    def _create(self):
        if not self._may_write():
            return
        request = json.loads(self.body)
        repo_id = f"{request['organization'] or 'me'}/{request['name']}"
        url = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repositories:
            return self._send(409, {"error": "You already created this model repo", **url})
        self.hub.repositories[repo_id] = Repository(private=request.get("visibility") == "private")
        self._send(200, url)

    def _validate(self):
        content = json.loads(self.body)["content"]
        block = re.match(r"---\n(.*?)\n---\n", content, flags=re.DOTALL)
        errors = []
        if block:
            try:
                data = yaml.safe_load(block[1])
                if "license" in data and not isinstance(data["license"], str):
                    errors.append({"message": '"license" must be a string'})
            except yaml.YAMLError as error:
                errors.append({"message": str(error)})
        warnings = [] if block else [{"message": "empty or missing yaml metadata in repo card"}]
        self._send(400 if errors else 200, {"errors": errors, "warnings": warnings})

    def _batch(self, repo_id):
        if not self._may_write():
            return
        objects = []
        for item in json.loads(self.body)["objects"]:
            entry = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _blob(self, oid):
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != oid:
                return self._send(422, {"error": "checksum"})
            self.hub.blobs[oid] = self.body
            return self._send(200, b"")
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        content = self.hub.blobs[oid][int(start[1]) if start else 0 :]
        self._send(206 if start else 200, content, {"ETag": f'"{oid}"'})

    def _commit(self, repo_id, revision):
        repository = self.hub.repositories[repo_id]
        tree = dict(repository.commits[repository.resolve(revision)])
        message = ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                tree[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                tree[value["path"]] = self.hub.blobs[value["oid"]]
                repository.lfs.add(value["path"])
            elif item["key"] == "deletedFile":
                del tree[value["path"]]
        oid = repository.add(tree, message)
        if "create_pr=1" in self.path:
            revision = f"refs/pr/{len(repository.refs)}"
        repository.refs[revision] = oid
        self._send(
            200,
            {
                "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}",
                "commitOid": oid,
                "pullRequestUrl": f"{self.hub.url}/{repo_id}/discussions/1",
            },
        )

    # -- reading ------------------------------------------------------------------------------------------------

    def _api(self, repo_id, verb, rest):
        repository = self._readable(repo_id)
        if repository is None:
            return
        if verb in ("preupload", "commit", "branch") and not self._may_write():
            return
        if verb == "branch":
            if rest in repository.refs:
                return self._send(409, {"error": "Reference already exists"})
            repository.refs[rest] = repository.refs["main"]
            return self._send(200, {})
        folder = None
        if verb == "tree":
            rest, folder = re.fullmatch(r"(refs/pr/\d+|[^/]+)(?:/(.+))?", rest).groups()
        oid = repository.resolve(rest or "main")
        if oid is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {rest}")
        if verb == "preupload":
            files = json.loads(self.body)["files"]
            return self._send(
                200,
                {
                    "files": [
                        {
                            "path": f["path"],
                            "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".parquet")) else "regular",
                            "shouldIgnore": False,
                        }
                        for f in files
                    ]
                },
            )
        if verb == "commit":
            return self._commit(repo_id, rest)
        tree = repository.commits[oid]
        if verb == "paths-info":
            wanted = (
                parse_qs(self.body.decode()).get("paths", []) if b"=" in self.body else json.loads(self.body)["paths"]
            )
            return self._send(200, [_entry(path, tree[path]) for path in wanted if path in tree])
        if verb == "tree":
            inside = {
                path: content for path, content in tree.items() if path.startswith(f"{folder}/" if folder else "")
            }
            if not inside:
                return self._error(404, "EntryNotFound", f"{folder} does not exist on {rest}")
            if "recursive=true" in self.path.lower():
                return self._send(200, [_entry(path, content) for path, content in inside.items()])
            start = len(folder) + 1 if folder else 0
            here = [_entry(path, content) for path, content in inside.items() if "/" not in path[start:]]
            names = sorted({path[: path.index("/", start)] for path in inside if "/" in path[start:]})
            folders = [{"type": "directory", "path": name, "size": 0, "oid": _sha(name.encode())} for name in names]
            return self._send(200, here + folders)
        if verb in (None, "revision"):
            about = {"id": repo_id, "sha": oid, "private": repository.private, "gated": repository.gated, "tags": []}
            return self._send(200, about | {"siblings": [{"rfilename": path} for path in tree]})
        return self._send(404, {"error": f"no route {verb}"})

    def _resolve(self, repo_id, revision, path):
        repository = self._readable(repo_id)
        if repository is None:
            return
        if repository.gated and self._token() != TOKEN:
            return self._error(403, "GatedRepo", f"Access to model {repo_id} is restricted")
        oid = repository.resolve(revision)
        if oid is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = repository.commits[oid].get(path)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid})
        headers = {"X-Repo-Commit": oid, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if path not in repository.lfs:
            return self._send(200, content, headers | {"Content-Length": str(len(content))})
        blob = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Etag": f'"{blob}"', "X-Linked-Size": str(len(content))}
        self._send(302, b"", headers | linked | {"Location": f"{self.hub.cdn}/cdn/{blob}"})


def _entry(path, content):
    return {"type": "file", "path": path, "size": len(content), "oid": _sha(content)}


def _sha(content):
    return hashlib.sha1(content).hexdigest()


def start(code, hub, tmp_path, *, installed=True, **variables):
    """A fresh Python that knows nothing of this one but the Hub's address."""
    home = tmp_path / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHON"))}
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
        **variables,
    }
    command = [sys.executable, "-c", code]
    if installed:
        environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")
    else:  # -S reads no .pth file, so that an editable install is not found; a real one is hidden
        environment["PYTHONPATH"] = os.pathsep.join(site.getsitepackages())
        hide = f"import sys; sys.modules.update(dict.fromkeys({HIDDEN}))\n"
        command = [sys.executable, "-S", "-c", hide + code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
