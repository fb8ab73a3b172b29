# A disk that fills up: the cause is named, and neither a product nor a part of one is left.
mkdir small
mount -t tmpfs -o size=16k tmpfs small 2> /dev/null || skip "this user cannot mount a tmpfs"
trap 'umount small' EXIT
make_shards data
need train --profile small.profile --out train.ckpt
need ema-finalize train.ckpt weights.ckpt
need gptq-lite weights.ckpt quantised.ckpt
try_last train --profile small.profile --out small/train.ckpt
try_last ema-finalize train.ckpt small/weights.ckpt
dd if=/dev/zero of=small/filler bs=1k 2> /dev/null
try_last gptq-lite weights.ckpt small/quantised.ckpt
try_last pack-zstd quantised.ckpt small/model.bin.zst
try_last tokenize-shard --tokenizer data/tokenizer.model --byte-table small/byte_table.pb
try ls -A small
try_last sh -c 'ema-finalize train.ckpt - > /dev/full'
try_last sh -c 'train --print-settings > /dev/full'
try_last sh -c 'check-chain --profile small.profile --paths > /dev/full'
try_last check-chain --profile small.profile --goal eval no-such-folder

# What was there is there still, and a log is no exception: a record needs all of it.
rm small/filler
echo "an older file" > small/older
dd if=/dev/zero of=small/filler bs=1k 2> /dev/null
try_last ema-finalize train.ckpt small/older
try cat small/older
try_last ema-finalize --log small/log train.ckpt other.ckpt
try ls -A small other.ckpt
