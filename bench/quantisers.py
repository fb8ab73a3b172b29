"""Quantisers, and where their calibration takes place, at equal packed bytes on the same trained weights.

    python bench/quantisers.py --run FOLDER --budgets 130000,300000,700000 [--profile cpu-demo] [--calibrations] [--batches 16]

FOLDER holds weights.ckpt, train.ckpt (of `train --quantiser gptq --calibration train`), data and byte_table.pb. Without --calibrations: steps by
cost (rtn), the same with error feedback (gptq), error feedback on steps by each row's standard deviation (sdclip), and that with its
corrections of low rank (sdclip+lqer). The first two are sized by their budget; of the last two all widths of clipping are multiplied by
one factor until the artifact is at most 0.3% below it. With --calibrations: gptq by what training measured (train), on text that the
weights generate (self) and on training data after the clock (shards). Each artifact's plain score is shown with the divergence of its
predictions from those of the unrounded weights (rate_distortion.py), and the seconds that calibration took, by the program's own clock, and
the processor time of the whole of gptq-lite.
"""
import argparse
import json
import math
import os
import pathlib
import re
import resource
import subprocess

import torch

from rate_distortion import HERE, Bench

KEEP = ("--fp16-keep-name-patterns", "", "--code-bytes", 0)
SIGMAS = {"mlp": 11.5, "attn": 13.0, "embed": 14.0, "matrix": 12.85}  # published; at 7 bits here


class Quantisers(Bench):
    def quantise(self, *settings):
        """gptq-lite: bytes of the artifact, seconds of calibration, seconds of processors."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([self.bin / "gptq-lite", "--profile", self.profile, *map(str, (*KEEP, *settings)), self.weights, self.folder / "quantised.ckpt"],
                              env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr.strip().splitlines()[-1])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        calibration = re.search(r"^(?:calibration|gptq_sdclip): .* in ([0-9.]+) s$", done.stderr, re.M)
        size = self.program("pack-zstd", "--dry-run", self.folder / "quantised.ckpt")["artifact_bytes"]
        return size, float(calibration[1]) if calibration else math.nan, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def report(self, label, size, calibration, processors):
        artifact = self.folder / "model.bin.zst"
        self.program("pack-zstd", self.folder / "quantised.ckpt", artifact)
        rounded = self.predictions(artifact)
        divergence = (self.unrounded.exp() * (self.unrounded - rounded)).sum(-1).mean().item()
        bpb = self.score(artifact)
        print(f"| {label} | {size:,} | {bpb:.5f} | {bpb - self.base:+.5f} | {divergence:.5f} | {calibration:.1f} | {processors:.1f} |", flush=True)

    def sized(self, label, budget, *settings):
        self.report(label, *self.quantise("--target-bytes", budget, *settings))

    def clipped(self, label, budget, *settings):
        factor, low, high = 2.0, None, None  # of the widths: too many bytes, few enough
        parameters = sum(p.numel() for p in self.model.parameters())
        for _ in range(12):
            widths = [word for kind, sigmas in SIGMAS.items() for word in (f"--{kind}-clip-sigmas", sigmas * factor)]
            result = self.quantise("--quantiser", "gptq_sdclip", "--matrix-bits", 7, "--embed-bits", 7, *widths, *settings)
            size = result[0]
            if 0.997 * budget <= size <= budget:
                break
            low, high = (factor, high) if size > budget else (low, factor)
            if low and high and high / low < 1.5:
                factor = math.sqrt(low * high)
            else:  # a bit per weight and octave, less where few bits are left
                factor *= 2 ** max(min(8 * (size - 0.9985 * budget) / parameters * 1.2, 2), -2)
        else:
            raise SystemExit(f"quantisers.py: {label}: no factor of the widths gives an artifact of 99.7% to 100% of these bytes")
        self.report(label, *result)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--budgets", default="130000,300000,700000")
    parser.add_argument("--calibrations", action="store_true")
    parser.add_argument("--batches", type=int, default=16, help="micro-batches that sdclip calibrates on")
    parser.add_argument("--profile", default="cpu-demo")
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent / "build" / "bin")
    arguments = parser.parse_args()
    arguments.training_tokens, arguments.more = 0, []
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    bench = Quantisers(arguments)
    print(f"unrounded {bench.base:.6f} bits per byte\n\n| | bytes | bits per byte | over unrounded | KL | calibration, s | processor time, s |\n|---|---:|---:|---:|---:|---:|---:|")
    measured = ("--training", bench.run / "train.ckpt")
    for budget in map(int, arguments.budgets.split(",")):
        if arguments.calibrations:
            for calibration in ("train", "self", "shards"):
                bench.sized(f"{calibration}, {budget:,}", budget, "--quantiser", "gptq", "--calibration", calibration, *(measured if calibration == "train" else ()))
        else:
            for quantiser in ("rtn", "gptq"):
                bench.sized(f"{quantiser}, {budget:,}", budget, "--quantiser", quantiser, "--calibration", "train", *measured)
            for label, lqer in (("sdclip", 0), ("sdclip+lqer", 1)):
                bench.clipped(f"{label}, {budget:,}", budget, "--lqer-enabled", lqer, "--gptq-calibration-batches", arguments.batches)


if __name__ == "__main__":
    main()
