# Ctrl-C ends training after the step with a checkpoint, and going on gives what an uninterrupted run gives.
make_shards data
interrupted() {  # interrupted SIGNAL COMMAND…: sends it as soon as the log has a step
  local signal=$1 status
  shift
  : > log
  "$@" --log log &
  while kill -0 $! && ! grep -q '^step:' log; do sleep 0.02; done
  kill -"$signal" $!
  wait $!
}
long="train --profile small.profile --iterations 400 --warmdown-iters 100 --out train.ckpt"
# Which step it was depends on the machine.
some_step() { tail -n 1 | sed -E 's/[0-9]{2,}/N/g'; }
record some_step interrupted INT $long > first
sed -E '/^out/ s/:[^,}]+/:…/g' first
try sh -c 'ls -A | sed s/[0-9][0-9]*/N/'
try_last $long
record some_step interrupted TERM $long --resume newest | grep -v '^out'
try_last train --profile small.profile --iterations 400 --warmdown-iters 90 --out train.ckpt --resume newest
need $long --resume newest
need train --profile small.profile --iterations 400 --warmdown-iters 100 --out straight.ckpt
identity() { ckpt-inspect --json "$1" | grep -m 1 '"identity"'; }
try test "$(identity train.ckpt)" = "$(identity straight.ckpt)"
try ls -A
