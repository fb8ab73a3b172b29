#!/usr/bin/env python3
"""What each technique is worth: a table of bits per byte from the packed artifact, each change against the same base, over seeds.

bench/ablate.py [--profile cpu-demo] [--seeds 1337,42,2025] [--only NAME,NAME] [--docs FILE.jsonl] [--out build/ablation]
                [--list] [--table] [NAME=VALUE …]

Every variant is the profile with the settings of VARIANTS changed (and NAME=VALUE in all of them, for shorter runs: ITERATIONS=70
WARMDOWN_ITERS=35). It is trained, finalised, quantised, packed and scored (sliding) once per seed, under OUT; what is there already
is not made again, so that a table can grow run by run. --table only prints what is there.

The difference is the mean over the seeds that both have of (variant - base), with its standard error: the standard deviation of
these paired differences over the root of their number. Negative is better. --docs takes documents (JSON, one per line, key text) in
place of the profile's corpus: nine of ten train, every tenth is scored; TOKENIZER_PATH names their tokenizer.
"""
import argparse, functools, hashlib, json, math, os, shutil, statistics, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = ROOT + "/build/bin/"
# Changed settings. Variants that change nothing before evaluation share one training with the base; calibration, a part of training,
# is of the weights of `source`.
VARIANTS = {
    "base": {},
    # removed
    "EMA off (last weights)": {"source": "last"},
    "SWA in place of EMA": {"source": "swa"},
    "late QAT off": {"late_qat_threshold": "0"},
    "XSA off": {"xsa_last_n": "0"},
    "smear off": {"smear": "0"},
    "bigram off": {"bigram_vocab_size": "0"},
    # added: the sources are in common/settings/settings.def
    "XSA on all layers": {"xsa_last_n": "11"},
    "half of a head rotated": {"rope_dims": "8"},
    "a quarter of a head rotated": {"rope_dims": "4"},
    "layer scale": {"ln_scale": "1"},
    "leaky ReLU squared": {"mlp_negative_slope": "0.5"},
    "Muon weight decay 0.2": {"muon_weight_decay": "0.2"},
    "4096 pieces": {"vocab_size": "4096", "data_path": ROOT + "/data/bible-kjv-4096",
                    "tokenizer_path": ROOT + "/data/bible-kjv-4096/tokenizer.model"},
    "method kv_cache": {"method": "kv_cache"},
    "method ttt": {"method": "ttt", "ttt_chunk_tokens": "4096"},
}
AFTER_TRAINING = {"method", "ttt_chunk_tokens", "ttt_steps", "ttt_lr", "ttt_momentum"}


def run(program, *arguments):
    """What it prints."""
    command = [BIN + program, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"ablate: {' '.join(command)}: status {done.returncode}\n{done.stderr.decode(errors='replace').splitlines()[-1]}")
    return done.stdout


def flags_of(arguments, changes):
    given = dict(pair.split("=", 1) for pair in arguments.settings)
    data = {"data_path": arguments.data} if arguments.data else {}
    settings = data | {name.lower(): value for name, value in given.items()} | changes
    return ["--profile", arguments.profile, "--threads", str(arguments.threads)] + \
        [word for name, value in settings.items() for word in ("--" + name.replace("_", "-"), value)]


@functools.cache
def digest_of(*flags):
    """Of all settings, wherever they come from."""
    said = b""
    for program in ("train", "gptq-lite", "eval-sliding"):
        for line in run(program, *flags, "--print-settings").splitlines():
            said += line.rpartition(b"  # ")[0] + b"\n"
    return hashlib.sha256(said).hexdigest()[:12]


def folder_of(arguments, seed, changes):
    """One folder for one set of settings, whatever a variant is called."""
    return f"{arguments.out}/{digest_of(*flags_of(arguments, changes))}-{seed}"


