# Where a step's time went: every operation once, and shares that add up; nothing without the option.
make_shards data
profiled() {  # profiled OPTION…: the parts' names; the sums of their milliseconds over the step's, and of their shares
  train --profile small.profile --out train.ckpt --log log "$@" > /dev/null 2>&1 || return
  sed -n 's/^step_profile:\([a-z]*\) .*/\1/p' log | sort | paste -sd ' '
  awk '/^step_profile: / { whole = $5 } /^step_profile:[a-z]/ { time += $2; share += $4; if ($2 < 0) under = under " " $1 }
       END { if (whole) print (!under && time > 0.97 * whole && time < 1.03 * whole && share > 99 && share < 101 ? "add up" : time " of " whole ", " share ", below 0:" under) }' log
  rm log train.ckpt
}
try profiled
try profiled --profile-step
