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