def make(arguments, seed, changes):
    """The variant's eval.json, made where it is missing."""
    own = {name: value for name, value in changes.items() if name not in AFTER_TRAINING}
    trained, scored = folder_of(arguments, seed, own), folder_of(arguments, seed, changes)
    flags = ["--seed", str(seed), *flags_of(arguments, changes)]
    for folder in (trained, scored):
        os.makedirs(folder, exist_ok=True)
    if os.path.exists(scored + "/eval.json"):
        return
    if not os.path.exists(trained + "/train.ckpt"):
        run("train", *flags, "--val-loss-every", "0", "--resume", "newest", "--out", trained + "/train.ckpt", "--log", trained + "/log")
    log = ["--log", scored + "/log"]
    run("ema-finalize", *flags, trained + "/train.ckpt", scored + "/weights.ckpt", *log)
    run("gptq-lite", *flags, "--training", trained + "/train.ckpt", scored + "/weights.ckpt", scored + "/quantised.ckpt", *log)
    run("pack-zstd", scored + "/quantised.ckpt", scored + "/model.bin.zst", *log)
    run("eval-sliding", *flags, scored + "/model.bin.zst", "--out", scored + "/eval.json", *log)


def read(arguments, seed, changes):
    path = folder_of(arguments, seed, changes) + "/eval.json"
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)


def documents(arguments):
    """Shards of the documents; returns their folder."""
    with open(arguments.docs, "rb") as file:
        lines = file.readlines()
    tokenizer = os.environ["TOKENIZER_PATH"]
    with open(tokenizer, "rb") as file:
        key = hashlib.sha256(b"".join(lines) + file.read()).hexdigest()[:12]
    folder = os.path.abspath(f"{arguments.out}/documents-{key}")
    if os.path.exists(folder):
        return folder
    made = folder + ".tmp"
    shutil.rmtree(made, ignore_errors=True)
    os.makedirs(made)
    for split, chosen in (("train", lambda i: i % 10 != 9), ("val", lambda i: i % 10 == 9)):
        with open(f"{made}/{split}.jsonl", "wb") as file:
            file.writelines(line for i, line in enumerate(lines) if chosen(i))
        run("tokenize-shard", "--key", "text", "--out", made, "--split", split, "--tokenizer", tokenizer, f"{made}/{split}.jsonl")
    os.rename(made, folder)
    return folder


def table(arguments, seeds):
    print(f"| variant | seeds | bits per byte | difference from base | artifact bytes |\n|---|---:|---:|---:|---:|")
    base = {seed: read(arguments, seed, {}) for seed in seeds}
    for name in arguments.only:
        found = {seed: read(arguments, seed, VARIANTS[name]) for seed in seeds}
        scores = [score for score in found.values() if score]
        if not scores:
            continue
        apart = [found[seed]["val_bpb"] - base[seed]["val_bpb"] for seed in seeds if found[seed] and base[seed]]
        error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
        difference = f"{statistics.mean(apart):+.4f} ± {error:.4f}" if apart and name != "base" else ""
        print(f"| {name} | {len(scores)} | {statistics.mean(s['val_bpb'] for s in scores):.4f} | {difference} | "
              f"{statistics.mean(s['artifact_bytes'] for s in scores):,.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="cpu-demo")
    parser.add_argument("--seeds", default="1337,42,2025")
    parser.add_argument("--only", default="", help="names of variants, with commas between them; without it: all")
    parser.add_argument("--docs", default="")
    parser.add_argument("--data", default="", help="folder of shards in place of the profile's")
    parser.add_argument("--threads", default=0, type=int)
    parser.add_argument("--out", default=ROOT + "/build/ablation")
    parser.add_argument("--list", action="store_true", help="name the variants and their settings, and end")
    parser.add_argument("--table", action="store_true", help="make nothing, print what is there")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_args()
    if arguments.list:
        for name, changes in VARIANTS.items():
            print(f"{name:28}", " ".join(f"{setting}={value}" for setting, value in changes.items()))
        return
    arguments.only = arguments.only.split(",") if arguments.only else list(VARIANTS)
    for name in arguments.only:
        if name not in VARIANTS:
            parser.error(f"no variant '{name}' (--list)")
    for pair in arguments.settings:
        if "=" not in pair:
            parser.error(f"'{pair}' is not of the form NAME=VALUE")
    if arguments.docs:  # they have one tokenizer
        arguments.only = [name for name in arguments.only if "tokenizer_path" not in VARIANTS[name]]
    if arguments.docs:
        if not os.environ.get("TOKENIZER_PATH"):
            parser.error("--docs needs TOKENIZER_PATH")
        arguments.data = documents(arguments)
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    if not arguments.table:
        for seed in seeds:  # one seed of all variants before the next: a table from early on
            for name in arguments.only:
                make(arguments, seed, VARIANTS[name])
    table(arguments, seeds)


if __name__ == "__main__":
    main()
