#!/usr/bin/env python3
"""compressors.py [DATA [FOLDER…]]: how good a score on a corpus is. Prints one Markdown table, in bits per byte of the validation text of
DATA (data/bible-kjv): what knows nothing, general compressors, and finished models: the records or submissions FOLDER… (records/*) that
were scored on the same text.

A compressor is measured twice: on the validation text alone, and on what that text adds to the compressed size when the training text
comes first. "bytes" is the size of what has to be shipped: the training text, compressed by the same compressor, or a model's artifact and
code. xz -9e, bzip2 -9, zstd --ultra -22 --long=27, and PPMd (variant I, 256 MB) in the version of pyppmd named below, which is installed
from PyPI into a temporary folder where this Python does not have it."""
import bz2
import collections
import glob
import json
import lzma
import math
import os
import struct
import subprocess
import sys
import tempfile
import venv

PYPPMD = "pyppmd==1.3.1"


def fields(data):
    """(number, value) of each field of a protobuf message: integers, and bytes."""
    at = 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        elif tag & 7 == 1:
            at += 8
        else:
            size = number()
            yield tag >> 3, data[at:at + size]
            at += size


def read_pieces(path):
    with open(path, "rb") as file:
        messages = [dict(fields(value)) for number, value in fields(file.read()) if number == 2]
    # common/tokens/byte_table.proto: text 1, boundary 4, byte 5
    return [(piece.get(1, b""), piece.get(4, 0), piece.get(5, 0)) for piece in messages]


def decode(folder, split, pieces):
    """The text of a split, and its number of tokens."""
    documents, begins, count_of_all = [], True, 0
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"fineweb_{split}_[0-9]*.bin"))):
        with open(path, "rb") as file:
            count = struct.unpack_from("<3i", file.read(1024))[2]
            tokens = struct.unpack(f"<{count}H", file.read())
        count_of_all += count
        for token in tokens:
            text, boundary, byte = pieces[token]
            if boundary:
                begins = True
                continue
            text = bytes([int(text[3:5], 16)]) if byte else text.replace("\u2581".encode(), b" ")
            documents.append(text[1:] if begins and text.startswith(b" ") else text)
            begins = False
    return b"".join(documents), count_of_all


def import_pyppmd(folder):
    try:
        import pyppmd
    except ImportError:
        venv.create(folder, with_pip=True)
        subprocess.run([os.path.join(folder, "bin", "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps",
                        "--only-binary", ":all:", PYPPMD], check=True)
        sys.path += glob.glob(os.path.join(glob.escape(folder), "lib", "python*", "site-packages"))
        import pyppmd
    return pyppmd


def compressors(pyppmd):
    def zstd(text):
        command = ["zstd", "--ultra", "-22", "--long=27", "-q", "-c"]
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout

    def ppmd(order):
        def compress(text):
            encoder = pyppmd.Ppmd8Encoder(order, 256 << 20, 0)
            return encoder.encode(text) + encoder.flush()
        return compress

    yield "zstd", zstd
    yield "xz", lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    yield "bzip2", lambda text: bz2.compress(text, 9)
    for order in (6, 8, 16):
        yield f"PPMd of order {order}", ppmd(order)


def models(folders, text_sha256):
    """(name, bits per byte, bytes) of the records that were scored on this text."""
    for folder in folders:
        with open(os.path.join(folder, "submission.json"), encoding="utf-8") as file:
            record = json.load(file)
        scored = os.path.join(folder, "eval.json")
        if not os.path.exists(scored):
            scored = os.path.join(folder, f"seed-{record['seeds'][0]}", "eval.json")
        with open(scored, encoding="utf-8") as file:
            if json.load(file)["text_digest"] == text_sha256:
                yield os.path.basename(os.path.normpath(folder)), record["val_bpb"], record["bytes_total"]


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "data/bible-kjv"
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = sys.argv[2:] or sorted(os.path.dirname(path) for path in glob.glob(os.path.join(glob.escape(root), "records/*/submission.json")))
    pieces = read_pieces(os.path.join(folder, "byte_table.pb"))
    (train, _), (val, val_tokens) = decode(folder, "train", pieces), decode(folder, "val", pieces)
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
        text_sha256 = json.load(file)["splits"]["val"]["text_sha256"]
    print(f"{len(train):,} bytes of training text, {len(val):,} of validation text\n")
    print("| model | bits per byte, alone | after the training text | bytes |\n|---|---:|---:|---:|")
    print("| all bytes equally likely | 8.000 | | |")
    print(f"| all {len(pieces):,} pieces of the tokenizer equally likely | {math.log2(len(pieces)) * val_tokens / len(val):.3f} | | |")
    counts = collections.Counter(train)
    order_0 = -sum(math.log2((counts[byte] + 1) / (len(train) + 256)) for byte in val) / len(val)
    print(f"| how often each byte comes in the training text | | {order_0:.3f} | |")
    with tempfile.TemporaryDirectory() as scratch:
        for name, compress in compressors(import_pyppmd(scratch)):
            prefix = len(compress(train))
            alone, added = 8 * len(compress(val)) / len(val), 8 * (len(compress(train + val)) - prefix) / len(val)
            print(f"| {name} | {alone:.3f} | {added:.3f} | {prefix:,} |", flush=True)
    for name, score, size in models(folders, text_sha256):
        print(f"| {name} | | {score:.3f} | {size:,} |")


main()
