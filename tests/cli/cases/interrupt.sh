# Ctrl-C, TERM, a hangup and SIGUSR1 end training with a checkpoint; in a batch job SIGUSR1 only asks for one; continuing gives what an uninterrupted run gives.
make_shards data
# interrupted SIGNAL COMMAND…: sends it as soon as the log has a step. The run cannot end before that: what it says goes into a pipe that is
# full but for a page, and nobody reads until the signal is sent; with `gone`, nobody does after it.
interrupted() {
  local signal=$1
  shift
  rm -f speech
  mkfifo speech
  exec 3<> speech 4< speech
  head -c 61440 /dev/zero >&3
  "$@" --log log > result 2> speech 3>&- 4<&- &
  exec 3>&-
  while kill -0 $! && ! grep -q '^step:' log; do sleep 0.02; done
  kill -"$signal" $!
  [ -n "${gone-}" ] || tr -d '\0' <&4 >&2
  exec 4<&-
  wait $!
  local status=$?
  [ -z "${gone-}" ] || cat log >&2
  rm log speech
  return $status
}
# Which step it was depends on the machine.
some_step() { grep -E '^(interrupted by|checkpoint:|train:)' | sed -E 's/step [0-9]+/step N/; s/-[0-9]+\.ckpt/-N.ckpt/'; }
long="train --profile small.profile --iterations 400 --warmdown-iters 100 --train-log-every 1 --out train.ckpt"
touch log
record some_step interrupted INT $long
try sh -c 'ls -A | sed "s/[0-9][0-9]*/N/"'
record some_step $long
touch log
record some_step interrupted TERM $long --resume newest
# The same signal ends who reads what it says, as in train … 2>&1 | tee FILE.
touch log
gone=1 record some_step interrupted INT $long --resume newest
touch log
record some_step interrupted HUP $long --resume newest
touch log
record some_step interrupted HUP nohup $long --resume newest
rm train.ckpt
touch log
record some_step interrupted INT $long
record some_step $long --warmdown-iters 90 --resume newest
touch log
record some_step interrupted USR1 $long --resume newest
touch log
record some_step interrupted USR1 env SLURM_JOB_ID=7 $long --resume newest
need train --profile small.profile --iterations 400 --warmdown-iters 100 --out straight.ckpt
for run in train straight; do identity $run.ckpt > $run.identity; done
try diff train.identity straight.identity
try ls -A
