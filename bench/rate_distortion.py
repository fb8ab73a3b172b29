"""Bytes against loss, each quantiser a curve: what an artifact costs at each size, scored from the artifact alone.

    python bench/rate_distortion.py --run runs/cpu-demo/seed-1337 --out build/bench

Writes rate-distortion.tsv, .svg and .png. Beside the score is the Kullback-Leibler divergence of the artifact's predictions from
those of the unrounded weights (nats per token, from the same model in PyTorch): near the unrounded score a change of it is of either
sign, the divergence is not. --training-tokens N scores the last N tokens of the training split in place of the validation split:
what is chosen by these figures is to be chosen there. Words behind `--` go to every rtn and gptq (-- --calibration-windows 16).
"""
import argparse
import json
import os
import pathlib
import struct
import subprocess
import tempfile

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import gpt_peer

HERE = pathlib.Path(__file__).resolve().parent
SHARES = (0.22, 0.28, 0.36, 0.45, 0.56, 0.7, 0.85, 1.0)


class Bench:
    def __init__(self, arguments):
        self.bin, self.run, self.profile = arguments.bin, arguments.run.resolve(), arguments.profile
        self.environment = dict(os.environ, THREADS=str(len(os.sched_getaffinity(0))), DATA_PATH=str(self.run / "data"),
                                BYTE_TABLE=str(self.run / "byte_table.pb"))
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name)
        self.scored = self.run / "data"
        self.more = arguments.more
        self.weights = self.run / "weights.ckpt"
        settings = self.program("ckpt-inspect", "--json", self.weights)["settings"]
        self.settings = {name: settings[name] for name in gpt_peer.Config.fields if name in settings}
        self.model = gpt_peer.Model(gpt_peer.Config(**self.settings))
        self.length = int(settings["train_seq_len"])
        tokens = self.tokens("val")
        if arguments.training_tokens:
            tokens = self.tokens("train")[-arguments.training_tokens :]
            header = struct.pack("<256i", 20240520, 1, len(tokens), *[0] * 253)
            (self.folder / "fineweb_val_000000.bin").write_bytes(header + tokens.to(torch.uint16).numpy().tobytes())
            self.scored = self.folder
        windows = (len(tokens) - 1) // self.length
        self.ids = tokens[: windows * self.length].view(windows, self.length)
        self.unrounded = self.predictions(self.weights)
        self.base = self.score(self.weights)

    def program(self, name, *arguments):
        done = subprocess.run([self.bin / name, *map(str, arguments)], env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr.strip().splitlines()[-1])
        return json.loads(done.stdout)

    def tokens(self, split):
        shards = [shard.read_bytes()[1024:] for shard in sorted((self.run / "data").glob(f"fineweb_{split}_*.bin"))]
        return torch.frombuffer(bytearray(b"".join(shards)), dtype=torch.uint16).long()

    def score(self, path):
        return self.program("eval-sliding", "--profile", self.profile, "--eval-stride", 0, "--data-path", self.scored, path)["val_bpb"]

    @torch.no_grad()
    def predictions(self, path):
        self.program("ckpt-inspect", "--export", self.folder / "x.safetensors", path)
        self.model.load_state_dict(load_file(self.folder / "x.safetensors"))
        return torch.cat([F.log_softmax(self.model.logits(part).float(), -1) for part in self.ids.split(16)])

    def point(self, label, *settings):
        quantised, artifact = self.folder / "quantised.ckpt", self.folder / "model.bin.zst"
        self.program("gptq-lite", "--profile", self.profile, *settings, self.weights, quantised)
        size = self.program("pack-zstd", quantised, artifact)["artifact_bytes"]
        rounded = self.predictions(artifact)
        divergence = (self.unrounded.exp() * (self.unrounded - rounded)).sum(-1).mean().item()
        point = dict(label=label, bytes=size, bpb=self.score(artifact), kl=divergence)
        print(f"{label:10} {size:9,} bytes  {point['bpb']:.6f} bits per byte ({point['bpb'] - self.base:+.6f})  KL {divergence:.6f}", flush=True)
        return point


PLOT = """set terminal {terminal}
set output "{out}"
set multiplot layout 1,2
set grid
set xlabel "bits per weight, whole artifact"
set key top right
set ylabel "bits per byte, artifact alone"
plot {score}, {base} title "unrounded" with lines dt 2 lc "gray40"
set logscale y
set format y "10^{{%T}}"
set ylabel "KL from the unrounded weights, nats per token"
plot {kl}
"""
TERMINALS = {"svg": 'svg size 860,400 font "sans,12" background "white"', "png": 'pngcairo size 1290,600 font "sans,14" background "white"'}


def draw(points, parameters, base, out):
    curves = {label: [p for p in points if p["label"] == label] for label in dict.fromkeys(p["label"] for p in points)}
    table = out / "rate-distortion.tsv"
    with open(table, "w") as file:
        print(f"# unrounded {base:.8f} bits per byte\n# bits per weight, bits per byte, KL (nats per token), bytes", file=file)
        for label, curve in curves.items():
            print(f"# {label}", file=file)
            for p in curve:
                print(f"{8 * p['bytes'] / parameters:.4f}\t{p['bpb']:.8f}\t{p['kl']:.7f}\t{p['bytes']}", file=file)
            print("\n", file=file)

    def lines(column):
        return ", ".join(f'"{table}" index {i} using 1:{column} title "{label}" with linespoints pt {5 + 2 * i} ps 0.7'
                         for i, label in enumerate(curves))

    for kind, terminal in TERMINALS.items():
        script = PLOT.format(terminal=terminal, out=out / f"rate-distortion.{kind}", score=lines(2), base=base, kl=lines(3))
        subprocess.run(["gnuplot"], input=script, text=True, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="folder of a finished run")
    parser.add_argument("--profile", default="cpu-demo")
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent / "build" / "bin")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "build" / "bench")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="sizes of the curves, over the published quantiser's")
    parser.add_argument("--methods", default="rtn,gptq")
    parser.add_argument("--training-tokens", type=int, default=0, help="score this many tokens of the training split instead")
    parser.add_argument("more", nargs="*", help="further options of gptq-lite")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    bench = Bench(arguments)
    print(f"unrounded {bench.base:.6f} bits per byte")
    published = bench.point("published", "--quantiser", "published", "--published-quirks", 1, "--fp16-keep-name-patterns", "tok_emb,blocks.8.attn.c_k")
    points = [published]
    for method in arguments.methods.split(","):
        for share in map(float, arguments.shares.split(",")):
            points.append(bench.point(method, "--quantiser", method, "--calibration", "shards", "--fp16-keep-name-patterns", "",
                                      "--target-bytes", int(share * published["bytes"]), *bench.more))
    draw(points, sum(p.numel() for p in bench.model.parameters()), bench.base, arguments.out)


if __name__ == "__main__":
    main()
