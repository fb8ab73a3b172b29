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
09f038b3f383b75160113d803a92b24b3d2049504070d0529dad2e84a990a9d5  byte_table.pb
39472ab743f529b5b38ddaa1cf06c5b7117dbb2b19389d44cf1a4dddf664544d  fineweb_train_000000.bin
bebc20c79b37e5d4ba8a12cf0d91ab9bae41aa817f6c860fb85d60d69493db2e  fineweb_val_000000.bin
928ccee33da0496f63f7296768b42172d7b017f5843bd56002287402bb2d637b  manifest.json
ac4f6346f953e1d38a9f96dad6641f4eae2bf69eec8a80f1c32b54b3cee7d664  tokenizer.model
ecbcbec58ba58a07eef6a11b9349fffb4d9e4e5523c2b5e9cb6a104e0fd2a297  tokenizer.model.documents
EXPECTED

# The same text with letter case as marks: fewer pieces here, which are sooner made.
"$root/scripts/make-corpus" "$scratch/caseops" 512-caseops
cd "$scratch/caseops"
diff <(sha256sum -- * .[!.]* 2>/dev/null) - <<'EXPECTED'
5a7166662c9c272878faa0d4e5d9209656f54565b1de3dc3fe12e731cd7a59f8  byte_table.pb
c44eb8b62872c9b990736380c390ffb0f061fd581e718ad48956ad8272600f2a  fineweb_train_000000.bin
bfafe4839993d4f4574ddf7f3988efda9a02c8cc47caa9eadd9d62bd05082b4a  fineweb_val_000000.bin
db4446367ba3bb3c7887f03df0ef70a4262e580d1f40e54d4a9d28847fae7d0c  fineweb_val_bytes_000000.bin
6b223ac479ebb3d1837324b4bc8683a2c8e0cba56dfd3f1e517edf0869abc7a8  manifest.json
fca044b621f15dda73fc7d0b5e28c5a45758cb4ea7b04982140b8f6c49e42642  tokenizer.model
bb913e3dfce80c673a390409cd31914e8c9b44b8d58e8ae27a2d9f500df89433  tokenizer.model.documents
EXPECTED
[[ "$("$root/scripts/make-corpus" "$scratch/other" 512-marks 2>&1)" == *"usage: make-corpus DIR PIECES[-caseops]" ]]
