#!/usr/bin/env python3
"""scripts/fetch-data against a hub on the loopback interface that lists, redirects and states digests as the public one does, and that
can cut connections, stall, lie about sizes and digests and forget how to resume. Run it with a Python that has huggingface_hub."""
import hashlib
import http.server
import importlib.util
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
FETCH_DATA = os.path.join(ROOT, "scripts/fetch-data")
SP1024 = "willdepueoai/parameter-golf"
CASE_OPS = "romeerp/parameter-golf-caseops-v1"
CASE_OPS_NAME = "fineweb10B_sp8192_lossless_caps_caseops_v1_reserved"
DATA_SET = "datasets/fineweb10B_sp1024"  # below the local folder; REMOTE in the repository
REMOTE = "datasets/" + DATA_SET
TOKENIZER_NAME = "datasets/tokenizers/fineweb_1024_bpe.model"
TOKENIZER = b"a stand-in for the tokenizer"


def shard(tokens, first=0):
    return struct.pack("<256i", 20240520, 1, tokens, *[0] * 253) + struct.pack(
        f"<{tokens}H", *((first + i) % 1024 for i in range(tokens)))


class Hub(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repository = SP1024
        self.files = {TOKENIZER_NAME: TOKENIZER, "datasets/datasets/another/fineweb_val_000000.bin": shard(10)}
        for split, count in (("train", 3), ("val", 2)):
            for i in range(count):
                self.files[f"{REMOTE}/fineweb_{split}_{i:06}.bin"] = shard(50000 + 1000 * i, 7 * i)
        self.stated = {}     # path: a SHA-256 that is not true
        self.log = []        # (method, path, Range) of every request to the store behind the redirects
        self.cut = {}        # path: bytes after which the connection is lost, each used once
        self.announced = {}  # path: a Content-Length that is not true
        self.stall = {}      # path: seconds before the first byte, each used once
        self.failures = {}   # path: HTTP statuses to answer with first
        self.resumes = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def digest(self, path):
        return self.stated.get(path) or hashlib.sha256(self.files[path]).hexdigest()

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the play


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub, path = self.server, urllib.parse.unquote(self.path)
        if path.startswith("/store/"):
            self.send(path.removeprefix("/store/"))
            return
        tree = f"/api/datasets/{hub.repository}/tree/main/"
        resolve = f"/datasets/{hub.repository}/resolve/main/"
        if path.startswith(tree):
            folder = path.removeprefix(tree).split("?")[0]
            hub.log.append((self.command, path, None))
            body = json.dumps([{"type": "file", "oid": "0" * 40, "size": len(data), "path": name,
                                "lfs": {"oid": hub.digest(name), "size": len(data), "pointerSize": 130}}
                               for name, data in sorted(hub.files.items()) if os.path.dirname(name) == folder]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif path.startswith(resolve) and path.removeprefix(resolve) in hub.files:
            name = path.removeprefix(resolve)
            hub.log.append((self.command, name, None))
            self.send_response(302)
            self.send_header("Location", f"{hub.url}/store/{name}")
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("X-Linked-Etag", f'"{hub.digest(name)}"')
            self.send_header("X-Linked-Size", str(hub.announced.get(name, len(hub.files[name]))))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            hub.log.append((self.command, path, None))
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def send(self, path):
        """The store behind the redirects."""
        hub, wanted = self.server, self.headers.get("Range")
        download = self.command == "GET"
        hub.log.append((self.command, path, (wanted or "bytes=0-") if download else None))
        if download and hub.failures.get(path):
            self.send_error(hub.failures[path].pop(0))
            return
        data = hub.files[path]
        partial = wanted is not None and hub.resumes
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if partial else 0
        size = hub.announced.get(path, len(data))
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("X-Repo-Commit", "c" * 40)  # the library follows the redirect, which leads to the same host
        self.send_header("ETag", f'"{hub.digest(path)}"')
        self.end_headers()
        if not download:
            return
        time.sleep(hub.stall.pop(path, 0))
        limit = hub.cut[path].pop(0) if hub.cut.get(path) else len(data)
        self.wfile.write(data[start:start + limit])
        if start + limit < len(data) or size != len(data):
            self.close_connection = True

    def log_message(self, *_):
        pass


class FetchDataTest(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        threading.Thread(target=self.hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = os.path.join(self.scratch.name, "data")
        self.cache = os.path.join(self.scratch.name, "cache")
        self.shards = os.path.join(self.folder, DATA_SET)
        # The program knows the published tokenizer's digest; this copy knows the stand-in's.
        self.program = os.path.join(self.scratch.name, "fetch-data")
        with open(FETCH_DATA, encoding="utf-8") as source, open(self.program, "w", encoding="utf-8") as copy:
            text, count = re.subn(r'"[0-9a-f]{64}"', f'"{hashlib.sha256(TOKENIZER).hexdigest()}"', source.read())
            self.assertEqual(count, 2)
            copy.write(text)

    def tearDown(self):
        self.hub.shutdown()
        self.hub.server_close()
        self.scratch.cleanup()

    def fetch(self, *options, program=None, status=0, hub=None, env=None, **kwargs):
        """Runs it; returns its result, or its last line of standard error where another status is expected."""
        done = subprocess.run([sys.executable, program or self.program, "--hub", hub or self.hub.url, "--timeout", "60", "--retries", "1",
                               *options, self.folder], capture_output=True, text=True, timeout=600, check=False,
                              env={"PATH": os.environ["PATH"], "NO_PROXY": "*", "HF_HOME": self.cache, **(env or {})}, **kwargs)
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout) if status == 0 else done.stderr.strip().splitlines()[-1]

    def path(self, name):
        return os.path.join(self.shards, name)

    def requests(self, path):
        return [range_ for method, asked, range_ in self.hub.log if asked == path and range_]

    def check_everything(self, train=3):
        names = [f"fineweb_train_{i:06}.bin" for i in range(train)] + [f"fineweb_val_{i:06}.bin" for i in range(2)]
        self.assertEqual(sorted(os.listdir(self.shards)), sorted([*names, "manifest.json"]))
        self.assertEqual(os.listdir(os.path.join(self.folder, "tokenizers")), ["fineweb_1024_bpe.model"])
        for name in names:
            with open(self.path(name), "rb") as file:
                self.assertEqual(file.read(), self.hub.files[f"{REMOTE}/{name}"], name)

    def test_fetches_all_and_then_nothing(self):
        result = self.fetch("--shards", "3")
        self.check_everything()
        size = sum(len(data) for path, data in self.hub.files.items() if "another" not in path)
        self.assertEqual(result, {"tool": "fetch-data", "data_path": self.shards,
                                  "tokenizer_path": os.path.join(self.folder, "tokenizers/fineweb_1024_bpe.model"),
                                  "train_shards": 3, "train_tokens": 153000, "val_shards": 2, "val_tokens": 101000,
                                  "byte_sidecar": False, "downloaded_bytes": size})
        with open(self.path("manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        self.assertEqual(manifest["format"], 2)
        val = manifest["splits"]["val"]
        digests = [hashlib.sha256(self.hub.files[f"{REMOTE}/fineweb_val_{i:06}.bin"]).hexdigest() for i in range(2)]
        self.assertEqual(val, {"tokens": 101000, "tokenizer_sha256": hashlib.sha256(TOKENIZER).hexdigest(),
                               "identity": hashlib.sha256("".join(d + "\n" for d in digests).encode()).hexdigest(),
                               "files": [{"name": f"fineweb_val_{i:06}.bin", "tokens": 50000 + 1000 * i,
                                          "bytes": 1024 + 2 * (50000 + 1000 * i), "sha256": digests[i]} for i in range(2)]})
        self.hub.log.clear()
        self.assertEqual(self.fetch("--shards", "3")["downloaded_bytes"], 0)
        self.assertEqual(self.hub.log, [], "the hub is not even asked")

    def test_fetches_more_later(self):
        self.fetch("--shards", "1")
        self.check_everything(train=1)
        self.hub.log.clear()
        self.assertEqual(self.fetch("--shards", "2")["train_shards"], 2)
        self.check_everything(train=2)
        self.assertEqual([path for _, path, range_ in self.hub.log if range_], [f"{REMOTE}/fineweb_train_000001.bin"])
        self.assertEqual(self.fetch("--shards", "4", status=4),
                         f"fetch-data: {REMOTE}: offers 3 training shards, not 4: fineweb_train_000003.bin is missing")

    def test_knows_the_layout_of_caseops(self):
        self.hub.repository = CASE_OPS
        remote, model = f"datasets/datasets/{CASE_OPS_NAME}", "fineweb_8192_bpe_lossless_caps_caseops_v1_reserved.model"
        self.hub.files = {f"datasets/tokenizers/{model}": TOKENIZER, f"{remote}/fineweb_train_000000.bin": shard(3000),
                          f"{remote}/fineweb_val_000000.bin": shard(500), f"{remote}/fineweb_val_bytes_000000.bin": shard(500, 3)}
        result = self.fetch("--set", "CaseOps", "--shards", "1")
        folder = os.path.join(self.folder, "datasets", CASE_OPS_NAME)
        self.assertEqual(sorted(os.listdir(folder)), ["fineweb_train_000000.bin", "fineweb_val_000000.bin",
                                                      "fineweb_val_bytes_000000.bin", "manifest.json"])
        self.assertEqual(os.listdir(os.path.join(self.folder, "tokenizers")), [model])
        self.assertTrue(result["byte_sidecar"])
        self.assertEqual((result["val_shards"], result["val_tokens"]), (1, 500))
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            val = json.load(file)["splits"]["val"]
        self.assertEqual([file["name"] for file in val["files"]], ["fineweb_val_000000.bin"])
        self.assertEqual([file["name"] for file in val["byte_files"]], ["fineweb_val_bytes_000000.bin"])
        # The sidecar is checked and fetched again as shards are.
        os.remove(os.path.join(folder, "fineweb_val_bytes_000000.bin"))
        self.fetch("--shards", "1", env={"SET": "CaseOps"})
        self.assertIn("fineweb_val_bytes_000000.bin", os.listdir(folder))
        self.fetch("--set", "SP512", status=2)
        self.fetch(env={"SET": "SP512"}, status=2)

    def test_continues_within_a_call_after_lost_connections(self):
        path = f"{REMOTE}/fineweb_train_000000.bin"
        self.hub.cut[path] = [4096, 20480, 4097]
        result = self.fetch("--shards", "1")
        self.check_everything(train=1)
        self.assertEqual(self.requests(path), ["bytes=0-", "bytes=4096-", "bytes=24576-", "bytes=28672-"])
        self.assertEqual(result["downloaded_bytes"], sum(len(self.hub.files[name]) for name in (
            path, f"{REMOTE}/fineweb_val_000000.bin", f"{REMOTE}/fineweb_val_000001.bin", TOKENIZER_NAME)))

    def test_continues_in_the_next_call(self):
        path = f"{REMOTE}/fineweb_train_000000.bin"
        self.hub.cut[path] = [28672] + [0] * 5
        self.assertTrue(self.fetch("--shards", "1", status=3).startswith(f"fetch-data: {path}: {self.hub.url}: "))
        self.assertNotIn("fineweb_train_000000.bin", os.listdir(self.shards))
        self.hub.log.clear()
        self.assertEqual(self.fetch("--shards", "1")["downloaded_bytes"], 101024 - 28672)
        self.check_everything(train=1)
        self.assertEqual(self.requests(path), ["bytes=28672-"])

    def test_takes_what_is_in_the_cache_and_nothing_else_offline(self):
        for name in (TOKENIZER_NAME, f"{REMOTE}/fineweb_val_000000.bin", f"{REMOTE}/fineweb_train_000000.bin"):
            subprocess.run([sys.executable, "-c", "import sys, huggingface_hub; "
                            "huggingface_hub.hf_hub_download(*sys.argv[1:3], repo_type='dataset')", SP1024, name], check=True,
                           env={"PATH": os.environ["PATH"], "NO_PROXY": "*", "HF_HOME": self.cache, "HF_ENDPOINT": self.hub.url,
                                "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"})
        self.hub.log.clear()
        result = self.fetch("--shards", "1", env={"HF_HUB_OFFLINE": "1"})
        self.assertEqual(self.hub.log, [])
        self.assertEqual((result["val_shards"], result["train_shards"], result["downloaded_bytes"]), (1, 1, 0))
        message = self.fetch("--set", "SP8192", env={"HF_HUB_OFFLINE": "1"}, status=3)
        self.assertEqual(message, "fetch-data: datasets/tokenizers/fineweb_8192_bpe.model: is not in the hub's cache, and HF_HUB_OFFLINE is set "
                                  "(without a network: FAIRWAY_HUB=URL names a mirror, HF_HOME=DIR a filled cache; with a copy of the data "
                                  "elsewhere, give DATA_PATH=DIR TOKENIZER_PATH=FILE to make record)")
        message = self.fetch("--shards", "2", env={"HF_HUB_OFFLINE": "1"}, status=4)
        self.assertEqual(message, f"fetch-data: {REMOTE}: offers 1 training shards, not 2: fineweb_train_000001.bin is missing")
        # With a hub, only what the cache has not is fetched.
        self.assertEqual(self.fetch("--shards", "1")["downloaded_bytes"], 0)
        self.fetch("--shards", "2")
        self.check_everything(train=2)

    def test_tries_one_mirror_after_another(self):
        other = Hub()
        threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        lost = f"{REMOTE}/fineweb_train_000000.bin"
        data = self.hub.files.pop(lost)
        self.hub.files[f"{REMOTE}/fineweb_train_000000.bin.moved"] = data
        other.files = {lost: data}
        # The first mirror lists no such shard: the listing is its own.
        self.assertEqual(self.fetch("--shards", "1", hub=f"{self.hub.url},{other.url}", status=4),
                         f"fetch-data: {REMOTE}: offers 2 training shards, not 1: fineweb_train_000000.bin is missing")
        self.hub.files[lost] = data
        self.hub.failures[lost] = [503] * 9
        self.fetch("--shards", "1", hub=f"{self.hub.url},{other.url}")
        self.check_everything(train=1)
        other.shutdown()
        other.server_close()

    def test_checks_the_digest_that_the_hub_states(self):
        path = f"{REMOTE}/fineweb_val_000001.bin"
        self.hub.stated[path] = "a" * 64
        found = hashlib.sha256(self.hub.files[path]).hexdigest()
        self.assertEqual(self.fetch("--shards", "1", status=4),
                         f"fetch-data: {path}: is damaged: its SHA-256 is {found}, and the hub states {'a' * 64}")
        self.assertEqual(sorted(os.listdir(self.shards)), ["fineweb_val_000000.bin", "manifest.json"])

    def test_says_that_the_library_is_missing(self):
        message = self.fetch("--shards", "1", status=3, env={"PYTHONPATH": self.hide_the_library()})
        self.assertEqual(message, "fetch-data: huggingface_hub: is not installed here: make setup installs it; start this with .venv/bin/python")

    def hide_the_library(self):
        folder = os.path.join(self.scratch.name, "hidden")
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "huggingface_hub.py"), "w", encoding="utf-8") as file:
            file.write("raise ImportError\n")
        return folder

    def test_does_not_join_two_versions(self):
        path = f"{REMOTE}/fineweb_train_000000.bin"
        self.hub.cut[path] = [30000] + [0] * 6
        self.fetch("--shards", "1", status=3)
        self.hub.files[path] = shard(50000, first=99)
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_starts_again_where_the_hub_does_not_resume(self):
        path = f"{REMOTE}/fineweb_train_000000.bin"
        self.hub.resumes = False
        self.hub.cut[path] = [30000]
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_outlasts_a_stall_and_passing_failures(self):
        self.hub.stall[f"{REMOTE}/fineweb_val_000000.bin"] = 8  # against a limit of 5 s
        self.hub.failures[f"{REMOTE}/fineweb_train_000000.bin"] = [503, 502]
        self.fetch("--shards", "1", "--timeout", "5", "--retries", "2")
        self.check_everything(train=1)

    def test_gives_up_on_lasting_failures(self):
        path = f"{REMOTE}/fineweb_train_000000.bin"
        self.hub.failures[path] = [503] * 9
        self.assertEqual(self.fetch("--shards", "1", status=3), f"fetch-data: {path}: {self.hub.url}: answers 503")
        self.assertEqual(len(self.requests(path)), 2)
        del self.hub.failures[path]
        del self.hub.files[TOKENIZER_NAME]
        os.remove(os.path.join(self.folder, "tokenizers/fineweb_1024_bpe.model"))
        self.assertEqual(self.fetch("--shards", "1", status=3), f"fetch-data: {TOKENIZER_NAME}: {self.hub.url}: answers 404")
        self.hub.shutdown()
        self.hub.server_close()
        self.assertRegex(self.fetch("--shards", "1", status=3), f"fetch-data: {TOKENIZER_NAME}: {self.hub.url}: .*Connection refused \\(without a network: .*DATA_PATH=DIR ")

    def test_refuses_a_wrong_size(self):
        path = f"{REMOTE}/fineweb_train_000000.bin"
        # The hub is consistent, and the shard's own header is not.
        self.hub.files[path] = shard(50000)[:-2]
        self.assertEqual(self.fetch("--shards", "1", status=4),
                         f"fetch-data: {path}: is 101022 bytes long, but its header's 50000 tokens make 101024")
        self.hub.files[path] = b"<html>not found</html>"
        self.assertEqual(self.fetch("--shards", "1", status=4),
                         f"fetch-data: {path}: is 22 bytes long, shorter than the header of a token shard")
        self.hub.files[path] = b"x" * 2000
        self.assertRegex(self.fetch("--shards", "1", status=4), "is not a token shard: magic 2021161080, version 2021161080")
        # The hub announces more than it sends.
        self.hub.files[path] = shard(50000)
        self.hub.announced[path] = 200000
        self.assertTrue(self.fetch("--shards", "1", status=3).startswith(f"fetch-data: {path}: {self.hub.url}: "))
        self.assertNotIn("fineweb_train_000000.bin", os.listdir(self.shards))
        del self.hub.announced[path]
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_notices_what_changed_later(self):
        self.fetch("--shards", "2")
        path = self.path("fineweb_train_000001.bin")
        with open(path, "r+b") as file:
            file.seek(5000)
            file.write(b"\xff")
        message = f"fetch-data: {path}: is not what was downloaded: its SHA-256 differs from manifest.json " \
                  "(remove the file to fetch it again)"
        self.assertEqual(self.fetch("--shards", "2", status=4), message)
        self.assertEqual(self.fetch("--shards", "1", status=4), message, "whatever is asked for")
        os.remove(path)
        self.fetch("--shards", "2")
        self.check_everything(train=2)
        # A file fetched again must be the one of the first time.
        os.remove(path)
        self.hub.files[f"{REMOTE}/fineweb_train_000001.bin"] = shard(51000, first=99)
        self.assertRegex(self.fetch("--shards", "2", status=4),
                         f"fetch-data: {REMOTE}/fineweb_train_000001.bin: is damaged: its SHA-256 is [0-9a-f]{{64}}, and the hub states ")

    def test_fetches_a_lost_validation_shard_again(self):
        self.fetch("--shards", "1")
        os.remove(self.path("fineweb_val_000001.bin"))
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_records_what_a_killed_call_left_unrecorded(self):
        self.fetch("--shards", "1")
        os.remove(self.path("manifest.json"))
        self.assertEqual(self.fetch("--shards", "1")["downloaded_bytes"], 0)
        self.check_everything(train=1)

    def test_refuses_an_unrecorded_file_that_is_not_the_published_one(self):
        self.fetch("--shards", "1")
        os.remove(self.path("manifest.json"))
        with open(self.path("fineweb_val_000000.bin"), "r+b") as file:
            file.seek(-2, os.SEEK_END)
            last = file.read(2)
            file.seek(-2, os.SEEK_END)
            file.write(bytes([last[0] ^ 1, last[1]]))
        self.assertRegex(self.fetch("--shards", "1", status=4),
                         "fineweb_val_000000.bin: is not the published shard: its SHA-256 is [0-9a-f]{64}, not [0-9a-f]{64}; remove it$")

    def test_checks_the_tokenizer(self):
        message = self.fetch("--shards", "1", program=FETCH_DATA, status=4)
        self.assertEqual(message, f"fetch-data: {TOKENIZER_NAME}: is not the published tokenizer: "
                                  f"its SHA-256 is {hashlib.sha256(TOKENIZER).hexdigest()}, not "
                                  "4f5e8adb109c66b4886963bc75a7befd73bda36d27fd7102df8e9e66503b0e2a")
        self.assertEqual(os.listdir(os.path.join(self.folder, "tokenizers")), [])

    def test_refuses_a_folder_of_another_tokenizer(self):
        os.makedirs(self.shards)
        with open(self.path("manifest.json"), "w", encoding="utf-8") as file:
            json.dump({"format": 1, "splits": {"val": {"tokenizer_sha256": "00", "files": []}}}, file)
        self.assertEqual(self.fetch(status=4),
                         f"fetch-data: {self.path('manifest.json')}: the split val was made with another tokenizer")
        with open(self.path("manifest.json"), "w", encoding="utf-8") as file:
            file.write("[]")
        self.assertRegex(self.fetch(status=4), "manifest.json: is not a manifest of token shards: ")
        # A manifest names files of its own folder.
        for name in ("../fineweb_val_000000.bin", "/etc/passwd", "fineweb_train_000000.bin", "fineweb_val_000000.bin/..", 7):
            record = {"tokenizer_sha256": hashlib.sha256(TOKENIZER).hexdigest(),
                      "files": [{"name": name, "tokens": 1, "bytes": 1, "sha256": ""}]}
            with open(self.path("manifest.json"), "w", encoding="utf-8") as file:
                json.dump({"format": 1, "splits": {"val": record}}, file)
            self.assertRegex(self.fetch(status=4), "manifest.json: is not a manifest of token shards: ")

    def test_reports_a_full_disk(self):
        # A limit on the size of files stands in for the end of the disk.
        message = self.fetch("--shards", "1", status=3,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000)))
        self.assertEqual(message, f"fetch-data: {REMOTE}/fineweb_val_000000.bin: File too large")
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_reports_a_folder_that_cannot_be(self):
        with open(self.folder, "w", encoding="utf-8"):
            pass
        self.assertRegex(self.fetch(status=3), "^fetch-data: .*data/datasets.*: Not a directory$")


if __name__ == "__main__":
    if importlib.util.find_spec("huggingface_hub") is None:
        print("skipped: this Python has no huggingface_hub", file=sys.stderr)
        sys.exit(77)
    unittest.main()
