# Each change of a setting, a program or an input reaches the stages that it concerns and no other, and what is finished is replaced
# unasked by nothing. The programs are stand-ins, check-chain decides.
stand_in_clone clone
need python3 "$here/make-shards" ../text
echo table > ../text/byte_table.pb
export PROFILE=tiny SEED=1 RUN=mine DATA_PATH=../text ITERATIONS=7 SOURCE=swa
need make record
unset DATA_PATH ITERATIONS SOURCE
run=runs/tiny/mine-seed-1

# Each setting concerns the stage that has it. The stage that is named is made again, with a word; one before it never is unasked.
try ran eval METHOD=kv_cache
try ran eval
try ran finalize SOURCE=ema
try ran record
try ran record METHOD=sliding
try ran eval SOURCE=last
try ran train ITERATIONS=8
try ran eval NUM_LAYERS=2
need python3 "$here/make-shards" ../other --id 9
try ran eval DATA_PATH=../other TOKENIZER_PATH=../other/tokenizer.model
try ran eval
try ran record
try ran quantise QUANTISER=rtn BITS_PER_WEIGHT=4
try ran quantise QUANTISER=rtn BITS_PER_WEIGHT=4 CALIBRATION=self
try ran record
try ran eval TRAIN_SEQ_LEN=64
try ran record

# A profile that is edited counts for what was not given by hand.
sed -i 's/^warmdown_iters.*/warmdown_iters = 14/; s/^iterations.*/iterations = 99/' pipelines/tiny.profile
try ran eval
sed -i 's/^warmdown_iters.*/warmdown_iters = 15/; $a matrix_lr = 0.02' pipelines/tiny.profile
try ran eval

# Data under the same names, and programs, that are others.
need python3 "$here/make-shards" ../text --id 7
try ran record
need python3 "$here/make-shards" ../text --val 290
try ran record
try ran eval
echo other > ../text/byte_table.pb
try ran eval
try ran record
for program in train ema-finalize gptq-lite pack-zstd; do
  echo 2 > build/bin/$program.digest
  try ran eval
  echo 1 > build/bin/$program.digest
done
echo 2 > build/bin/eval-sliding.digest
try ran eval
echo 1 > build/bin/eval-sliding.digest
try ran eval
