#!/usr/bin/env python3
"""scaling.py [--machine h100|HARDWARE.json] [--ranks 1,2,…] PROFILE | --published: what a step of a profile costs on so many ranks: milliseconds of each
part, bytes on the wire, memory. The model and where its constants come from: docs/scaling.md.

With --published: what one visit of a layer moves through memory, kernel by kernel, here and in the published scripts of both recipes, and the
step that the model gives both on 8 H100. Needs no build.

Settings and the model are what build/bin/train --print-settings and --print-plan say of the profile and the environment; so TRAIN_BATCH_TOKENS=…
changes them."""
import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# FLOP/s and bytes/s of one rank, seconds of latency. Sources: docs/scaling.md.
MACHINES = {"h100": {"ranks_a_host": 8, "linear": 620e12, "attention": 400e12, "newton_schulz": 300e12, "memory": 2.8e12,
                     "inside": 370e9, "between": 45e9, "latency_inside": 8e-6, "latency_between": 15e-6, "launch": 3e-6}}
STREAM_BYTES = 276  # that pass through memory per token, visit of a layer and unit of width: forward 86, backward 190


def said_by_train(profile, flag):
    said = subprocess.run([os.path.join(ROOT, "build/bin/train"), f"--profile={profile}", flag], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        sys.stderr.write(said.stderr)
        sys.exit(said.returncode)
    return said.stdout


def settings_of(profile):
    values = {}
    for line in said_by_train(profile, "--print-settings").splitlines():
        name, _, value = line.rpartition("  # ")[0].partition(" = ")
        values[name] = float(value) if value.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit() else value
    return values


def plan_of(profile):
    """What the model is (common/plan/plan.h), where a segment of layers is looped with its loops."""
    plan = json.loads(said_by_train(profile, "--print-plan"))
    last = lambda name: plan.get(name + "_looped", plan[name])
    return {"matrices": [w["shape"] for w in plan["weights"] if w["group"] == "matrices"], "parameters": plan["parameters"], "D": plan["model_dim"],
            "V": plan["vocab_size"], "visits": len(last("visits")), "products": last("multiply_adds_per_token"),
            "attention": last("attention_multiply_adds_per_token_and_position")}


def deal(matrices, ranks):
    """The most work that a rank has with the matrices dealt to it (common/optim/partition.cc), in Newton-Schulz's multiply-adds."""
    work = lambda shape: 2 * min(shape) ** 2 * max(shape) + min(shape) ** 3
    load, count = [0] * ranks, [0] * ranks
    for shape in sorted(matrices, key=lambda m: -(m[0] * m[1] * min(m))):
        least = load.index(min(load))
        load[least] += work(shape)
        count[least] += 1
    return max(load), max(count)


def step(s, plan, machine, ranks):
    matrices, V = plan["matrices"], plan["V"]
    M = sum(rows * columns for rows, columns in matrices)
    others = plan["parameters"] - M
    tokens = s["train_batch_tokens"] / ranks
    part = {}
    # Forward and backward: three products of 2 operations per multiply-add; causal attention sees half of the positions.
    part["linear"] = tokens * 6 * plan["products"] / machine["linear"]
    part["attention"] = tokens * 6 * plan["attention"] * s["train_seq_len"] / 2 / machine["attention"]
    part["stream"] = tokens * (STREAM_BYTES * plan["visits"] * plan["D"] + 24 * V) / machine["memory"]
    work, count = deal(matrices, ranks)
    iterations = s["muon_backend_steps"]
    # Products of one shape go together: a handful of launches an iteration whatever the count.
    part["muon"] = 2 * iterations * work / machine["newton_schulz"] + 4 * min(count, 4) * iterations * machine["launch"]
    # Weights, gradients, moments and averages walked over once: some 10 values of 4 bytes per element of what is stepped or averaged.
    part["elements"] = 40 * (M + others) / machine["memory"]
    received = (8 * others + 6 * M) * (ranks - 1) / ranks
    inside = ranks <= machine["ranks_a_host"]
    rate, latency = (machine["inside"], machine["latency_inside"]) if inside else (machine["between"], machine["latency_between"])
    messages = 0 if ranks == 1 else 2 * (len(matrices) + ranks)  # a rank's, of gradients and of what comes back
    part["wire"] = received / rate + (messages * machine["launch"] + 3 * latency if ranks > 1 else 0)
    state = 4 * (M + others) * (2 + 1 + s["ema_enabled"] + s["swa_enabled"]) + 2 * M + 4 * others + \
        (4 * (M + others) * (ranks - 1) / ranks)
    return part, received, state


# The published records' shapes: pull requests 531 and 1855 of openai/parameter-golf. `visits`: of layers per token (1855 loops layers 3 to 5
# twice); published_ms: milliseconds per step that their logs say.
RECIPES = {
    "531": {"D": 512, "V": 1024, "visits": 11, "layers": 11, "mlp": 3, "kv": 0.5, "skips": 5, "xsa": 4, "gated": 0, "lanes": 0, "T": 2048,
            "fused_mlp": False, "published_ms": 83.7},
    "1855": {"D": 512, "V": 8192, "visits": 17, "layers": 11, "mlp": 4, "kv": 0.5, "skips": 8, "xsa": 11, "gated": 17, "lanes": 6, "T": 2048,
             "fused_mlp": True, "published_ms": 121.7},
}
TOKENS = 786432


def kernels(r, stream, ours):
    """(kernel, bytes per token and unit of width) of one visit, each operand read or written once per kernel; averages over the visits.
    `stream`: bytes of an element of the residual stream and its gradient. Products take and give bfloat16. What a kernel fuses: ours as
    common/cuda/backend.cc launches them; the published scripts as torch.compile does (a norm or an activation with the elementwise
    operations around it, nothing with a product), 1855's with its own kernel of MLP product and activation."""
    e, s, f, kv = 2, stream, r["mlp"], r["kv"]
    share = {name: r[name] / r["visits"] for name in ("skips", "xsa", "gated", "lanes")}
    single = 1 - share["lanes"]
    qkv = 1 + 2 * kv
    rows = []
    add = lambda name, amount: rows.append((name, amount))
    # Forward. Published: the sum of the stream and the product before it is part of the norm's kernel.
    add("mix and norm", 2 * s + s + e + share["skips"] * s + (0 if ours else s))
    add("queries, keys, values", e + e * qkv if ours else 3 * e + e * qkv)
    add("norm and rotation of heads", 2 * e * (1 + kv))
    add("attention", e * qkv + e)
    add("exclusive attention", share["xsa"] * e * (2 + kv))
    if ours:  # in the published script the gate is part of the kernel before
        add("attention gates", share["gated"] * 2 * e)
    add("output projection", e + single * 2 * s + share["lanes"] * e if ours else 2 * e)
    add("norm before the MLP", s + single * s + e if ours else 3 * s + e)
    if r["fused_mlp"] and not ours:
        add("MLP up and activation", e + 2 * e * f)
    else:
        add("MLP up", e + e * f)
        add("activation", 2 * e * f)
    add("MLP down", e * f + single * 2 * s + share["lanes"] * e if ours else e * f + e)
    add("lanes", share["lanes"] * (2 * e + 4 * s))
    forward = len(rows)
    # Backward.
    if r["fused_mlp"] and not ours:
        add("MLP down and activation, input", e + 2 * e * f)
    else:
        add("MLP down, input", e + e * f)
        add("activation", (4 if ours else 3) * e * f)
    add("MLP weights", 2 * (e + e * f))
    if ours:
        add("norm again", s + e)
    add("MLP up, input", e * f + e)
    add("norm before the MLP", e + 3 * s + single * e if ours else e + 3 * s)
    # Gradients of attn_scale and mlp_scale: ours come from the weights', once per step; autograd reads both factors and writes the scaled gradient.
    if not ours:
        add("scales of attention and MLP", 2 * 3 * s)
    add("output projection, input and weight", 4 * e)
    if ours:  # what it gates is computed again
        add("attention gates", share["gated"] * (4 * e + share["xsa"] * e * (2 + kv)))
    add("exclusive attention", share["xsa"] * (e * (4 + kv) + (4 * kv if ours else e * kv)))
    add("attention", e * (qkv + 2) + e * qkv + 8)  # and a float32 accumulator of the queries' gradient, written and read
    add("norm and rotation of heads", e * (3 + 5 * kv) if ours else e * (3 + 3 * kv))
    if ours:
        add("mix and norm again", 2 * s + e + share["skips"] * s)
        add("queries, keys, values, input and weight", 2 * (e * qkv + e))
    else:
        add("queries, keys, values, input and weight", 2 * e * qkv + 3 * e + 3 * e)
    add("mix and norm", e + 6 * s + e + share["skips"] * 3 * s if ours else 3 * e + 6 * s + share["skips"] * 2 * s)
    add("lanes", share["lanes"] * (4 * e + 6 * s))
    return rows, forward


def published(machine, ranks=8):
    for name, r in RECIPES.items():
        D, V, f, kv = r["D"], r["V"], r["mlp"], r["kv"]
        per_layer = D * D * (2 + 2 * kv + 2 * f)
        tokens = TOKENS / ranks
        linear = tokens * 6 * (r["visits"] * per_layer + V * D) / machine["linear"]
        attention = tokens * 6 * r["visits"] * D * r["T"] / machine["attention"]
        elements = 40 * (r["layers"] * per_layer + V * D) / machine["memory"]
        sides = {"here": (4, True), "here, bfloat16 stream": (2, True), "published script": (2, False)}
        tables = {side: kernels(r, *how) for side, how in sides.items()}
        print(f"\nrecipe {name}: bytes per token, visit and unit of width\n")
        print("| kernel | " + " | ".join(sides) + " |\n|---|" + "---:|" * len(sides))
        for way in ("forward", "backward"):
            lists = {side: rows[:forward] if way == "forward" else rows[forward:] for side, (rows, forward) in tables.items()}
            names = list(dict.fromkeys(kernel for rows in lists.values() for kernel, _ in rows))
            for kernel in names:
                amounts = [dict(lists[side]).get(kernel) for side in sides]
                print(f"| {way}: {kernel} | " + " | ".join("" if a is None else f"{a:.1f}" for a in amounts) + " |")
        sums = {side: sum(amount for _, amount in rows) for side, (rows, _) in tables.items()}
        print("| all | " + " | ".join(f"{sums[side]:.0f}" for side in sides) + " |")
        # Logits in float32 here; 1855's own kernel of the loss has them in bfloat16, written and read, and their gradient besides.
        head = {side: 24 if how[1] or name == "531" else 8 for side, how in sides.items()}
        print(f"\n| 8 H100, ms | linear | attention | stream | elements | step |\n|---|---:|---:|---:|---:|---:|")
        for side in sides:
            stream = tokens * (sums[side] * r["visits"] * D + head[side] * V) / machine["memory"]
            parts = (linear, attention, stream, elements)
            print(f"| {side} | " + " | ".join(f"{1e3 * x:.1f}" for x in (*parts, sum(parts))) + " |")
        print(f"| published script, measured | | | | | {r['published_ms']} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="h100", help="h100, or a file with its numbers")
    parser.add_argument("--ranks", default="1,2,4,8,16,32,64,128,256,512")
    parser.add_argument("--published", action="store_true", help="the published scripts by the same model")
    parser.add_argument("profile", nargs="?")
    options = parser.parse_args()
    if options.machine in MACHINES:
        machine = MACHINES[options.machine]
    else:
        with open(options.machine) as file:
            machine = json.load(file)
    if options.published:
        return published(machine)
    if options.profile is None:
        parser.error("a profile, or --published")
    s, plan = settings_of(options.profile), plan_of(options.profile)
    sequences = int(s["train_batch_tokens"] // s["train_seq_len"])
    print("ranks  sequences  " + "  ".join(f"{name:>9}" for name in ("linear", "attention", "stream", "muon", "elements", "wire", "step ms"))
          + "   MB in  state MB  efficiency")
    alone = None
    for ranks in map(int, options.ranks.split(",")):
        if sequences % ranks:
            print(f"{ranks:5}  a step's {sequences} sequences do not divide by {ranks}")
            continue
        part, received, state = step(s, plan, machine, ranks)
        total = sum(part.values())
        alone = alone or total * ranks
        print(f"{ranks:5}  {sequences // ranks:9}  " + "  ".join(f"{1e3 * x:9.2f}" for x in (*part.values(), total))
              + f"  {received / 1e6:6.1f}  {state / 1e6:8.0f}  {alone / ranks / total:9.0%}")


main()
