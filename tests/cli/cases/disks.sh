# Disks that take nothing for other reasons than being full, and a folder that goes away.
make_shards data
need train --profile small.profile --out train.ckpt
need ema-finalize train.ckpt weights.ckpt

# A limit on the size of files, which needs no privilege.
echo "an older file" > older
try_last bash -c 'ulimit -f 8; exec ema-finalize train.ckpt older'
try_last bash -c 'ulimit -f 8; exec train --profile small.profile --out limited.ckpt'
try cat older

# The folder vanishes while training continues.
mkdir gone
touch log
train --profile small.profile --iterations 100000 --warmdown-iters 100 --checkpoint-every 50 --log log --out gone/train.ckpt 2> said &
while kill -0 $! && ! grep -q '^step:' log; do sleep 0.02; done
mv gone elsewhere
wait $!
try echo "status $?"
rm -r elsewhere
# Which of its files the program misses first is chance: a checkpoint, or the folder itself.
try sh -c 'tail -n 1 said | sed "s,gone[^:]*,GONE,"'
try ls -A

mkdir small
mount -t tmpfs -o nr_inodes=6 tmpfs small 2> /dev/null || skip "this user cannot mount a tmpfs"
trap 'umount small' EXIT
# Space for bytes, but none for names.
cp weights.ckpt small
touch small/{1,2,3,4}
try_last ema-finalize train.ckpt small/weights.ckpt
try_last tokenize-shard --tokenizer data/tokenizer.model --byte-table small/byte_table.pb
try_last train --profile small.profile --out small/train.ckpt
try_last ema-finalize --log small/log train.ckpt other.ckpt
rm small/[1-4]
mount -o remount,ro small
try_last ema-finalize train.ckpt small/weights.ckpt
try_last train --profile small.profile --out small/train.ckpt
try_last tokenize-shard --tokenizer data/tokenizer.model --byte-table small/byte_table.pb
try_last ema-finalize --log small/log train.ckpt other.ckpt
try cmp weights.ckpt small/weights.ckpt
try ls -A small
