# Products that are missing, training that was interrupted, and what `make -n` shows. The programs are stand-ins, check-chain decides.
stand_in_clone clone
need python3 "$here/make-shards" ../text
echo table > ../text/byte_table.pb
export PROFILE=tiny SEED=1 RUN=mine DATA_PATH=../text ITERATIONS=7 SOURCE=swa
need make record
unset DATA_PATH ITERATIONS SOURCE
run=runs/tiny/mine-seed-1

# Products that are missing.
rm $run/weights.ckpt
try ran record
try ran record AGAIN=1
rm $run/eval.json
try ran record
rm -r $run/submission
try ran record

# An unfinished training is continued with its own settings, and by no others.
need env RUN=cut make train ITERATIONS=7
mv runs/tiny/cut-seed-1/train.ckpt runs/tiny/cut-seed-1/train.partial-000004.ckpt
export RUN=cut
try ran train ITERATIONS=8
try ran train
mv runs/tiny/cut-seed-1/train.ckpt runs/tiny/cut-seed-1/train.partial-000004.ckpt
try ran train ITERATIONS=8 AGAIN=1
try ls runs/tiny/cut-seed-1

# make -n shows commands that run as they stand, and leaves nothing.
shown() { make -n "$@" 2>&1 | grep '^cd ' | sed "s#$PWD#CLONE#g; s/code-bytes [0-9][0-9]*/code-bytes N/"; }
try shown record
try shown record RUN=new
try ls runs/tiny
export RUN=mine
try shown record
try shown eval EVAL_STRIDE=16
try grep '^eval_stride' $run/eval-sliding.settings
make finalize SOURCE=ema 2>&1 | grep '^cd ' > ../line
rm $run/weights.ckpt
try bash ../line
try ls $run/weights.ckpt
