# A quota that is used up, of a real file system: the cause is named, what was there stays, and nothing else is left.
command -v mkfs.btrfs > /dev/null || skip "there is no mkfs.btrfs (Debian's package btrfs-progs)"
truncate -s 128M ../disk
need mkfs.btrfs ../disk
mkdir small
mount -o loop ../disk small 2> /dev/null || skip "this user cannot mount a disk"
trap 'umount small' EXIT
need btrfs quota enable small
need btrfs subvolume create small/home
need btrfs qgroup limit 1M small/home
make_shards data
need train --profile small.profile --out train.ckpt
need ema-finalize train.ckpt weights.ckpt
need gptq-lite weights.ckpt quantised.ckpt

echo "an older file" > small/home/older
until ! dd if=/dev/zero of=small/home/filler bs=4k oflag=append conv=notrunc 2> ../said; do :; done
try sed -n 's/^dd: .*: //p' ../said
try_last train --profile small.profile --out small/home/train.ckpt
try_last ema-finalize train.ckpt small/home/older
try_last gptq-lite weights.ckpt small/home/quantised.ckpt
try_last pack-zstd quantised.ckpt small/home/model.bin.zst
try_last tokenize-shard --tokenizer data/tokenizer.model --byte-table small/home/byte_table.pb
try_last ema-finalize --log small/home/log train.ckpt other.ckpt
try cat small/home/older
try ls -A small/home
# With free space again the same command continues.
rm small/home/filler
need sync -f small/home
need ema-finalize train.ckpt small/home/older
try cmp weights.ckpt small/home/older
try ls -A small/home
