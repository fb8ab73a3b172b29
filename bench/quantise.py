#!/usr/bin/env python3
"""The time it takes to quantise: `published`, `rtn` and `gptq` by gptq-lite, and beside them the published script's own search in
PyTorch, one quantile a candidate, whose weights must come out equal to those of `published --published-quirks 1`.

    train --profile published-531 --published-quirks 0 --iterations 3 --train-batch-tokens 1024 --grad-micro-steps 1 --train-seq-len 512 \\
          --max-wallclock-seconds 0 --late-qat-threshold 0 --out train.ckpt        (weights that were hardly trained serve; any corpus of 1,024 pieces)
    ema-finalize train.ckpt weights.ckpt
    DATA_PATH=… bench/quantise.py --target-bytes 11000000 weights.ckpt

DATA_PATH is what calibration reads. Packing is said apart from the search: gptq-lite checks the shipped size with zstd's slow levels.
"""
import argparse, os, pathlib, re, subprocess, tempfile, time

import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
PERCENTILES = (0.9990, 0.9995, 0.9999, 0.99999, 1.0)
FORMS = {"int5": 15, "int6": 31, "int8": 127}


def published_search(w, form):
    """Quantises and dequantises one matrix as the published entry does: floors of 1/31 and 1/127, one percentile per matrix."""
    if form == "int8":
        clip = torch.quantile(w.abs(), 0.9999984, dim=1)
        scale = (clip / 127).clamp_min(1 / 127)
        codes = torch.clamp(torch.round(torch.clamp(w, -clip[:, None], clip[:, None]) / scale[:, None]), -127, 127)
        return codes * scale.half().float()[:, None]
    if form == "int5":
        scale = (w.abs().amax(1) / 15).clamp_min(1e-12).half().float()[:, None]
        return torch.clamp(torch.nan_to_num(w / scale).round(), -16, 15) * scale
    best, least = None, float("inf")
    for p in PERCENTILES:
        clip = w.abs().amax(1) if p == 1 else torch.quantile(w.abs(), p, dim=1)
        scale = (clip / 31).clamp_min(1 / 31).half().float()[:, None]
        back = torch.clamp(torch.round(w / scale), -32, 31) * scale
        error = (w - back).pow(2).mean().item()
        if error < least:
            best, least = back, error
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=pathlib.Path)
    parser.add_argument("--target-bytes", required=True)
    parser.add_argument("--profile", default="record-h100x8")
    parser.add_argument("--methods", default="published,rtn,gptq")
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent / "build" / "bin")
    arguments = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    scratch = tempfile.TemporaryDirectory()
    folder = pathlib.Path(scratch.name)
    quantised, table = folder / "quantised.ckpt", folder / "table.safetensors"

    def gptq_lite(*settings):
        start = time.monotonic()
        done = subprocess.run([arguments.bin / "gptq-lite", "--profile", arguments.profile, *settings, arguments.weights, quantised],
                              capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr.strip().splitlines()[-1])
        return time.monotonic() - start, done.stderr

    def tensors(path):
        subprocess.run([arguments.bin / "ckpt-inspect", "--export", table, path], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
        return load_file(table)

    for method in arguments.methods.split(","):
        if method == "published":
            keep = ("--published-quirks", "1", "--fp16-keep-name-patterns", "tok_emb,blocks.8.attn.c_k")
            seconds, log = gptq_lite("--quantiser", method, *keep, "--target-bytes", "0")
            forms = {name: form for name, form in re.findall(r"^(\S+) +(int\d) ", log, re.M)}
            weights, ours = tensors(arguments.weights), tensors(quantised)
            start = time.monotonic()
            theirs = {name: published_search(weights[name].float(), form) for name, form in forms.items()}
            took = time.monotonic() - start
            unequal = [name for name in forms if not torch.equal(theirs[name], ours[name].float())]
            print(f"published script's search in PyTorch: {took:.1f} s for {len(forms)} matrices; gptq-lite --quantiser published: {seconds:.1f} s, "
                  + ("every weight equal" if not unequal else f"UNEQUAL: {' '.join(unequal)}"), flush=True)
        else:
            seconds, log = gptq_lite("--quantiser", method, "--calibration", "shards", "--fp16-keep-name-patterns", "", "--target-bytes", arguments.target_bytes)
            phases = [line for line in log.splitlines() if line.startswith(("calibration: ", "budget: "))]
            print(f"{method}: {seconds:.1f} s in all; " + "; ".join(phases), flush=True)


if __name__ == "__main__":
    main()
