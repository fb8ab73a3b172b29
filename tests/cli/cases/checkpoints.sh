# Checkpoints that are damaged, of the wrong kind, or of another model.
make_shards data
need train --profile small.profile --out train.ckpt
need ema-finalize train.ckpt weights.ckpt
need gptq-lite weights.ckpt quantised.ckpt
need pack-zstd quantised.ckpt model.bin.zst

head -c 4 train.ckpt > stub.ckpt
head -c 3000 train.ckpt > half.ckpt
head -c -1 train.ckpt > short.ckpt
{ cat train.ckpt; echo; } > long.ckpt
for file in stub half short long; do
  try_last ema-finalize $file.ckpt out.ckpt
  try_last ckpt-inspect $file.ckpt
done
try_last ema-finalize small.profile out.ckpt

# flip FILE OFFSET COPY: one bit of the byte at OFFSET, from the end where negative.
flip() {
  need python3 -c 'import sys
path, offset, copy = sys.argv[1], int(sys.argv[2]), sys.argv[3]
data = bytearray(open(path, "rb").read())
data[offset] ^= 1
open(copy, "wb").write(data)' "$@"
}
flip train.ckpt 3 magic.ckpt
flip train.ckpt 30 header.ckpt
flip train.ckpt 6000 tensor.ckpt
flip train.ckpt -3 offset.ckpt
flip train.ckpt -100 footer.ckpt
for part in magic header tensor offset footer; do
  try_last ema-finalize --source last $part.ckpt out.ckpt
done
try_last sh -c 'ckpt-inspect --verify train.ckpt | grep verified'
try_last ckpt-inspect --verify tensor.ckpt
flip model.bin.zst 1000 flipped.zst
flip model.bin.zst -5 mark.zst
head -c 1000 model.bin.zst > half.zst
for artifact in flipped mark half; do
  try_last eval-sliding --profile small.profile $artifact.zst
done

# The wrong kind.
try_last ema-finalize weights.ckpt out.ckpt
try_last gptq-lite train.ckpt out.ckpt
try_last gptq-lite quantised.ckpt out.ckpt
try_last pack-zstd weights.ckpt out.zst
try_last pack-zstd model.bin.zst out.zst
try_last eval-sliding --profile small.profile train.ckpt
try_last train --profile small.profile --out again.ckpt --resume weights.ckpt

# Another model.
try_last ema-finalize --num-layers 3 train.ckpt out.ckpt
try_last gptq-lite --model-dim 32 weights.ckpt out.ckpt
try_last eval-sliding --profile small.profile --num-heads 4 model.bin.zst
try_last train --profile small.profile --num-layers 3 --out again.ckpt --resume train.ckpt
try_last train --profile small.profile --seed 5 --out again.ckpt --resume train.ckpt

# What is not in the checkpoint.
need train --profile small.profile --swa-enabled 0 --ema-enabled 0 --out bare.ckpt
try_last ema-finalize --source swa bare.ckpt out.ckpt
try_last ema-finalize --source ema bare.ckpt out.ckpt
try_last ema-finalize --source everything train.ckpt out.ckpt
try_last ema-finalize --source ema:0.5,swa:0.6 train.ckpt out.ckpt

# Over budget: a gate, and nothing that looks like an artifact.
sizes() { tail -n 1 | sed -E 's/(by|artifact) [0-9,]+/\1 N/g'; }  # how well it compresses is another test's matter
record sizes pack-zstd --budget 1000 quantised.ckpt out.zst
record sizes pack-zstd --code-bytes 15999000 quantised.ckpt out.zst
try ls -A
