# Content decides what is made again: a finished run is left alone by whatever changes no content: moves, copies, links, clocks, threads,
# paths. The programs are stand-ins (tests/cli/stand_in.cc), check-chain decides.
stand_in_clone clone
need python3 "$here/make-shards" ../text
echo table > ../text/byte_table.pb
export PROFILE=tiny
run=runs/tiny/mine-seed-1
export SEED=1 RUN=mine
again() {  # again WHAT COMMAND…: what is made after a change that COMMAND makes
  local what=$1
  shift
  "$@" > /dev/null 2>&1
  printf '%s: ' "$what"
  ran record THREADS=2 > ../said
  head -n 1 ../said | grep -o '[a-z].*' || echo nothing
}

# Data, model and source of one's own; later commands do not repeat them.
try ran train DATA_PATH=../text ITERATIONS=7 SOURCE=swa EVAL_STRIDE=32
try grep -E '^(iterations|source|eval_stride|data_path) = ' $run/train.settings
try ran record
try grep -hE '^(source|eval_stride) = ' $run/ema-finalize.settings $run/eval-sliding.settings

nothing() {
  again "as it was" true
  again "with other threads" export THREADS=5
  again "with other limits" export MEMORY_LIMIT=4G COMM_TIMEOUT_SECONDS=9 RUN_ID=x VAL_LOSS_EVERY=3
  unset THREADS MEMORY_LIMIT COMM_TIMEOUT_SECONDS RUN_ID VAL_LOSS_EVERY
  again "with times of the future" find $run data ../text build -exec touch -h -d '2099-01-01' {} +
  again "with times of long ago" find $run data ../text build -exec touch -h -d '1999-01-01' {} +
  again "with programs built again" touch build/bin/*
  again "with everything touched at random" find $run -type f -name '*.[cjz]*' -exec touch {} +
}
try nothing
elsewhere() {
  mv ../text ../moved
  again "with data that were moved" export DATA_PATH=../moved
  ln -s moved ../link
  again "with data behind a link" export DATA_PATH=../link
  cp -r ../moved ../copy
  again "with a copy of the data" export DATA_PATH=../copy
  unset DATA_PATH
  again "with that copy still" true
  cp -r $run runs/tiny/copied-seed-1
  RUN=copied again "in a copy of the run" true
  cp -r runs/tiny ../runs-elsewhere && mkdir ../others && mv ../runs-elsewhere ../others/tiny
  DATA_PATH=../copy RUNS=../others again "in a copy elsewhere" true
  ln -s others ../others-by-link
  RUNS=../others-by-link again "that is reached by a link" true
}
try elsewhere
moved() {
  cd .. && mv clone house && cd house
  again "in a checkout that was moved" true
  ln -s house ../door && cd ../door
  again "in a checkout behind a link" true
  cd -P .
}
try moved
