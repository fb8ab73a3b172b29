# Stages in a shell pipeline make the bytes that they make through files; a reader that goes away ends the writer.
make_shards data
need train --profile small.profile --out train.ckpt
need ema-finalize --source swa train.ckpt weights.ckpt
need gptq-lite weights.ckpt quantised.ckpt
need pack-zstd quantised.ckpt model.bin.zst
need sh -c 'ema-finalize --source swa train.ckpt - | gptq-lite - - | pack-zstd - piped.bin.zst'
try cmp model.bin.zst piped.bin.zst
need sh -c 'cat train.ckpt | ema-finalize --source swa - - | cat > piped.ckpt'
identity() { ckpt-inspect --json "$1" | grep -m 1 '"identity"'; }
try test "$(identity weights.ckpt)" = "$(identity piped.ckpt)"
need sh -c 'zstd -dcq model.bin.zst > plain.ckpt'
try_last ckpt-inspect --verify plain.ckpt

# The result line stands where the checkpoint does not.
try_last sh -c 'gptq-lite weights.ckpt - 2>&1 > /dev/null | grep -c "^{\"tool\":\"gptq-lite\""'
try bash -c 'ema-finalize train.ckpt - 2> /dev/null | true; echo ${PIPESTATUS[0]}'
try bash -c 'train --help | true; echo ${PIPESTATUS[0]}'
