# Progress on a terminal: one live line while a program works, which leaves nothing behind.
make_shards data
export FAIRWAY_PROGRESS_AFTER=0
try_terminal train --profile small.profile --log train.log --out train.ckpt --val-loss-every 4
echo "train_loss in the log's file: $(grep -c 'train_loss' train.log)"
FAIRWAY_STAGE='1/6 train' try_terminal train --profile small.profile --out again.ckpt --iterations 1
live() { try_terminal "$@" | grep -v '^screen| '; }
need ema-finalize train.ckpt weights.ckpt
live gptq-lite --profile small.profile --quantiser rtn --calibration shards --bits-per-weight 12 --calibration-windows 2 --calibration-tokens 16 weights.ckpt lite.ckpt
live gptq-lite --profile small.profile weights.ckpt quantised.ckpt
try_terminal pack-zstd quantised.ckpt model.bin.zst
try_terminal pack-zstd --budget 10 quantised.ckpt model.bin.zst  # a failure is reported on a line of its own
live eval-sliding --profile small.profile model.bin.zst
yes 'in the beginning' | head -n 2000 > text
live tokenize-shard --out data2 --split train --train-tokenizer data2/tokenizer.model --vocab-size 270 text
# With NO_COLOR, and in a pipe, the lines of the log.
NO_COLOR=1 try_terminal train --profile small.profile --out third.ckpt --iterations 1
echo "train_loss in a pipe: $(TERM=xterm train --profile small.profile --out fourth.ckpt --iterations 3 2>&1 > /dev/null | grep -c train_loss)"
