# The same input gives the same bytes: a chain and another one beside it; and the same stages on more threads.
make_shards data --train 6000 --val 2000
printf 'one document after another\nand another\nand one more\n' > text
chain() {  # chain FOLDER THREADS TRAINED: all that comes after TRAINED, or all where that is empty
  mkdir "$1"
  export THREADS=$2
  need tokenize-shard --out "$1/shards" --split train --separator '\n' --tokenizer data/tokenizer.model --shard-tokens 20 text
  if [ -n "$3" ]; then cp "$3" "$1/train.ckpt"; else need train --profile small.profile --out "$1/train.ckpt"; fi
  need ema-finalize "$1/train.ckpt" "$1/weights.ckpt"
  need gptq-lite "$1/weights.ckpt" "$1/quantised.ckpt"
  need pack-zstd "$1/quantised.ckpt" "$1/model.bin.zst"
  need eval-sliding --profile small.profile "$1/model.bin.zst" --out "$1/eval.json"
  need eval-sliding --profile small.profile --eval-stride 0 "$1/weights.ckpt" --out "$1/before.json"
  for stage in train weights quantised; do identity "$1/$stage.ckpt" > "$1/$stage.identity"; done
  # Of scores all but the time they took; those of weights name their file, which says how long training took.
  grep -v '"seconds"' "$1/eval.json" > "$1/scores"
  grep -v -e '"seconds"' -e '"artifact_' "$1/before.json" > "$1/scores.before"
}
same() {  # same NAME…: in the first folder and in others
  local name
  for name; do
    for folder in $others; do cmp "first/$name" "$folder/$name" || return 1; done
  done
}
chain first 1 ''
chain second 1 ''
others=second
try same train.identity weights.identity quantised.identity model.bin.zst scores scores.before shards/manifest.json \
  shards/fineweb_train_000000.bin shards/byte_table.pb
chain three 3 first/train.ckpt
chain two 2 first/train.ckpt
others="two three"
try same weights.ckpt quantised.ckpt model.bin.zst model.bin.zst.lineage shards/manifest.json shards/fineweb_train_000000.bin \
  shards/byte_table.pb
# 1e-6 apart at most.
for folder in two three; do
  try_status eval-sliding --profile small.profile first/model.bin.zst --threads 1 --expect $folder/eval.json --tolerance 1e-6
done
