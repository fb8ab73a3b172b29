# eval-sliding --prove: an honest score is proved by every method, what was done otherwise is named.
make_shards data
need train --profile small.profile --out train.ckpt
need ema-finalize --profile small.profile train.ckpt weights.ckpt
need gptq-lite --profile small.profile weights.ckpt quantised.ckpt
need pack-zstd quantised.ckpt model.bin.zst
proof() {  # proof OPTION…: the lines of a proof, and how it ended
  local status
  eval-sliding --profile small.profile "$@" --prove prove.json model.bin.zst > out 2> err
  status=$?
  { grep -E '^prove' err; tail -n 1 err | grep -E '^eval-sliding: '; } | sed 's/at most .*/at most …/'
  return $status
}
try proof
try proof --method kv_cache
try proof --method ttt --ttt-chunk-tokens 64
try sh -c 'cut -d " " -f 1,2 prove.json.events | sed -n "1,2p;/learn/p" | head -n 3'
# Adapters that learn from each document, with no windows that overlap.
lora="--method ttt --ttt-lora-rank 2 --ttt-chunk-size 16 --ttt-eval-seq-len 32 --ttt-lora-lr 0.01 --eval-stride 0"
try proof $lora
try sh -c 'cut -d " " -f 1,2 prove.json.events | head -n 4'
# The same mixed with n-grams over what was scored: tables are updated in the same order.
try proof $lora --ngram-order 3
try sh -c 'cut -d " " -f 1,2 prove.json.events | sed -n "/update/p" | head -n 2'
# In the published order, of their lengths.
try proof $lora --published-quirks 1
# Targets that are dropped or scored again.
try proof --eval-stride 0
try proof --published-quirks 1
# Text of which the tokenizer folds or drops a part: what is scored is another text.
printf 'a  e\n\ni É m\n\nq u\n' > wide.txt
for split in train val; do need tokenize-shard --out folded --split $split --separator blank-line --tokenizer data/tokenizer.model wide.txt; done
rm folded/fineweb_train_*.bin
try proof --data-path folded
try grep changed_documents prove.json
# The scores are the same with and without the proof.
need eval-sliding --profile small.profile --out plain.json model.bin.zst
try proof --expect plain.json
# What the scores were computed with is named: a library from anywhere but the system, LibTorch and the program's own folder counts.
try sh -c "grep -c '\"from\": \"elsewhere\"' plain.json"
mkdir packer && cp "$(ldd "$bin/eval-sliding" | sed -n 's/.*=> \(.*libxxhash[^ ]*\) .*/\1/p')" packer
LD_LIBRARY_PATH=packer need eval-sliding --profile small.profile --out packed.json model.bin.zst
try sh -c "grep -B 2 '\"from\": \"elsewhere\"' packed.json | grep -o 'libxxhash'"
# The validation text in training.
cp data/fineweb_val_000000.bin data/fineweb_train_000001.bin
try proof
rm data/fineweb_train_*.bin
try proof

# Where nothing can be written is found before anything is scored.
try eval-sliding --profile small.profile --prove - model.bin.zst
try eval-sliding --profile small.profile --prove nowhere/prove.json model.bin.zst
try eval-sliding --profile small.profile --out nowhere/eval.json model.bin.zst
