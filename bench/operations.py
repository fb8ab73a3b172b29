"""Prints what bench-operations measures as a table: every fused operation beside its plain LibTorch composition, medians of
repetitions that are interleaved at random.

bench/operations.py build/bin/bench-operations [--out FILE.json] [FLAG OF GOOGLE BENCHMARK …]
"""
import argparse, json, pathlib, subprocess, sys, tempfile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--out", type=pathlib.Path, help="keep Google Benchmark's own report here")
    arguments, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        report = arguments.out or pathlib.Path(folder) / "report.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([arguments.program, "--benchmark_repetitions=5", "--benchmark_min_time=0.02", "--benchmark_enable_random_interleaving=true",
                        "--benchmark_report_aggregates_only=true", f"--benchmark_out={report}", "--benchmark_out_format=json", *flags],
                       check=True, stdout=subprocess.DEVNULL)
        benchmarks = json.loads(report.read_text())["benchmarks"]
    medians = {}  # of (operation, way, shape, precision): {who: milliseconds}
    for entry in benchmarks:
        if entry.get("aggregate_name") == "median":
            *what, who = entry["run_name"].removesuffix("/real_time").split("/")
            medians.setdefault(tuple(what), {})[who] = entry["real_time"]
    print("| operation | | shape | precision | fused, ms | plain, ms | |\n|---|---|---|---|---:|---:|---:|")
    for (operation, way, shape, precision), by in sorted(medians.items(), key=lambda item: (item[0][2], item[0])):
        print(f"| {operation} | {way} | {shape} | {precision} | {by['ours']:.3g} | {by['plain']:.3g} | {by['plain'] / by['ours']:.2f} x |")


if __name__ == "__main__":
    sys.exit(main())
