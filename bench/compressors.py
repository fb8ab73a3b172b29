#!/usr/bin/env python3
"""compressors.py [DATA]: bits per byte of general compressors on the validation text of a corpus (data/bible-kjv), for comparison with a
model's score: of the validation text by itself, and of what it adds to a compressed training text in front of it. The text is decoded
from the shards; the programs are xz -9e, bzip2 -9 and zstd --ultra -22 --long=27."""
import bz2
import glob
import lzma
import os
import struct
import subprocess
import sys


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
    documents, begins = [], True
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), f"fineweb_{split}_[0-9]*.bin"))):
        with open(path, "rb") as file:
            count = struct.unpack_from("<3i", file.read(1024))[2]
            tokens = struct.unpack(f"<{count}H", file.read())
        for token in tokens:
            text, boundary, byte = pieces[token]
            if boundary:
                begins = True
                continue
            text = bytes([int(text[3:5], 16)]) if byte else text.replace("\u2581".encode(), b" ")
            documents.append(text[1:] if begins and text.startswith(b" ") else text)
            begins = False
    return b"".join(documents)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "data/bible-kjv"
    pieces = read_pieces(os.path.join(folder, "byte_table.pb"))
    train, val = decode(folder, "train", pieces), decode(folder, "val", pieces)
    print(f"{len(train):,} bytes of training text, {len(val):,} of validation text")
    zstd = lambda text: subprocess.run(["zstd", "--ultra", "-22", "--long=27", "-q", "-c"], input=text, capture_output=True, check=True).stdout
    for name, compress in (("xz", lambda text: lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)), ("bzip2", lambda text: bz2.compress(text, 9)), ("zstd", zstd)):
        alone, added = len(compress(val)), len(compress(train + val)) - len(compress(train))
        print(f"{name:6} {8 * alone / len(val):.3f} bits per byte alone, {8 * added / len(val):.3f} after the training text")


main()
