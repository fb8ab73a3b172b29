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

# A text appears while it is generated: a document of a million tokens is on the screen long before its end. Only the text is shown, and
# a pipe gets one line of JSON.
echo "in a stream: $("$here/terminal" --interrupt-after 400 eval-sliding --profile small.profile --generate bcd --temperature 0 --tokens 1000000 model.bin.zst)"
try_terminal eval-sliding --profile small.profile --generate bcd --generate '' --temperature 0 --tokens 8 model.bin.zst
# One of the most likely tokens is the most likely; a seed draws the same text again, another seed another.
text() { eval-sliding --profile small.profile --generate bcd --generate cd --tokens 8 "$@" model.bin.zst 2> /dev/null | grep -o '"text":"[^"]*"' | tr '\n' ' '; }
same() { [ "$(text $1)" = "$(text $2)" ] && echo "the same text" || echo "another text"; }
try same "--temperature 0" "--temperature 5 --top-k 1"
try same "--temperature 0" "--temperature 5 --top-p 0"
try same "--temperature 0" "--temperature 5"
try same "--temperature 5 --seed 7" "--temperature 5 --seed 7"
try same "--temperature 5 --seed 7" "--temperature 5 --seed 8"
try same "--temperature 5 --seed 7" "--temperature 5 --seed 7 --top-k 2"
for option in "--top-k -1" "--top-p 1.5" "--temperature -1" "--tokens 0" "--prove prove.json" "--expect eval.json"; do
  try eval-sliding --profile small.profile --generate bcd $option model.bin.zst
done
for option in "--top-k 5" "--top-p 0.5" "--temperature 1" "--tokens 9"; do try_last eval-sliding --profile small.profile $option model.bin.zst; done
NO_COLOR=1 try_terminal eval-sliding --profile small.profile --generate bcd --temperature 0 --tokens 8 model.bin.zst
try sh -c "eval-sliding --profile small.profile --generate bcd --temperature 0 --tokens 8 model.bin.zst 2> /dev/null | sed 's/[0-9a-f]\{64\}/#/'"

# The chain: each live line names its stage, and the screen ends with the record's table and its samples.
printf '#!/bin/sh\n' > nothing && chmod +x nothing
mkdir tools && cp nothing tools/ninja && cp nothing tools/cmake
mkdir -p clone/build && cp -r "$root"/{Makefile,Makefile.records,Makefile.runs,CMakeLists.txt,cmake,common,tools,requirements.txt,LICENSE,scripts,pipelines} clone
cp nothing clone/scripts/setup && ln -s "$bin" clone/build/bin
folder=$(pwd)
export PATH=$folder/tools:$PATH
chain() {  # of the screen what does not depend on the processor: the commands, and the table with its figures replaced
  try_terminal make -C clone record PROFILE="$folder/small.profile" DATA_PATH="$folder/data" RUN=shown TOKENIZER_PATH="$folder/data/tokenizer.model" |
    sed -n '/^live|/p; /^\$/p; /^exit/p; /^screen| cd /p; / seed 1337$/,/^screen| samples/p; /^screen| submission:/p' | sed -E 's/ +/ /g; s/(--code-bytes) [0-9]+/\1 N/'
}
chain
