#!/usr/bin/env python3
"""What the codes of quantised checkpoints take by one coder and another.

    PYTHON bench/coders.py [--bin build/bin] quantised.ckpt…

For each checkpoint: the artifact by CODER=zstd and by CODER=arithmetic (pack-zstd --dry-run); its codes alone by the arithmetic coder,
beside the coder's own ideal (the sum of -log2 of the probabilities that it used), and, one byte each as they stand, by zstd 22, xz 9
and brotli 11; their order-0 entropy, matrix by matrix; their length were the weights of each row normal with that row's deviation,
which the decoder would know; and the seconds to pack and to unpack. Without bench-coder (ninja -C build bench-coder), zstd or
brotli it says what is missing. Brotli is a module or a program of that name, or the library of Debian's package libbrotli1.
"""
import argparse, ctypes, ctypes.util, json, lzma, math, pathlib, shutil, subprocess

import torch

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
        if len(step) != len(codes):
            raise SystemExit(f"coders.py: {path}: has corrections of low rank, whose steps are not by rows: quantise with --lqer-enabled 0")
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


def zstd(codes):
    if not shutil.which("zstd"):
        return "no zstd here: apt-get install zstd"
    return len(subprocess.run(["zstd", "--ultra", "-22", "-q", "-c"], input=codes, capture_output=True, check=True).stdout)


def xz(codes):
    return len(lzma.compress(codes, preset=9 | lzma.PRESET_EXTREME))


def brotli(codes):
    try:
        import brotli as module

        return len(module.compress(codes, quality=11, lgwin=24))
    except ImportError:
        pass
    if shutil.which("brotli"):
        return len(subprocess.run(["brotli", "-q", "11", "-w", "24", "-c"], input=codes, capture_output=True, check=True).stdout)
    path = ctypes.util.find_library("brotlienc")
    if not path:
        return "no brotli here: apt-get install brotli"
    size, out = ctypes.c_size_t(2 * len(codes) + 1024), ctypes.create_string_buffer(2 * len(codes) + 1024)
    generic_mode = 0
    if not ctypes.CDLL(path).BrotliEncoderCompress(11, 24, generic_mode, ctypes.c_size_t(len(codes)), codes, ctypes.byref(size), out):
        raise SystemExit("coders.py: brotli's encoder failed")
    return size.value


def row(what, size, base=None):
    share = f"{100 * (size / base - 1):+8.2f}%" if base else ""
    print(f"  {what:34} {size:11,.0f}{share}" if not isinstance(size, str) else f"  {what:34} {size}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent / "build" / "bin")
    parser.add_argument("checkpoints", type=pathlib.Path, nargs="+")
    arguments = parser.parse_args()
    for path in arguments.checkpoints:
        print(f"{path}: bytes, and by how much they differ from zstd's")
        artifacts = []
        for coder in ("zstd", "arithmetic"):
            done = subprocess.run([arguments.bin / "pack-zstd", "--coder", coder, "--dry-run", path], capture_output=True, text=True, check=True)
            artifacts.append(json.loads(done.stdout)["artifact_bytes"])
            row(f"artifact, codes by {coder}", artifacts[-1], artifacts[0])
        all_matrices = list(matrices(path))
        codes = b"".join(c.numpy().tobytes() for c, _ in all_matrices)
        base = zstd(codes)
        alone = base if not isinstance(base, str) else None
        row("codes alone by zstd 22", base, alone)
        row("by xz 9", xz(codes), alone)
        row("by brotli 11", brotli(codes), alone)
        row("order-0 entropy, by matrix", sum(entropy(c) for c, _ in all_matrices), alone)
        if (arguments.bin / "bench-coder").exists():
            ours = json.loads(subprocess.run([arguments.bin / "bench-coder", path], capture_output=True, text=True, check=True).stdout)
            row("by the arithmetic coder", ours["bytes"], alone)
            row("the ideal of its probabilities", ours["ideal_bytes"], alone)
        else:
            print("  no bench-coder here: ninja -C build bench-coder")
        row("rows normal, deviations known", sum(normal_rows(c, s) for c, s in all_matrices), alone)
        if (arguments.bin / "bench-coder").exists():
            print(f"  {ours['codes']:,} codes: packed in {ours['pack_seconds']} s ({ours['pack_processor_seconds']} s of processor time), unpacked in "
                  f"{ours['unpack_seconds']} s ({ours['unpack_processor_seconds']} s), {ours['threads']} threads, {ours['processor']}", flush=True)


if __name__ == "__main__":
    main()
