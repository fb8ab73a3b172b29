# The example that each program's --help ends with, taken from there and run, in the order in which the programs pass on their
# files. What they stand on: a book, the programs and profiles of a source tree, and the corpus that `make data` would make.
command -v bible > /dev/null || skip "no bible: Debian's package bible-kjv is not installed"
mkdir -p tree/build/bin tiny runs/cpu-demo/seed-1337  # the folder tiny does not hide the profile of that name
cp "$bin"/* tree/build/bin
cp -r "$root/pipelines" tree
need env TOKENIZE_SHARD="$bin/tokenize-shard" "$root/scripts/make-corpus" data/bible-kjv 1024
bible -f gen1:1-gen50:26 | awk 'NR % 30 == 0 { printf "\f" } { print }' > book.txt
export PATH=$(pwd)/tree/build/bin:$PATH DATA_PATH=$(pwd)/data/bible-kjv TOKENIZER_PATH=$(pwd)/data/bible-kjv/tokenizer.model

# example PROGRAM: runs each command of its example and prints its status.
example() {
  local command status
  while read -r command; do
    (eval "$command") > "$scratch/out" 2> "$scratch/err" < /dev/null
    status=$?
    printf '$ %s\nexit %d\n\n' "$command" "$status"
    [ $status -eq 0 ] || cat "$scratch/err" >&2
  done < <("$1" --help | sed '1,/^example:$/d')
}
example tokenize-shard
example train
example ema-finalize
example gptq-lite
example pack-zstd
example eval-sliding
example ckpt-inspect
# A run's directory, as `make record` leaves it.
cp train.log train.ckpt weights.ckpt quantised.ckpt model.bin.zst model.bin.zst.lineage eval.json runs/cpu-demo/seed-1337
tar -c -C tree pipelines | zstd -q > runs/cpu-demo/seed-1337/source.tar.zst
example make-submission
cp -r runs/cpu-demo/seed-1337 runs/cpu-demo/wide-seed-1337
example compare-runs
# A record that make-submission wrote is audited as any other.
mkdir -p records/track_10min_16mb
cp -r submission records/track_10min_16mb/2026-03-20_11L_EMA
example audit-record
