#!/usr/bin/env python3
"""Whether gptq-lite meets whatever budget it is given: N random ones, from 15% to 120% of the bytes that the published quantiser takes.

    python3 bench/budgets.py [--budgets 30] [--bin build/bin] train.ckpt weights.ckpt

train.ckpt was trained with --quantiser gptq --calibration train, weights.ckpt is what ema-finalize made of it. Quantisers alternate. Ends
with status 1 where an artifact is larger than its budget or more than 0.1% smaller.
"""
import argparse, json, pathlib, random, subprocess, sys, tempfile

HERE = pathlib.Path(__file__).resolve().parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=HERE.parent / "build" / "bin")
    parser.add_argument("--budgets", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("train", type=pathlib.Path)
    parser.add_argument("weights", type=pathlib.Path)
    arguments = parser.parse_args()
    scratch = tempfile.TemporaryDirectory()
    quantised = pathlib.Path(scratch.name) / "quantised.ckpt"

    def program(name, *words):
        done = subprocess.run([arguments.bin / name, *map(str, words)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(done.stderr.strip().splitlines()[-1])
        return json.loads(done.stdout)

    program("gptq-lite", "--quantiser", "published", arguments.weights, quantised)
    published = program("pack-zstd", "--dry-run", quantised)["artifact_bytes"]
    draw, furthest, missed = random.Random(arguments.seed), 0, 0
    for i in range(arguments.budgets):
        budget, quantiser = int(draw.uniform(0.15, 1.2) * published), ("rtn", "gptq")[i % 2]
        program("gptq-lite", "--training", arguments.train, "--quantiser", quantiser, "--fp16-keep-name-patterns", "", "--code-bytes", 0,
                "--target-bytes", budget, arguments.weights, quantised)
        size = program("pack-zstd", "--dry-run", quantised)["artifact_bytes"]
        below = 1 - size / budget
        furthest, missed = max(furthest, below), missed + (not 0 <= below <= 0.001)
        print(f"{quantiser:4} {budget:9,} {size:9,}  {100 * below:.4f}% below", flush=True)
    print(f"{arguments.budgets} budgets of 15% to 120% of {published:,} bytes: at most {100 * furthest:.4f}% below, {missed} missed")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
