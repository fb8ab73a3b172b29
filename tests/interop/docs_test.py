"""Runs the snippets of docs/python.md, in their order, in the folder of a run of a tiny model."""
import argparse
import os
import pathlib
import re
import subprocess
import tempfile

parser = argparse.ArgumentParser()
parser.add_argument("--bin", type=pathlib.Path, required=True)
parser.add_argument("--source", type=pathlib.Path, required=True)
ARGS = parser.parse_args()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": f"bin:{os.environ['PATH']}", "THREADS": "1"})
    assert done.returncode == 0, f"{command}: status {done.returncode}: {done.stderr}"


with tempfile.TemporaryDirectory() as folder:
    # As scripts/in-run and Makefile.runs leave a run.
    os.chdir(folder)
    os.symlink(ARGS.bin, "bin")
    run("python3", str(ARGS.source / "tests/cli/make-shards"), "data")
    profile = ["--profile", str(ARGS.source / "tests/cli/small.profile"), "--data-path", "data", "--tokenizer-path", "data/tokenizer.model"]
    run("tokenize-shard", "--tokenizer", "data/tokenizer.model", "--byte-table", "byte_table.pb")
    run("train", *profile, "--val-loss-every", "2", "--log", "train.log", "--out", "train.ckpt")
    run("ema-finalize", "train.ckpt", "weights.ckpt")
    run("gptq-lite", "weights.ckpt", "quantised.ckpt")
    run("pack-zstd", "quantised.ckpt", "model.bin.zst")
    run("eval-sliding", *profile, "model.bin.zst", "--out", "eval.json")

    text = (ARGS.source / "docs/python.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(snippets) == 7, f"docs/python.md has {len(snippets)} snippets"
    names = {"__name__": "snippets"}
    for number, snippet in enumerate(snippets, 1):
        snippet = snippet.replace('f"{ROOT}/', f'f"{ARGS.source}/')  # a build folder may be anywhere
        exec(compile(snippet, f"docs/python.md, snippet {number}", "exec"), names)
    assert names["score"]["bytes"] == names["text_bytes"]
    assert pathlib.Path("runs.svg").stat().st_size > 1000
