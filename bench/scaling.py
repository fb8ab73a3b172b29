#!/usr/bin/env python3
"""scaling.py [--machine h100|HARDWARE.json] [--ranks 1,2,…] PROFILE: what a step of a profile costs on so many ranks: milliseconds of each
part, bytes on the wire, memory. The model and where its constants come from: docs/scaling.md.

Settings are what build/bin/train --print-settings says of the profile and the environment; so TRAIN_BATCH_TOKENS=… changes them."""
import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# FLOP/s and bytes/s of one rank, seconds of latency. Sources: docs/scaling.md.
MACHINES = {"h100": {"ranks_a_host": 8, "linear": 620e12, "attention": 400e12, "newton_schulz": 300e12, "memory": 2.8e12,
                     "inside": 370e9, "between": 45e9, "latency_inside": 8e-6, "latency_between": 15e-6, "launch": 3e-6}}
STREAM_BYTES = 276  # that pass through memory a token, layer and unit of width: forward 86, backward 190


def settings_of(profile):
    program = os.path.join(ROOT, "build/bin/train")
    said = subprocess.run([program, f"--profile={profile}", "--print-settings"], stdout=subprocess.PIPE, text=True)
    if said.returncode != 0:
        sys.exit(said.returncode)
    values = {}
    for line in said.stdout.splitlines():
        name, _, value = line.rpartition("  # ")[0].partition(" = ")
        values[name] = float(value) if value.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit() else value
    return values


def shapes_of(s):
    """Muon's matrices [rows, columns], and how many elements everything else has (common/model/flat.h)."""
    D, L, V = int(s["model_dim"]), int(s["num_layers"]), int(s["vocab_size"])
    kv, F = D // int(s["num_heads"]) * int(s["num_kv_heads"]), int(s["mlp_mult"] * D)
    matrices = [shape for _ in range(L) for shape in ((D, D), (kv, D), (kv, D), (D, D), (F, D), (D, F))]
    rows, width = int(s["bigram_vocab_size"]), int(s["bigram_dim"])
    others = V * D + (0 if s["tie_embeddings"] else V * D)
    if rows > 0:
        others += rows * width + 1
        if width != D:
            matrices.append((D, width))
    encoder = L // 2
    others += D + min(encoder, L - encoder) * D + L * (int(s["num_heads"]) + 4 * D)
    return matrices, others


def deal(matrices, ranks):
    """The most work that a rank has with the matrices dealt to it (common/optim/partition.cc), in Newton-Schulz's multiply-adds."""
    work = lambda shape: 2 * min(shape) ** 2 * max(shape) + min(shape) ** 3
    load, count = [0] * ranks, [0] * ranks
    for shape in sorted(matrices, key=lambda m: -(m[0] * m[1] * min(m))):
        least = load.index(min(load))
        load[least] += work(shape)
        count[least] += 1
    return max(load), max(count)


def step(s, machine, ranks):
    matrices, others = shapes_of(s)
    M = sum(rows * columns for rows, columns in matrices)
    D, L, V, T = s["model_dim"], s["num_layers"], s["vocab_size"], s["train_seq_len"]
    tokens = s["train_batch_tokens"] / ranks
    part = {}
    part["linear"] = tokens * 6 * (M + V * D) / machine["linear"]
    part["attention"] = tokens * 6 * L * D * T / machine["attention"]
    part["stream"] = tokens * (STREAM_BYTES * L * D + 24 * V) / machine["memory"]
    work, count = deal(matrices, ranks)
    iterations = s["muon_backend_steps"]
    # Products of one shape go together: a handful of launches an iteration whatever the count.
    part["muon"] = 2 * iterations * work / machine["newton_schulz"] + 4 * min(count, 4) * iterations * machine["launch"]
    # Weights, gradients, moments and averages walked over once: some 10 values of 4 bytes an element of what is stepped or averaged.
    part["elements"] = 40 * (M + others) / machine["memory"]
    received = (8 * others + 6 * M) * (ranks - 1) / ranks
    inside = ranks <= machine["ranks_a_host"]
    rate, latency = (machine["inside"], machine["latency_inside"]) if inside else (machine["between"], machine["latency_between"])
    messages = 0 if ranks == 1 else 2 * (len(matrices) + ranks)  # a rank's, of gradients and of what comes back
    part["wire"] = received / rate + (messages * machine["launch"] + 3 * latency if ranks > 1 else 0)
    state = 4 * (M + others) * (2 + 1 + s["ema_enabled"] + s["swa_enabled"]) + 2 * M + 4 * others + \
        (4 * (M + others) * (ranks - 1) / ranks)
    return part, received, state


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="h100", help="h100, or a file with its numbers")
    parser.add_argument("--ranks", default="1,2,4,8,16,32,64,128,256,512")
    parser.add_argument("profile")
    options = parser.parse_args()
    if options.machine in MACHINES:
        machine = MACHINES[options.machine]
    else:
        with open(options.machine) as file:
            machine = json.load(file)
    s = settings_of(options.profile)
    sequences = int(s["train_batch_tokens"] // s["train_seq_len"])
    print("ranks  sequences  " + "  ".join(f"{name:>9}" for name in ("linear", "attention", "stream", "muon", "elements", "wire", "step ms"))
          + "   MB in  state MB  efficiency")
    alone = None
    for ranks in map(int, options.ranks.split(",")):
        if sequences % ranks:
            print(f"{ranks:5}  a step's {sequences} sequences do not divide by {ranks}")
            continue
        part, received, state = step(s, machine, ranks)
        total = sum(part.values())
        alone = alone or total * ranks
        print(f"{ranks:5}  {sequences // ranks:9}  " + "  ".join(f"{1e3 * x:9.2f}" for x in (*part.values(), total))
              + f"  {received / 1e6:6.1f}  {state / 1e6:8.0f}  {alone / ranks / total:9.0%}")


main()
