# The profile of a record with eight GPUs from training to submission, at a shape that takes no time: all of its recipe, in fewer and
# narrower dimensions, by the steps and by a clock that calibration must fit into.
[ "$bin" = "$root/build/bin" ] || skip "make takes the programs of build/bin"
make_shards data --id 1
export ROOT=$root RUNS=$(pwd)/runs PROFILE=record-h100x8 SEED=42 RUN=small LAUNCH= DATA_PATH=$(pwd)/data TOKENIZER_PATH=$(pwd)/data/tokenizer.model \
  VOCAB_SIZE=64 MODEL_DIM=32 NUM_HEADS=2 NUM_KV_HEADS=1 TRAIN_SEQ_LEN=16 EVAL_SEQ_LEN=32 EVAL_STRIDE=4 TRAIN_BATCH_TOKENS=256 ITERATIONS=8 \
  WARMUP_STEPS=1 TRAIN_LOG_EVERY=1 KEEP_MAX_NUMEL=100 VAL_BATCH_SIZE=1024 CALIBRATION_WINDOWS=4 CALIBRATION_TOKENS=16 DEVICE=cpu RESIDUAL_PRECISION=float32
chain() { "$root/scripts/in-run" make --no-print-directory -f "$root/Makefile.runs" record "$@"; }

# The loops begin with the fraction of the steps; every target is scored once; what was asked for is what the record claims.
MAX_WALLCLOCK_SECONDS=0 try_status chain
run=runs/record-h100x8/small-seed-42
try sh -c "grep -ho 'layer_loop:.*' $run/train.log"
try sh -c "tr -d ' ' < $run/eval.json | grep -o '\"targets\":[0-9]*\|\"targets_rescored\":[0-9]*\|\"method\":\"[a-z]*\"'"
try sh -c "cd $run/submission && ls | grep -v loss-curve && grep -o '^#.*' README.md | head -n 1 | grep -o 'two residual lanes[^,]*\|XSA[0-9]*'"
try_status make-submission --check $run/submission
# A size over 16,000,000 bytes is refused before the first step.
TARGET_BYTES=17000000 RUN=over chain > said 2>&1
try grep TARGET_BYTES said
# With a clock: calibration has its part of it.
RUN=clock MAX_WALLCLOCK_SECONDS=100 need chain
try sh -c 'grep -c "s are kept for calibration at the end" runs/record-h100x8/clock-seed-42/train.log; grep -c "windows of 16 tokens, of the weights of ema, in" runs/record-h100x8/clock-seed-42/train.log'
# With what the published record has that this profile has not.
RUN=sdclip MAX_WALLCLOCK_SECONDS=0 QUANTISER=gptq_sdclip NGRAM_ORDER=2 try_status chain
try sh -c "grep -o '\"ngram_order\": [0-9][0-9]*' runs/record-h100x8/sdclip-seed-42/eval.json; ls runs/record-h100x8/sdclip-seed-42/submission/submission.json"
