# One name in four places: the command line beats the environment beats the profile beats the default.
printf 'iterations = 30  # a comment\n\n# another\nseed=3\n' > some.profile
show() { try sh -c "$1 train $2 --print-settings | grep -E '^(iterations|seed|model_dim) '"; }
show '' ''
show '' '--profile some.profile'
show 'ITERATIONS=40' '--profile some.profile'
show 'ITERATIONS=40' '--profile some.profile --iterations 50'
try pack-zstd --print-settings

# Mistakes, each named by where it stands; also in a setting that this program does not use.
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
