#!/usr/bin/env bash
# make_corpus_test.sh TOKENIZE_SHARD: the demo's corpus is the same on every machine, whatever its environment says.
set -euo pipefail
export TOKENIZE_SHARD=$1
root=$(cd -- "$(dirname -- "$0")/../../.." && pwd)
command -v bible > /dev/null || { echo "skipped: Debian's package bible-kjv is absent"; exit 77; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# A corpus is there already, with a shard more and a manifest of its own.
mkdir "$scratch/corpus"
touch "$scratch/corpus/fineweb_train_000007.bin" "$scratch/corpus/manifest.json"
VOCAB_SIZE=300 THREADS=3 SEED=1 "$root/scripts/make-corpus" "$scratch/corpus" 1024

cd "$scratch/corpus"
diff <(sha256sum -- * .[!.]* 2>/dev/null) - <<'EXPECTED'
784e12443584fc3114d7cfadc217806680aa82cbaf4177c8df9fa277776d22b9  byte_table.pb
4af11f11249615502206380083f1e1606155eb09e819eb0d289315807166b565  fineweb_train_000000.bin
560aa9a49136322f06a701957356dbd7453b540b771aeb26999c9ce6ec7346f2  fineweb_val_000000.bin
e1753be13b8de39c8f4397db791ca52c5f29dc5436aa7e4c0050cbc7f2aec460  manifest.json
8f42bc3a7f6be98a78b6d8d195d3d70679cda8739d8e0b4169ffa96dbd4e37ca  tokenizer.model
EXPECTED
