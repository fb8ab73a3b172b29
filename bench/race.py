"""Races fairway against PyTorch on this machine: whole training steps, peak memory, windows of sliding evaluation. Every round runs
every contestant once, one after the other, so that all see the same weather; medians over the rounds are compared.

Writes results.json, table.md and race.svg into the folder given by --out."""

import argparse
import json
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SHAPES = {
    "record_shape": dict(TRAIN_BATCH_TOKENS=4096, TRAIN_SEQ_LEN=2048),
    "small_shape": dict(TRAIN_BATCH_TOKENS=8192, TRAIN_SEQ_LEN=512, MODEL_DIM=128, NUM_HEADS=4, NUM_KV_HEADS=2, BIGRAM_VOCAB_SIZE=4096,
                        BIGRAM_DIM=64),
    # Pull request 1855's, of whole sequences; with its loops and without.
    "field_shape": dict(TRAIN_BATCH_TOKENS=4096, TRAIN_SEQ_LEN=2048, VOCAB_SIZE=8192, NUM_LOOPS=2),
    "field_shape_unlooped": dict(TRAIN_BATCH_TOKENS=4096, TRAIN_SEQ_LEN=2048, VOCAB_SIZE=8192, NUM_LOOPS=0),
}
FIELD = {"field_shape", "field_shape_unlooped"}
COMMON = dict(GRAD_MICRO_STEPS=1, MAX_WALLCLOCK_SECONDS=0)


def corpus(folder, vocabulary=1024, tokens=300_000):
    folder.mkdir()
    numbers = random.Random(1)
    ids = struct.pack(f"<{tokens}H", *(numbers.randrange(vocabulary) for _ in range(tokens)))
    (folder / "fineweb_train_000000.bin").write_bytes(struct.pack("<256i", 20240520, 1, tokens, *[0] * 253) + ids)


def forget(folder):
    """Drops the shards from the page cache: what is read next comes from the disk."""
    for shard in folder.iterdir():
        with open(shard, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command, settings):
    """The command's JSON line and its peak memory in bytes."""
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(list(map(str, command)), env=environment, stdout=out, stderr=errors)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), errors.seek(0)
        if child.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: status {child.returncode}: {errors.read()[-2000:]}")
        return json.loads(out.read().splitlines()[-1]), usage.ru_maxrss * 1024


