# Many seeds: side by side in directories of their own, each with its share of the processors, and one submission over all; all runs
# in a list. The programs are stand-ins.
stand_in_clone clone
unset THREADS
printf '#!/bin/sh\necho 8\n' > ../tools/nproc
chmod +x ../tools/nproc
# Which seeds trained, with how many threads.
mv build/bin/train build/bin/train.stand-in
cat > build/bin/train << 'SCRIPT'
#!/usr/bin/env bash
value() { sed -n "s/^$1 = \([0-9]*\).*/\1/p" train.settings; }
echo "seed $(value seed), $(value threads) threads" >> "$RAN.trained"
exec -a train "${0%/*}/train.stand-in" "$@"
SCRIPT
chmod +x build/bin/train
trained() { sort "$RAN.trained" 2> /dev/null; rm -f "$RAN.trained"; }
# Of several seeds at once: how often each program ran.
counted() {
  ran "$@" > ../said
  head -n 1 ../said | tr ' ' '\n' | sort | uniq -c | awk '{print $2, $1}'
}

try counted -j2 records "SEEDS=7 42"
try trained
try sh -c 'find runs/cpu-demo -maxdepth 2 -name submission | sort'
try counted -j2 records "SEEDS=42 7 7"
try trained
try counted -j5 records "SEEDS=1 2 3" RUN=more
try trained
try sh -c 'find runs/cpu-demo -maxdepth 1 -name "*submission" | sort'
try ran records SEEDS=8 THREADS=3
try trained
try ran records SEEDS=9
try trained
FAIL=pack-zstd try ran records SEEDS=10 RUN=failing
try counted -j records "SEEDS=3 4" RUN=unlimited
try trained
# With another share of the processors nothing is another run.
try counted records "SEEDS=3 4" RUN=unlimited
try ran submission SEED=3 RUN=unlimited
try find runs/cpu-demo -maxdepth 1 -name 'failing*'

touch runs/cpu-demo/seed-8/train.partial-000120.ckpt
rm runs/cpu-demo/seed-9/eval.json runs/cpu-demo/seed-9/submission/submission.json
scored() {  # scored RUN BPB: scores of the artifact that is there
  echo "{\"val_bpb\": $2, \"artifact_digest\": \"$(sha256sum < "$1/model.bin.zst" | cut -c 1-64)\"}" > "$1/eval.json"
}
truncate -s 1234567 runs/cpu-demo/seed-7/model.bin.zst
scored runs/cpu-demo/seed-7 1.25
truncate -s 1000 runs/*/*/source.tar.zst
for run in runs/cpu-demo/{seed-*,more-seed-3,unlimited-seed-*}; do
  [ ! -d $run/submission ] || cp $run/{model.bin.zst,eval.json,source.tar.zst} $run/submission
done
# A submission, or scores, of other products than those that are there are not the run's, whatever the times say.
scored runs/cpu-demo/more-seed-1 1.75
truncate -s 999 runs/cpu-demo/more-seed-2/submission/source.tar.zst
rm runs/cpu-demo/unlimited-seed-3/model.bin.zst && cp runs/cpu-demo/seed-7/model.bin.zst runs/cpu-demo/unlimited-seed-3
touch -d '3 hours ago' runs/cpu-demo/seed-7/* runs/cpu-demo/seed-7/submission/*
touch -d '2099-01-01' runs/cpu-demo/more-seed-*/submission/submission.json
listed() {
  exec 8<> runs/cpu-demo/seed-42/.lock && flock 8
  make runs "$@" | sed -E 's/ +[0-9]+ s$/ moments/'
  exec 8>&-
}
try listed
# A run in progress says how far it is, from the end of its log: of the newest program, by its steps, its clock or its windows.
in_progress() {
  { echo 'train --profile x'; printf '%s\n' "$@"; } > runs/cpu-demo/seed-42/train.log
  touch -d @4000000000 runs/cpu-demo/seed-42/train.log  # in the future: the time left does not run down meanwhile
  listed | grep seed-42 | sed -E 's/  +.*(at work.*[0-9a-z%]) +1,010.*/  \1/'
}
try in_progress
try in_progress 'step:10/100 train_loss:2.5 train_time:20000ms step_avg:2000.00ms data_wait:1ms' 'step:20/100 val_loss:2.4 val_bpb:1.4 train_time:40000ms step_avg:2000.00ms'
try in_progress 'max_wallclock_seconds:100.000' 'step:10/1000 train_loss:2.5 train_time:50000ms step_avg:5000.00ms'
try in_progress 'gptq-lite a b' 'search: a step'
touch -d @3999999980 runs/cpu-demo/seed-42/model.bin.zst
try in_progress 'eval-sliding a' '  sliding_eval [ 25.0%] 16/64 windows running_bpb=3.2'
try make runs RUNS=nowhere
# Scores that are none.
mkdir -p odd/tiny/{deep,text,list}
touch odd/tiny/{deep,text,list}/.lock
python3 -c 'print("[" * 50000 + "]" * 50000)' > odd/tiny/deep/eval.json
echo '{"val_bpb": "low"}' > odd/tiny/text/eval.json
echo '[1]' > odd/tiny/list/eval.json
try sh -c 'make runs RUNS=odd | sed -E "s/ +[0-9]+ s$/ moments/"'

# One run by many processes: of those programs alone whose ranks share the work and communicate.
printf '#!/bin/sh\nprintf "%%s: " "${0##*/}" >> "$RAN"\nexec "$@"\n' | tee ../tools/mpirun ../tools/torchrun > ../tools/srun
chmod +x ../tools/{mpirun,torchrun,srun}
try ran record SEED=1 RUN=launched "LAUNCH=mpirun"
try ran quantise SEED=1 RUN=launched "LAUNCH=mpirun" QUANTISER=gptq CALIBRATION=self BITS_PER_WEIGHT=4
try ran quantise SEED=1 RUN=launched "LAUNCH=srun env" QUANTISER=rtn CALIBRATION=shards BITS_PER_WEIGHT=4
try ran quantise SEED=1 RUN=launched "LAUNCH=mpirun" QUANTISER=rtn CALIBRATION_WINDOWS=0 BITS_PER_WEIGHT=4
try ran quantise SEED=1 RUN=launched "LAUNCH=torchrun env" QUANTISER=gptq CALIBRATION_WINDOWS=32 BITS_PER_WEIGHT=4
try ran eval SEED=1 RUN=launched "LAUNCH=mpirun" METHOD=kv_cache
try ran eval SEED=1 RUN=launched "LAUNCH=torchrun env" METHOD=ttt EVAL_STRIDE=8
try ran eval SEED=1 RUN=launched "LAUNCH=torchrun env" METHOD=sliding
