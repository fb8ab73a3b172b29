# Token shards that are not what they should be, and settings that do not fit them.
bad() {
  rm -rf data
  make_shards data "$@"
  try_last train --profile small.profile --out train.ckpt
}
bad --magic 12345
bad --version 2
bad --claim 1999
bad --claim 0
bad --claim -1
bad --id 64
bad --id 65535
make_shards data
truncate -s 500 data/fineweb_train_000000.bin
try_last train --profile small.profile --out train.ckpt
truncate -s 0 data/fineweb_train_000000.bin
try_last train --profile small.profile --out train.ckpt
rm data/fineweb_train_000000.bin
mkdir data/fineweb_train_000000.bin
try_last train --profile small.profile --out train.ckpt
rmdir data/fineweb_train_000000.bin
try_last train --profile small.profile --out train.ckpt

# Names that are no shards, numbers that leave one out, a byte sidecar that does not fit.
make_shards data
for name in 'fineweb_train_000000 (1).bin' fineweb_train_000002.bin fineweb_train_0.bin fineweb_val_bytes_000001.bin; do
  cp data/fineweb_train_000000.bin "data/$name"
  try_last train --profile small.profile --out train.ckpt
  rm "data/$name"
done
cp data/fineweb_train_000000.bin data/fineweb_val_bytes_000000.bin
try_last train --profile small.profile --out train.ckpt
try_last tokenize-shard --identify data

# What a folder holds, and shards that are not those of their manifest.
make_shards data --val 2000
try tokenize-shard --identify data
rm data/fineweb_val_bytes_000000.bin
try tokenize-shard --identify data
digest=$(sha256sum < data/fineweb_val_000000.bin | cut -d ' ' -f 1)
printf '{"format": 1, "splits": {"val": {"tokenizer_sha256": "00", "files": [{"name": "fineweb_val_000000.bin", "tokens": 2000, "bytes": 5024, "sha256": "%s"}]}}}' \
  "$digest" > data/manifest.json
try tokenize-shard --identify data
cp data/fineweb_train_000000.bin data/fineweb_val_000000.bin
printf 'x' | dd of=data/fineweb_val_000000.bin bs=1 seek=3000 conv=notrunc status=none
touch -r data/manifest.json data/fineweb_val_000000.bin
try_last tokenize-shard --identify data
try_last train --profile small.profile --out train.ckpt
try_last tokenize-shard --identify data --out data
try_last tokenize-shard --identify absent
mkdir empty
try_last tokenize-shard --identify empty
rm -r empty

# A sequence longer than the data.
bad --train 16
bad --val 10
rm -rf data; make_shards data
rm data/fineweb_val_000000.bin
try_last train --profile small.profile --out train.ckpt

# A tokenizer of another size.
make_shards data --vocab 60
try_last train --profile small.profile --out train.ckpt
try ls -A
