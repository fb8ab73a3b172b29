# The source of the weights by tokens kept out of training, and evaluation by each method.
make_shards data
need train --profile small.profile --select-tokens 400 --out train.ckpt
need train --profile small.profile --out bare.ckpt
need ema-finalize --select train.ckpt weights.ckpt
need ema-finalize --source select train.ckpt same.ckpt
for name in weights same; do identity $name.ckpt > $name.identity; done
try cmp weights.identity same.identity
try_last ema-finalize --select bare.ckpt out.ckpt
try_last train --profile small.profile --select-tokens 8 --out out.ckpt
try_last train --profile small.profile --select-tokens 1000000 --out out.ckpt

# A model's options are the file's: given again they may stand, given otherwise they are refused.
need train --profile small.profile --rope-dims 4 --ln-scale --mlp-negative-slope 0.5 --out options.ckpt
need ema-finalize --source last options.ckpt weights.ckpt
try_last ema-finalize --source last --rope-dims 2 options.ckpt out.ckpt
for method in sliding kv_cache ttt; do
  need eval-sliding --profile small.profile --method $method weights.ckpt --out $method.json
  try_status eval-sliding --profile small.profile --method $method weights.ckpt --expect $method.json
  try grep '"method"' $method.json
done
try_last eval-sliding --profile small.profile --expect sliding.json --method kv_cache weights.ckpt
try_last eval-sliding --profile small.profile --published-quirks --method ttt weights.ckpt
try_last eval-sliding --profile small.profile --method token weights.ckpt