class Race:
    def __init__(self, arguments):
        self.arguments = arguments

    def ours(self, what, shape, settings, precision, *more):
        if shape in FIELD:
            more = ("--profile", HERE.parent / "pipelines/field-1855.profile", *more)
            settings = settings | {"PUBLISHED_QUIRKS": 0, "PACKED_DOCUMENTS": 0, "EVAL_SEQ_LEN": 0}
        return run([self.arguments.bin / "bench-step", "--what", what, *more], COMMON | SHAPES[shape] | settings | {"PRECISION": precision})

    def peer(self, command, shape, *more):
        return run([self.arguments.python, HERE / ("field_peer.py" if shape in FIELD else "gpt_peer.py"), command, "--seq", SHAPES[shape]["TRAIN_SEQ_LEN"], *more], SHAPES[shape])

    def steps(self, shape, data):
        contestants = {f"fairway {p}": (lambda p=p: self.ours("steps", shape, data, p, "--steps", self.arguments.steps))
                       for p in ("bfloat16", "float32")}
        # The same with each of the two ways to multiply, whichever auto has taken.
        contestants |= {f"fairway bfloat16, {way} products": (lambda way=way: self.ours("steps", shape, data | {"PRODUCTS": way}, "bfloat16", "--steps", self.arguments.steps))
                        for way in ("own", "library")}
        for mode in self.arguments.modes:
            for dtype in ("bf16", "fp32"):
                contestants[f"PyTorch {mode} {dtype}"] = lambda mode=mode, dtype=dtype: self.peer(
                    "bench", shape, "--tokens", SHAPES[shape]["TRAIN_BATCH_TOKENS"], "--mode", mode, "--dtype", dtype, "--steps", self.arguments.steps, "--warmup", 1)
        if self.arguments.contestants:
            contestants = {name: start for name, start in contestants.items() if name in self.arguments.contestants}
        seconds, processor, memory, products = {}, {}, {}, []
        for number in range(self.arguments.rounds):
            for name, start in contestants.items():
                line, peak = start()
                step = line["step_s"]
                seconds.setdefault(name, []).append(step)
                processor.setdefault(name, []).append(line["processor_s"])
                memory.setdefault(name, []).append(peak)
                print(f"{shape} round {number + 1}: {name}: {step:.3f} s ({line['processor_s']:.3f} s of the processors), {peak / 1e6:.0f} MB", file=sys.stderr, flush=True)
            products.append(self.ours("products", shape, data, "bfloat16")[0]["products_s"])
        tokens = SHAPES[shape]["TRAIN_BATCH_TOKENS"]
        median = {name: statistics.median(all) for name, all in seconds.items()}
        worked = {name: statistics.median(all) for name, all in processor.items()}
        peak = {name: statistics.median(all) for name, all in memory.items()}
        best = min((n for n in median if n.startswith("PyTorch")), key=median.get)
        mine = min((n for n in median if n.startswith("fairway")), key=median.get)
        return {"tokens_per_s": {n: tokens / s for n, s in median.items()}, "step_s": seconds, "peak_bytes": peak, "ours": mine,
                "best_pytorch": best, "products_s": statistics.median(products),
                "speed_ratio": median[best] / median[mine],
                # On a machine with other work: what the processors spent, the least of either side.
                "processor_s": processor, "processor_ratio": min(s for n, s in worked.items() if n.startswith("PyTorch")) / worked[mine],
                "gemm_ratio": median.get("fairway bfloat16", median[mine]) / statistics.median(products),
                "memory_ratio": peak[mine] / peak[best]}

    def windows(self, data):
        """The published evaluation takes 32 windows at a time; PyTorch is faster with 4, we are not."""
        contestants = {"fairway bfloat16": lambda: self.ours("windows", "record_shape", data | {"EVAL_STRIDE": 64}, "bfloat16", "--steps", 1)}
        for count, dtype in ((32, "bf16"), (4, "bf16"), (4, "fp32")):
            contestants[f"PyTorch eager {dtype}, {count} at a time"] = lambda count=count, dtype=dtype: self.peer(
                "windows", "record_shape", "--dtype", dtype, "--steps", 1, "--count", count)
        seconds, products = {name: [] for name in contestants}, []
        for _ in range(self.arguments.rounds):
            for name, start in contestants.items():
                line = start()[0]
                seconds[name].append(line["window_s"])
                products += [line["products_s"]] if "products_s" in line else []
                print(f"windows: {name}: {seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
        median = {name: statistics.median(all) for name, all in seconds.items()}
        ours = median["fairway bfloat16"]
        return {"window_s": seconds, "eval_ratio": median["PyTorch eager bf16, 32 at a time"] / ours,
                "eval_ratio_best_batch": min(s for name, s in median.items() if name.startswith("PyTorch")) / ours,
                "gemm_ratio": ours / statistics.median(products)}

    def growth(self, data):
        rows = []
        for tokens in (4096, 8192, 16384, 32768, 65536):
            forget(pathlib.Path(data["DATA_PATH"]))
            line, peak = self.ours("steps", "small_shape", data | {"TRAIN_BATCH_TOKENS": tokens}, "bfloat16", "--steps", 3, "--warmup", 0)
            rows.append({"tokens": tokens, "step_s": line["step_s"], "peak_bytes": peak,
                         "data_wait_share": line["data_wait_s"] / sum(line["times_s"])})
        return rows


def table(results):
    lines = ["| shape | contestant | tokens/s | peak memory |", "|---|---|---:|---:|"]
    for shape in SHAPES:
        if shape not in results:
            continue
        r = results[shape]
        for name, rate in sorted(r["tokens_per_s"].items(), key=lambda item: -item[1]):
            lines.append(f"| {shape} | {name} | {rate:,.0f} | {r['peak_bytes'][name] / 1e6:,.0f} MB |")
        lines.append(f"| {shape} | **speed {r['speed_ratio']:.2f} x {r['best_pytorch']}**, {r['processor_ratio']:.2f} x in processor time; step / products alone {r['gemm_ratio']:.2f}; "
                     f"memory {r['memory_ratio']:.2f} | | |")
    if "evaluation" in results:
        e = results["evaluation"]
        lines.append(f"| record_shape | sliding evaluation, windows/s over PyTorch's: **{e['eval_ratio']:.2f}** at the published 32 at a time, "
                     f"{e['eval_ratio_best_batch']:.2f} at its best; window / products alone {e['gemm_ratio']:.2f} | | |")
    if "growth" in results:
        lines += ["", "| tokens per step (small shape, cold page cache) | seconds | microseconds per token | waiting for data | peak memory |",
                  "|---:|---:|---:|---:|---:|"]
        lines += [f"| {r['tokens']:,} | {r['step_s']:.2f} | {1e6 * r['step_s'] / r['tokens']:.1f} | {100 * r['data_wait_share']:.2f}% "
                  f"| {r['peak_bytes'] / 1e6:,.0f} MB |" for r in results["growth"]]
    return "\n".join(lines) + "\n"


def picture(results, out):
    shapes = [s for s in SHAPES if s in results]
    names = list(results[shapes[0]]["tokens_per_s"])
    rows = ["name " + " ".join(shapes)]
    for name in names:
        rows.append(f'"{name}" ' + " ".join(str(results[s]["tokens_per_s"].get(name, 0) / results[s]["tokens_per_s"][results[s]["best_pytorch"]])
                                              for s in shapes))
    (out / "race.dat").write_text("\n".join(rows) + "\n")
    series = ", ".join(f"'{out / 'race.dat'}' using {2 + i}:xtic(1) title '{s.replace('_', ' ')}'" for i, s in enumerate(shapes))
    subprocess.run(["gnuplot", "-e", f"set terminal svg size 760,420; set output '{out / 'race.svg'}'; set style data histograms; "
                    "set style fill solid 0.8; set boxwidth 0.9; set yrange [0:*]; set ylabel 'tokens/s over the best PyTorch'; "
                    f"set grid ytics; set xtics rotate by -25; plot {series}"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, required=True, help="folder of bench-step")
    parser.add_argument("--python", default=sys.executable, help="Python that has torch")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="steps a contestant takes in a round")
    parser.add_argument("--contestants", nargs="+", default=[], help="only these, by the names in the table")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=["eager", "compile"])
    parser.add_argument("--parts", nargs="+", choices=(*SHAPES, "evaluation", "growth"), default=[*SHAPES, "evaluation", "growth"])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    race, results = Race(arguments), {}
    with tempfile.TemporaryDirectory() as folder:
        for part in arguments.parts:
            vocabulary = SHAPES.get(part, {}).get("VOCAB_SIZE", 1024)
            data = {"DATA_PATH": f"{folder}/{vocabulary}"}
            if not os.path.exists(data["DATA_PATH"]):
                corpus(pathlib.Path(data["DATA_PATH"]), vocabulary)
            results[part] = race.steps(part, data) if part in SHAPES else race.windows(data) if part == "evaluation" else race.growth(data)
    (arguments.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "table.md").write_text(table(results))
    if any(shape in results for shape in SHAPES):
        picture(results, arguments.out)
    print(table(results), end="")


if __name__ == "__main__":
    main()
