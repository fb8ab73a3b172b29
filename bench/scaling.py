#!/usr/bin/env python3
"""scaling.py [--machine h100|HARDWARE.json] [--ranks 1,2,…] PROFILE | --published: what a step of a profile costs on so many ranks: milliseconds of each
part, bytes on the wire, memory. The model and where its constants come from: docs/scaling.md.

With --published: what a step moves through memory here and in the published scripts of both recipes, and the step that the model gives both on
8 H100.

Settings and the model are what build/bin/train --print-settings and --print-plan say of the profile and the environment; so TRAIN_BATCH_TOKENS=…
changes them. What our step moves is what its operations say of themselves: build/bin/bench-bytes (`ninja -C build bench-bytes`)."""
import argparse
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# FLOP/s and bytes/s of one rank, seconds of latency. Sources: docs/scaling.md.
MACHINES = {"h100": {"ranks_a_host": 8, "linear": 620e12, "attention": 400e12, "newton_schulz": 300e12, "memory": 2.8e12,
                     "inside": 370e9, "between": 45e9, "latency_inside": 8e-6, "latency_between": 15e-6, "launch": 3e-6}}


def said_by(program, profile, *flags, **environment):
    said = subprocess.run([os.path.join(ROOT, "build/bin", program), f"--profile={profile}", *flags], capture_output=True, text=True, check=False,
                          env=os.environ | environment)
    if said.returncode != 0:
        sys.stderr.write(said.stderr)
        sys.exit(said.returncode)
    return said.stdout


def settings_of(profile):
    values = {}
    for line in said_by("train", profile, "--print-settings").splitlines():
        name, _, value = line.rpartition("  # ")[0].partition(" = ")
        values[name] = float(value) if value.replace(".", "", 1).replace("-", "", 1).replace("e", "", 1).isdigit() else value
    return values


def plan_of(profile):
    """What the model is (common/plan/plan.h), where a segment of layers is looped with its loops."""
    plan = json.loads(said_by("train", profile, "--print-plan"))
    last = lambda name: plan.get(name + "_looped", plan[name])
    return {"matrices": [w["shape"] for w in plan["weights"] if w["group"] == "matrices"], "parameters": plan["parameters"], "D": plan["model_dim"],
            "V": plan["vocab_size"], "visits": len(last("visits")), "products": last("multiply_adds_per_token"),
            "attention": last("attention_multiply_adds_per_token_and_position"), "bytes": bytes_of(profile)["looped"]["sum"]}


def bytes_of(profile, **environment):
    """Bytes per token that a micro-step moves through memory, without loops and with them."""
    return json.loads(said_by("bench-bytes", profile, **environment).splitlines()[-1])


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
    matrices = plan["matrices"]
    M = sum(rows * columns for rows, columns in matrices)
    others = plan["parameters"] - M
    tokens = s["train_batch_tokens"] / ranks
    part = {}
    # Forward and backward: three products of 2 operations per multiply-add; causal attention sees half of the positions.
    part["linear"] = tokens * 6 * plan["products"] / machine["linear"]
    part["attention"] = tokens * 6 * plan["attention"] * s["train_seq_len"] / 2 / machine["attention"]
    part["stream"] = tokens * plan["bytes"] / machine["memory"]
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


# The published records' shapes: pull requests 531 and 1855 of openai/parameter-golf. The latter's loop visits layers 3 to 5 twice more, from
# step 2,178 of 4,945 on. published_ms: milliseconds per step that their logs say.
COMMON = {"D": 512, "kv": 0.5, "layers": 11, "T": 2048}
RECIPES = {
    "531": {"profile": "published-531", "V": 1024, "mlp": 3, "fused_mlp": False, "head": 24, "published_ms": 83.7,
            "loops": {"unlooped": {"visits": 11, "skips": 5, "xsa": 4, "gated": 0, "lanes": 0, "of_steps": 1}}},
    "1855": {"profile": "record-h100x8", "V": 8192, "mlp": 4, "fused_mlp": True, "head": 8, "published_ms": 121.7,
             "loops": {"unlooped": {"visits": 11, "skips": 5, "xsa": 11, "gated": 11, "lanes": 3, "of_steps": 2178 / 4945},
                       "looped": {"visits": 17, "skips": 8, "xsa": 17, "gated": 17, "lanes": 3, "of_steps": 1 - 2178 / 4945}}},
}
TOKENS = 786432


