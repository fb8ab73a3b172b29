# Settings that do not go together.
make_shards data
refused() { try_last train --profile small.profile "$@" --out train.ckpt; }
refused --num-heads 3
refused --num-heads 2 --num-kv-heads 3
refused --num-heads 16
refused --num-heads 4 --num-kv-heads 3
refused --xsa-last-n 3
refused --bigram-vocab-size 1
refused --mlp-mult 0.01
refused --train-batch-tokens 72
refused --train-seq-len 24
refused --train-seq-len 0
refused --vocab-size 100
try env WORLD_SIZE=2 train --profile small.profile --out train.ckpt
try ls -A
