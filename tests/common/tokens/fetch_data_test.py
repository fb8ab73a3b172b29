#!/usr/bin/env python3
"""scripts/fetch-data against a hub on the loopback interface that answers with redirects, as the public one does, and that can
cut connections, stall, lie about sizes and forget how to resume."""
import hashlib
import http.server
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

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../../.."))
FETCH_DATA = os.path.join(ROOT, "scripts/fetch-data")
REPOSITORY = "/datasets/willdepueoai/parameter-golf/resolve/main/datasets/"
DATA_SET = "datasets/fineweb10B_sp1024"
TOKENIZER = b"a stand-in for the tokenizer"


def shard(tokens, first=0):
    return struct.pack("<256i", 20240520, 1, tokens, *[0] * 253) + struct.pack(
        f"<{tokens}H", *((first + i) % 1024 for i in range(tokens)))


class Hub(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {
            "manifest.json": json.dumps({
                "datasets": [{"name": "another"}, {"name": "fineweb10B_sp1024", "tokenizer_name": "sp1024",
                                                   "stats": {"files_train": 3, "files_val": 2}}],
                "tokenizers": [{"name": "sp1024", "model_path": "tokenizers/fineweb_1024_bpe.model", "vocab_path": "unused"}],
            }).encode(),
            "tokenizers/fineweb_1024_bpe.model": TOKENIZER,
        }
        for split, count in (("train", 3), ("val", 2)):
            for i in range(count):
                self.files[f"{DATA_SET}/fineweb_{split}_{i:06}.bin"] = shard(50000 + 1000 * i, 7 * i)
        self.log = []        # (method, path, Range) of every request to the store behind the redirects
        self.cut = {}        # path: bytes after which the connection is lost, each used once
        self.announced = {}  # path: a Content-Length that is not true
        self.stall = {}      # path: seconds before the first byte, each used once
        self.failures = {}   # path: HTTP statuses to answer with first
        self.resumes = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the play


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        if self.path.startswith(REPOSITORY):
            self.send_response(302)
            self.send_header("Location", "/store/" + self.path[len(REPOSITORY):])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        hub, path = self.server, self.path.removeprefix("/store/")
        wanted = self.headers.get("Range")
        hub.log.append((self.command, path, wanted))
        if hub.failures.get(path):
            self.send_error(hub.failures[path].pop(0))
            return
        if path not in hub.files:
            self.send_error(404)
            return
        data = hub.files[path]
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and hub.resumes else 0
        partial = wanted is not None and hub.resumes
        size = hub.announced.get(path, len(data))
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", hashlib.md5(data).hexdigest())
        self.end_headers()
        # HEAD asks without a range and arrives here as GET, so only a GET with one is a download.
        time.sleep(hub.stall.pop(path, 0) if wanted else 0)
        limit = hub.cut[path].pop(0) if wanted and hub.cut.get(path) else len(data)
        if self.command == "GET":
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
        self.shards = os.path.join(self.folder, DATA_SET)
        # The program knows the published tokenizer's digest; this copy knows the stand-in's.
        self.program = os.path.join(self.scratch.name, "fetch-data")
        with open(FETCH_DATA, encoding="utf-8") as source, open(self.program, "w", encoding="utf-8") as copy:
            text, count = re.subn(r'(?<=^TOKENIZER_SHA256 = ")[0-9a-f]{64}', hashlib.sha256(TOKENIZER).hexdigest(), source.read(),
                                  flags=re.M)
            self.assertEqual(count, 1)
            copy.write(text)

    def tearDown(self):
        self.hub.shutdown()
        self.hub.server_close()
        self.scratch.cleanup()

    def fetch(self, *options, program=None, status=0, **kwargs):
        """Runs it; returns its result, or its last line of standard error where another status is expected."""
        done = subprocess.run([sys.executable, program or self.program, "--hub", self.hub.url, "--timeout", "60", "--retries", "1",
                               *options, self.folder], capture_output=True, text=True, check=False,
                              env={"PATH": os.environ["PATH"], "NO_PROXY": "*"}, **kwargs)
        self.assertEqual(done.returncode, status, done.stderr)
        return json.loads(done.stdout) if status == 0 else done.stderr.strip().splitlines()[-1]

    def path(self, name):
        return os.path.join(self.shards, name)

    def url(self, name):
        return f"{self.hub.url}{REPOSITORY}{name}"

    def check_everything(self, train=3):
        names = [f"fineweb_train_{i:06}.bin" for i in range(train)] + [f"fineweb_val_{i:06}.bin" for i in range(2)]
        self.assertEqual(sorted(os.listdir(self.shards)), sorted([*names, "manifest.json"]))
        self.assertEqual(os.listdir(os.path.join(self.folder, "tokenizers")), ["fineweb_1024_bpe.model"])
        for name in names:
            with open(self.path(name), "rb") as file:
                self.assertEqual(file.read(), self.hub.files[f"{DATA_SET}/{name}"], name)

    def test_fetches_all_and_then_nothing(self):
        result = self.fetch("--shards", "3")
        self.check_everything()
        size = sum(len(data) for path, data in self.hub.files.items() if path != "manifest.json")
        self.assertEqual(result, {"tool": "fetch-data", "data_path": self.shards,
                                  "tokenizer_path": os.path.join(self.folder, "tokenizers/fineweb_1024_bpe.model"),
                                  "train_shards": 3, "train_tokens": 153000, "val_shards": 2, "val_tokens": 101000,
                                  "downloaded_bytes": size})
        with open(self.path("manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        self.assertEqual(manifest["format"], 1)
        val = manifest["splits"]["val"]
        digests = [hashlib.sha256(self.hub.files[f"{DATA_SET}/fineweb_val_{i:06}.bin"]).hexdigest() for i in range(2)]
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
        self.assertEqual([path for method, path, _ in self.hub.log if method == "GET" and path.endswith(".bin")][-1],
                         f"{DATA_SET}/fineweb_train_000001.bin")
        self.assertEqual(self.fetch("--shards", "4", status=4),
                         f"fetch-data: {self.url('manifest.json')}: offers 3 training shards, not 4")

    def test_goes_on_within_a_call_after_lost_connections(self):
        path = f"{DATA_SET}/fineweb_train_000000.bin"
        self.hub.cut[path] = [1000, 20000, 1]
        result = self.fetch("--shards", "1")
        self.check_everything(train=1)
        ranges = [range_ for method, asked, range_ in self.hub.log if asked == path and range_]
        self.assertEqual(ranges, ["bytes=0-", "bytes=1000-", "bytes=21000-", "bytes=21001-"])
        self.assertEqual(result["downloaded_bytes"], sum(len(self.hub.files[name]) for name in (
            path, f"{DATA_SET}/fineweb_val_000000.bin", f"{DATA_SET}/fineweb_val_000001.bin",
            "tokenizers/fineweb_1024_bpe.model")))

    def test_goes_on_in_the_next_call(self):
        path = f"{DATA_SET}/fineweb_train_000000.bin"
        self.hub.cut[path] = [30000, 0, 0, 0]
        self.assertEqual(self.fetch("--shards", "1", status=3),
                         f"fetch-data: {self.url(path)}: the connection ended after 30000 of 101024 bytes")
        self.assertNotIn("fineweb_train_000000.bin", os.listdir(self.shards))
        self.hub.log.clear()
        self.assertEqual(self.fetch("--shards", "1")["downloaded_bytes"], 101024 - 30000)
        self.check_everything(train=1)
        self.assertIn(("GET", path, "bytes=30000-"), self.hub.log)

    def test_does_not_join_two_versions(self):
        path = f"{DATA_SET}/fineweb_train_000000.bin"
        self.hub.cut[path] = [30000, 0, 0, 0]
        self.fetch("--shards", "1", status=3)
        self.hub.files[path] = shard(50000, first=99)
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_starts_again_where_the_hub_does_not_resume(self):
        path = f"{DATA_SET}/fineweb_train_000000.bin"
        self.hub.resumes = False
        self.hub.cut[path] = [30000]
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_outlasts_a_stall_and_passing_failures(self):
        # A busy machine may hold up other answers too: there are retries for that.
        self.hub.stall[f"{DATA_SET}/fineweb_val_000000.bin"] = 4
        self.hub.failures[f"{DATA_SET}/fineweb_train_000000.bin"] = [503, 429]
        self.fetch("--shards", "1", "--retries", "6", "--timeout", "2")
        self.check_everything(train=1)

    def test_gives_up_on_lasting_failures(self):
        path = f"{DATA_SET}/fineweb_train_000000.bin"
        self.hub.failures[path] = [503] * 9
        self.assertEqual(self.fetch("--shards", "1", status=3),
                         f"fetch-data: {self.url(path)}: the hub answers 503 Service Unavailable")
        del self.hub.failures[path], self.hub.files[path]
        self.hub.log.clear()
        self.assertEqual(self.fetch("--shards", "1", status=3), f"fetch-data: {self.url(path)}: the hub answers 404 Not Found")
        self.assertEqual([asked for _, asked, _ in self.hub.log].count(path), 1, "what is not there is not asked for again")
        self.hub.shutdown()
        self.hub.server_close()
        self.assertRegex(self.fetch("--shards", "1", status=3), "manifest.json: .*Connection refused")

    def test_refuses_a_wrong_size(self):
        path = f"{DATA_SET}/fineweb_train_000000.bin"
        # The hub is consistent, and the shard's own header is not.
        self.hub.files[path] = shard(50000)[:-2]
        self.assertEqual(self.fetch("--shards", "1", status=4),
                         f"fetch-data: {self.url(path)}: is 101022 bytes long, but its header's 50000 tokens make 101024")
        self.hub.files[path] = b"<html>not found</html>"
        self.assertEqual(self.fetch("--shards", "1", status=4),
                         f"fetch-data: {self.url(path)}: is 22 bytes long, shorter than the header of a token shard")
        self.hub.files[path] = b"x" * 2000
        self.assertRegex(self.fetch("--shards", "1", status=4), "is not a token shard: magic 2021161080, version 2021161080")
        # The hub announces more than it sends.
        self.hub.files[path] = shard(50000)
        self.hub.announced[path] = 200000
        self.assertEqual(self.fetch("--shards", "1", status=3),
                         f"fetch-data: {self.url(path)}: the connection ended after 101024 of 200000 bytes")
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
        self.hub.files[f"{DATA_SET}/fineweb_train_000001.bin"] = shard(51000, first=99)
        self.assertEqual(self.fetch("--shards", "2", status=4),
                         f"fetch-data: {self.url(DATA_SET + '/fineweb_train_000001.bin')}: is not what it was when "
                         f"{self.path('manifest.json')} was written")

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

    def test_checks_the_tokenizer(self):
        message = self.fetch("--shards", "1", program=FETCH_DATA, status=4)
        self.assertEqual(message, f"fetch-data: {self.url('tokenizers/fineweb_1024_bpe.model')}: is not the published tokenizer: "
                                  f"its SHA-256 is {hashlib.sha256(TOKENIZER).hexdigest()}, not "
                                  "4f5e8adb109c66b4886963bc75a7befd73bda36d27fd7102df8e9e66503b0e2a")
        self.assertEqual(os.listdir(os.path.join(self.folder, "tokenizers")), [])

    def test_refuses_another_catalogue(self):
        place = f"fetch-data: {self.url('manifest.json')}: "
        for text, cause in ((b'{"datasets": [], "tokenizers": []}', "does not list the data set fineweb10B_sp1024"),
                            (b"{", "is not the hub's list of data sets: "), (b"[]", "is not the hub's list of data sets: ")):
            self.hub.files["manifest.json"] = text
            self.assertTrue(self.fetch("--shards", "1", status=4).startswith(place + cause))

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
        self.assertRegex(message, r"^fetch-data: .*/\.fineweb_val_000000\.bin\.[0-9a-f]{12}\.part: File too large$")
        self.fetch("--shards", "1")
        self.check_everything(train=1)

    def test_reports_a_folder_that_cannot_be(self):
        with open(self.folder, "w", encoding="utf-8"):
            pass
        self.assertRegex(self.fetch(status=3), "^fetch-data: .*data/datasets.*: Not a directory$")


if __name__ == "__main__":
    unittest.main()
