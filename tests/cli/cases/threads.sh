# However OpenMP is made to keep threads back, programs end: with the threads that there are, or with a line that names the variable.
make_shards data
sed -i 's/^iterations .*/iterations = 2/' small.profile
THREADS=1 need train --profile small.profile --out train.ckpt
identity train.ckpt > one.identity
THREADS=2 need train --profile small.profile --out two.ckpt
identity two.ckpt > two.identity
need ema-finalize train.ckpt weights.ckpt

with() {  # with VARIABLE=VALUE: trains on two threads, and evaluates
  local file=${1%%=*}
  timeout 120 env THREADS=2 "$1" train --profile small.profile --out "$file.ckpt" 2> said > /dev/null
  echo "train: $?"
  grep '^threads:' said
  local is=$(ckpt-inspect --json "$file.ckpt" 2> /dev/null | grep -o '"identity":"[0-9a-f]*"' | head -n 1)
  [ "$is" = "$(cat one.identity)" ] && echo "as on one thread"
  [ "$is" = "$(cat two.identity)" ] && echo "as on two threads"
  timeout 120 env THREADS=2 "$1" eval-sliding --profile small.profile weights.ckpt > score 2> said
  echo "eval-sliding: $?"
  grep -o '"threads":[0-9]*' score
}
for setting in OMP_DYNAMIC=true OMP_MAX_ACTIVE_LEVELS=0 OMP_NUM_THREADS=1 OMP_THREAD_LIMIT=1; do try with $setting; done
try_last env THREADS=2 OMP_STACKSIZE=16k train --profile small.profile --out refused.ckpt
try_last env THREADS=2 OMP_STACKSIZE=16k eval-sliding --profile small.profile weights.ckpt
