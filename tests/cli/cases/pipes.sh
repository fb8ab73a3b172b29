# Stages in a shell pipeline make the bytes that they make through files; a reader that goes away ends the writer.
make_shards data
need train --profile small.profile --out train.ckpt
need ema-finalize --source swa train.ckpt weights.ckpt
need gptq-lite weights.ckpt quantised.ckpt
need pack-zstd quantised.ckpt model.bin.zst
need bash -o pipefail -c 'ema-finalize --source swa train.ckpt - | gptq-lite - - | pack-zstd - piped.bin.zst'
try cmp model.bin.zst piped.bin.zst
need bash -o pipefail -c 'cat train.ckpt | ema-finalize --source swa - - | cat > piped.ckpt'
for file in weights piped; do identity $file.ckpt > $file.identity; done
try diff weights.identity piped.identity
need sh -c 'zstd -dcq model.bin.zst > plain.ckpt'
try_last sh -c 'ckpt-inspect --verify plain.ckpt | grep verified'

# The result line goes to the stream that the checkpoint does not use.
try_last sh -c 'gptq-lite weights.ckpt - 2>&1 > /dev/null | grep -c "^{\"tool\":\"gptq-lite\""'
# The reader has gone before anything is written.
try bash -c 'exec 3> >(true); wait $!; ema-finalize train.ckpt - 2> /dev/null >&3; echo $?'
try bash -c 'exec 3> >(true); wait $!; train --help >&3; echo $?'