def kernels(r):
    """(kernel, bytes per token and unit of width) of one visit in a published script, each operand read or written once per kernel; averages over
    the visits. Everything is bfloat16. A kernel fuses what torch.compile does, a norm or an activation with the elementwise operations
    around it and nothing with a product; 1855's has its own kernel of MLP product and activation."""
    e, f, kv = 2, r["mlp"], r["kv"]
    share = {name: r[name] / r["visits"] for name in ("skips", "xsa", "gated", "lanes")}
    qkv = 1 + 2 * kv
    rows = []
    add = lambda name, amount: rows.append((name, amount))
    # Forward. The sum of the stream and the product before it is part of the norm's kernel.
    add("mix and norm", 5 * e + share["skips"] * e)
    add("queries, keys, values", 3 * e + e * qkv)
    add("norm and rotation of heads", 2 * e * (1 + kv))
    add("attention", e * qkv + e)
    add("exclusive attention and gates", share["xsa"] * e * (2 + kv))
    add("output projection", 2 * e)
    add("norm before the MLP", 4 * e)
    if r["fused_mlp"]:
        add("MLP up and activation", e + 2 * e * f)
    else:
        add("MLP up", e + e * f)
        add("activation", 2 * e * f)
    add("MLP down", e * f + e)
    add("lanes", share["lanes"] * 6 * e)
    # Backward.
    if r["fused_mlp"]:
        add("MLP down and activation, input", e + 2 * e * f)
    else:
        add("MLP down, input", e + e * f)
        add("activation", 3 * e * f)
    add("MLP weights", 2 * (e + e * f))
    add("MLP up, input", e * f + e)
    add("norm before the MLP", 4 * e)
    add("scales of attention and MLP", 2 * 3 * e)
    add("output projection, input and weight", 4 * e)
    add("exclusive attention and gates", share["xsa"] * e * (4 + 2 * kv))
    add("attention", e * (qkv + 2) + e * qkv + 8)  # and a float32 accumulator of the queries' gradient, written and read
    add("norm and rotation of heads", e * (3 + 3 * kv))
    add("queries, keys, values, input and weight", 2 * e * qkv + 6 * e)
    add("mix and norm", 9 * e + share["skips"] * 2 * e)
    add("lanes", share["lanes"] * 10 * e)
    return rows


def published(machine, ranks=8):
    for name, recipe in RECIPES.items():
        tokens, average = TOKENS / ranks, {}
        # What the quirks change is no traffic of a step; with them there is no stream in bfloat16.
        ours = {f"here, residual stream in {held}": bytes_of(recipe["profile"], PUBLISHED_QUIRKS="0", RESIDUAL_PRECISION=held)
                for held in ("float32", "bfloat16")}
        print(f"\nrecipe {name}, 8 H100\n")
        print("| visits | | bytes per token, visit and width | output layer | linear, ms | attention | memory | elements | step |")
        print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
        for loops, visits in recipe["loops"].items():
            r = COMMON | recipe | visits
            D, V, f, kv = r["D"], r["V"], r["mlp"], r["kv"]
            per_layer = D * D * (2 + 2 * kv + 2 * f)
            sides = {"published script": (sum(amount for _, amount in kernels(r)), r["head"] * V)}
            for side, counted in ours.items():
                operations = counted[loops]["operations"]
                head = operations["CrossEntropy"] + operations["output layer"]
                sides[side] = ((counted[loops]["sum"] - head) / r["visits"] / D, head)
            for side, (per_visit, output) in sides.items():
                parts = (tokens * 6 * (r["visits"] * per_layer + V * D) / machine["linear"],
                         tokens * 6 * r["visits"] * D * r["T"] / machine["attention"],
                         tokens * (per_visit * r["visits"] * D + output) / machine["memory"],
                         40 * (r["layers"] * per_layer + V * D) / machine["memory"])
                average[side] = average.get(side, 0) + sum(parts) * r["of_steps"]
                print(f"| {r['visits']} | {side} | {per_visit:.0f} | {output / 1e3:.0f} kB | " + " | ".join(f"{1e3 * x:.1f}" for x in (*parts, sum(parts))) + " |")
        for side, seconds in average.items():
            print(f"{side}: {1e3 * seconds:.1f} ms over the steps of the log")
        print(f"published script, measured: {recipe['published_ms']} ms")


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
