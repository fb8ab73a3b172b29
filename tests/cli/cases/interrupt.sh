# Ctrl-C ends training after the step with a checkpoint, and going on gives what an uninterrupted run gives.
make_shards data
interrupted() {  # interrupted SIGNAL COMMAND…: sends it as soon as the log has a step
  local signal=$1
  shift
  "$@" --log log > result &
  while kill -0 $! && ! grep -q '^step:' log; do sleep 0.02; done
  kill -"$signal" $!
  wait $!
  local status=$?
  rm log
  return $status
}
# Which step it was depends on the machine.
some_step() { tail -n 1 | sed -E 's/step [0-9]+/step N/; s/-[0-9]+\.ckpt/-N.ckpt/'; }
long="train --profile small.profile --iterations 400 --warmdown-iters 100 --out train.ckpt"
touch log
record some_step interrupted INT $long
try sh -c 'ls -A | sed "s/[0-9][0-9]*/N/"'
record some_step $long
touch log
record some_step interrupted TERM $long --resume newest
record some_step $long --warmdown-iters 90 --resume newest
need $long --resume newest
need train --profile small.profile --iterations 400 --warmdown-iters 100 --out straight.ckpt
for run in train straight; do identity $run.ckpt > $run.identity; done
try diff train.identity straight.identity
try ls -A
