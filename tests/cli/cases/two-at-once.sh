# One command at a time works in a run. The second says which one does, and changes nothing; the lock ends with whoever holds it.
stand_in_clone clone
# refused ARGUMENTS…: what make says, with the process, the host and the time where they are those of the first.
refused() {
  make "$@" 2>&1 > ../make.out | sed -n "s/process $first on $HOSTNAME (/process P on HOST (/; s/since 20[0-9-]* [0-9:]* UTC/since T/; /^make: [^*]/p"
}
hold() {
  HOLD=train make train SEED=9 > ../make.out 2> ../make.err &
  until [ -s "$RAN.pid" ]; do sleep 0.02; done
  first=$(sed 's/process \([0-9]*\) .*/\1/' runs/cpu-demo/seed-9/.lock)
}

need python3 "$here/make-shards" ../other
echo table > ../other/byte_table.pb
hold
try refused train SEED=9 DATA_PATH=../other
try readlink runs/cpu-demo/seed-9/data
try ran train SEED=10
# Its make alone is killed: the program is still at work, and what comes next would write the same files.
kill -9 "$first"
try refused train SEED=9
kill -9 "$(< "$RAN.pid")"
until flock -n runs/cpu-demo/seed-9/.lock true; do sleep 0.02; done
try ran train SEED=9
