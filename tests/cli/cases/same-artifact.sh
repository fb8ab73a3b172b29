# One artifact from the same weights on however many threads, by what training measured and by what the weights generate. The shapes are
# a little larger than those of small.profile: several rows for each of eight threads.
make_shards data
need train --profile small.profile --model-dim 64 --quantiser gptq --bits-per-weight 5 --calibration-windows 3 --calibration-tokens 16 --out train.ckpt
need ema-finalize train.ckpt weights.ckpt
for threads in 1 2 8; do
  export THREADS=$threads
  need gptq-lite --training train.ckpt weights.ckpt train-$threads.ckpt
  need gptq-lite --calibration self weights.ckpt self-$threads.ckpt
  for calibration in train self; do
    need pack-zstd $calibration-$threads.ckpt $calibration-$threads.zst
    need pack-zstd --coder zstd $calibration-$threads.ckpt $calibration-$threads.by-zstd
  done
done
for calibration in train self; do
  for threads in 2 8; do
    try cmp $calibration-1.zst $calibration-$threads.zst
    try cmp $calibration-1.by-zstd $calibration-$threads.by-zstd
  done
done
# Neither calibration nor coder is the other one.
try cmp -s train-1.zst self-1.zst
try cmp -s train-1.zst train-1.by-zstd
