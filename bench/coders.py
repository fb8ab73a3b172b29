#!/usr/bin/env python3
"""What the codes of quantised checkpoints take by one coder and another.

    PYTHON bench/coders.py [--bin build/bin] quantised.ckpt…

For each checkpoint: the artifact by CODER=zstd and by CODER=arithmetic (pack-zstd --dry-run); its codes alone, one byte each, as they
stand, by zstd 22, xz 9 and brotli 11 where these are installed (brotli as a program or a module of Python); their order-0 entropy, matrix by matrix; and their length were
the weights of each row normal with that row's deviation, which the decoder would know.
"""
import argparse, json, math, pathlib, shutil, subprocess

import torch

try:
    import brotli
except ImportError:
    brotli = None

HERE = pathlib.Path(__file__).resolve().parent


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def fields(data, at, end):
    """Number and value of the protobuf fields in a stretch: numbers, or where bytes begin and end."""
    while at < end:
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 2:
            length, at = varint(data, at)
            value, at = (at, at + length), at + length
        else:
            value, at = None, at + (8 if tag & 7 == 1 else 4)
        yield tag >> 3, value


def tensors(path):
    data, found = path.read_bytes(), {}
    text = lambda place: data[place[0] : place[1]].decode()
    for number, place in fields(data, 0, len(data)):
        if number != 3:
            continue
        tensor = {"shape": []}
        for field, value in fields(data, *place):
            if field == 1:
                name = text(value)
            elif field == 3:
                at = value[0]
                while at < value[1]:
                    size, at = varint(data, at)
                    tensor["shape"].append(size)
            elif field == 4:
                tensor |= {key: text(v) for f, v in fields(data, *value) for key in {4: ["scale"], 5: ["column"]}.get(f, [])}
            elif field == 15:
                tensor["data"] = bytearray(data[value[0] : value[1]])
        found[name] = tensor
    return found


def matrices(path):
    """Codes and the width of each one's step."""
    found = tensors(path)
    half = lambda name: torch.frombuffer(found[name]["data"], dtype=torch.float16).double()
    for tensor in found.values():
        if "scale" not in tensor:
            continue
        codes = torch.frombuffer(tensor["data"], dtype=torch.int8).view(tensor["shape"])
        step = half(tensor["scale"])[:, None]
        yield codes, step * half(tensor["column"]) if tensor.get("column") else step.expand(codes.shape)


def entropy(codes):
    share = codes.int().add(128).flatten().bincount().double() / codes.numel()
    share = share[share > 0]
    return -codes.numel() * (share * share.log2()).sum().item() / 8


def normal_rows(codes, step):
    """Bytes were the weights of each row normal with the row's own deviation: of 48 deviations, a quarter of an octave apart, the likeliest."""
    codes, width = codes.float(), (step / step.mean(1, keepdim=True) / math.sqrt(2)).float()
    best = torch.full((len(codes),), math.inf)
    for quarter in range(-20, 28):
        deviation = 2.0 ** (quarter / 4)  # over the row's mean step
        p = 0.5 * (torch.erf((codes + 0.5) * width / deviation) - torch.erf((codes - 0.5) * width / deviation))
        best = torch.minimum(best, -p.clamp_min(2.0**-24).log2().sum(1))
    return best.sum().item() / 8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent / "build" / "bin")
    parser.add_argument("checkpoints", type=pathlib.Path, nargs="+")
    arguments = parser.parse_args()
    for path in arguments.checkpoints:
        print(path)
        all_matrices = list(matrices(path))
        codes = b"".join(bytes(c.flatten().view(torch.uint8).tolist()) for c, _ in all_matrices)
        for coder in ("zstd", "arithmetic"):
            done = subprocess.run([arguments.bin / "pack-zstd", "--coder", coder, "--dry-run", path], capture_output=True, text=True, check=True)
            print(f"  artifact, codes by {coder:12} {json.loads(done.stdout)['artifact_bytes']:11,}")
        for command in (["zstd", "--ultra", "-22", "-q", "-c"], ["xz", "-9e", "-c"], ["brotli", "-q", "11", "-w", "24", "-c"]):
            if shutil.which(command[0]):
                size = len(subprocess.run(command, input=codes, capture_output=True, check=True).stdout)
                print(f"  codes alone by {command[0]:16} {size:11,}")
        if brotli:
            print(f"  codes alone by brotli           {len(brotli.compress(codes, quality=11, lgwin=24)):11,}")
        print(f"  order-0 entropy, by matrix      {sum(entropy(c) for c, _ in all_matrices):11,.0f}")
        print(f"  rows normal, deviations known   {sum(normal_rows(c, s) for c, s in all_matrices):11,.0f}", flush=True)


if __name__ == "__main__":
    main()
