# One name in four places: the command line beats the environment beats the profile beats the default.
printf 'iterations = 30  # a comment\n\n# another\nseed=3\n' > some.profile
show() { try sh -c "$1 train $2 --print-settings | grep -E '^(iterations|seed|model_dim) '"; }
show '' ''
show '' '--profile some.profile'
show 'ITERATIONS=40' '--profile some.profile'
show 'ITERATIONS=40' '--profile some.profile --iterations 50'
try pack-zstd --print-settings

# Mistakes, each reported with its place; also in a setting that this program does not use.
for program in tokenize-shard train ema-finalize gptq-lite eval-sliding; do
  try env SEED=abc $program --print-settings
done
try env SEED= train --print-settings
try env NUM_LAYERS=-3 train --print-settings
try env EMA_DECAY=1.5 train --print-settings
try env TIE_EMBEDDINGS=yes train --print-settings
try env PRECISION=float8 train --print-settings
try train --seed abc --print-settings
try train --num-layers -3 --print-settings
try train --num-layers=-3 --print-settings
try train --num-layers 99999999999999999999 --print-settings
try train --profile no-such --print-settings
try train --profile ./no-such.profile --print-settings
try train --profile . --print-settings
printf 'seed = 1\n\nnum_layer = 4\n' > unknown.profile
printf 'seed = 1\nnum_layers\n' > unequal.profile
printf 'seed = 1\nmodel_dim = -64\n' > negative.profile
printf 'matrix_lr = fast\n' > word.profile
for profile in unknown unequal negative word; do
  try train --profile $profile.profile --print-settings
done
# A weaker place is checked even where a stronger one wins.
try train --profile negative.profile --model-dim 64 --print-settings

# What is given nowhere is as the input file states it, and shown as that.
make_shards data
need train --profile small.profile --code-bytes 30000 --keep-max-numel 999 --out train.ckpt
need ema-finalize train.ckpt weights.ckpt
need gptq-lite weights.ckpt quantised.ckpt
inherited() { try sh -c "$1 --print-settings | grep -E '^(code_bytes|keep_max_numel|coder|source|eval_stride|threads) '"; }
inherited 'gptq-lite weights.ckpt out.ckpt'
inherited 'CODE_BYTES=5 gptq-lite --keep-max-numel 7 weights.ckpt out.ckpt'
inherited 'gptq-lite'
inherited 'gptq-lite - -'
inherited 'ema-finalize train.ckpt out.ckpt'
inherited 'pack-zstd quantised.ckpt out'
inherited 'eval-sliding --profile small.profile quantised.ckpt'
try_last gptq-lite absent.ckpt out.ckpt --print-settings
try_last gptq-lite data/tokenizer.model out.ckpt --print-settings
try_last gptq-lite --num-layers 7 weights.ckpt out.ckpt --print-settings
try sh -c 'pack-zstd --dry-run quantised.ckpt 2>&1 | grep "^pack-zstd:" | sed "s/: [0-9,]* bytes.*; with code [0-9,]*/: N bytes; with code N/"'
try sh -c 'gptq-lite --quantiser rtn --calibration-windows 0 --target-bytes 40000 weights.ckpt out.ckpt 2>&1 | grep "for the artifact"'
