#!/usr/bin/env python3
"""How long each program takes to say --help, beside LibTorch's own loading (/bin/true with libtorch_cpu preloaded).

bench/startup.py [BUILD]: medians of interleaved runs; MAPPED says which of LibTorch's and CUDA's libraries a program had loaded.
"""
import glob, os, statistics, subprocess, sys, time

build = sys.argv[1] if len(sys.argv) > 1 else "build"
root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
torch = glob.glob(root + "/.venv/lib/python3*/site-packages/torch/lib/libtorch_cpu.so")[0]
programs = sorted(p for p in glob.glob(build + "/bin/*") if not p.endswith(".digest"))
commands = {os.path.basename(p): ([p, "--help"], {}) for p in programs}
commands["(LibTorch alone)"] = (["/bin/true"], {"LD_PRELOAD": torch})


def run(command, environment):
    start = time.perf_counter()
    subprocess.run(command, env=os.environ | environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def mapped(command, environment):
    trace = subprocess.run(command, env=os.environ | environment | {"LD_DEBUG": "files"}, capture_output=True, text=True).stderr
    loaded = {line.split("/")[-1].strip() for line in trace.splitlines() if "calling init:" in line}
    return " ".join(n for n in ("libtorch_cpu.so", "libtorch_cuda.so", "libnccl.so.2") if n in loaded) or "none"


times = {name: [] for name in commands}
for _ in range(11):
    for name, (command, environment) in commands.items():
        times[name].append(run(command, environment))
print(f"{'PROGRAM':18} {'MS':>7}  MAPPED")
for name, (command, environment) in commands.items():
    print(f"{name:18} {1e3 * statistics.median(times[name]):7.1f}  {mapped(command, environment)}")
