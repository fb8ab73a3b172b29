# What make does again after which change, and that paths may look like anything. The programs are stand-ins (tests/cli/stand_in.cc),
# but for check-chain, which decides.
stand_in_clone "it's a clone"

try ran record SEED=1337
try cat runs/cpu-demo/seed-1337/sample.json
try ran record SEED=1337
try sh -c 'make generate "PROMPT=In the \$beginning" 2>&1 | tail -n 1'
try ran finalize SOURCE=swa
try ran record
try ran record SOURCE=swa
try ran eval EVAL_STRIDE=32
try ran record
try ran record ITERATIONS=100
try ran record ITERATIONS=100 AGAIN=1
try ran eval
try ran train SEED=42
try ran train RUN=named ITERATIONS=200
try ls runs/cpu-demo

# A program rebuilt is no change; its sources are. So is the code that counts, for what ships it.
touch build/bin/gptq-lite
try ran record
echo 2 > build/bin/gptq-lite.digest
try ran record
try ran record AGAIN=1
echo 2 > build/bin/eval-sliding.digest
try ran eval
echo 2 > build/bin/make-submission.digest
try ran record AGAIN=1
echo '# more' >> CMakeLists.txt
try ran record
echo '# more' >> pipelines/cpu-demo.profile
try ran train
try ran submission AUTHOR=somebody
try ran submission
try ran record SWA_ENABLED=0 AGAIN=1
try ran record SWA_ENABLED=0 SOURCE=ema
try ran record SWA_ENABLED=0 SOURCE=ema AGAIN=1

# Where a size in bytes is asked for, it counts the code. Training that is done is not done again for it.
try ran quantise QUANTISER=rtn TARGET_BYTES=500000
try ran quantise QUANTISER=rtn TARGET_BYTES=500000 CALIBRATION=self
try ran quantise
try ran train QUANTISER=rtn TARGET_BYTES=500000
try ran quantise RUN=sized QUANTISER=rtn TARGET_BYTES=500000
try ran quantise RUN=sized
for i in {1..20}; do echo "# $(sha256sum <<< $i)"; done >> CMakeLists.txt  # more code, which does not compress away
try ran train RUN=sized
try ran quantise RUN=sized

# A stage that fails leaves what was there, and is made again.
export FAIL=gptq-lite; try ran quantise SEED=7; unset FAIL
try ran quantise SEED=7
export FAIL=train; try ran train SEED=8; unset FAIL
try ls runs/cpu-demo/seed-8

# The corpus in another vocabulary.
try ran train SEED=9 DATA_PATH=data/bible-kjv-512
try ran train SEED=9
# The corpus is made again where what makes it is another, whatever the times say.
touch -d 2099-01-01 scripts/corpus build/bin/tokenize-shard.digest
try ran train SEED=9
echo 2 > build/bin/tokenize-shard.digest && touch -d 1999-01-01 build/bin/tokenize-shard.digest
try ran train SEED=9
try ran train SEED=9

# Paths.
need python3 "$here/make-shards" "../my data"
echo table > "../my data/byte_table.pb"
cp pipelines/tiny.profile "../-my own.profile"
try ran -j 4 submission "PROFILE=../-my own.profile" "RUNS=-the runs" "DATA_PATH=../my data"
try find "./-the runs" -mindepth 2 -maxdepth 2
try sh -c 'tar --zstd -tf "./-the runs/-my own/seed-1337/source.tar.zst" | grep -vE "^(common|tools|cmake)/"'
try ran train PROFILE=no-such
try ran train DATA_PATH=nowhere
need python3 "$here/make-shards" nothing
try ran train DATA_PATH=nothing TOKENIZER_PATH=nowhere

# Names that there are not.
try make record ITERATION=5
try make record LAUNHC=mpirun SEED=3
try make record "A'B=1"
try ran train SEED=10 OMP_NUM_THREADS=1

try ran verify-record
try ran verify-record RECORD=nowhere
try ran compare A=runs

# The help fits on a screen of 24 lines of 80 characters, and names each target that a person may want.
screen() { make help | python3 -c 'import sys; lines = sys.stdin.read().split("\n"); print(len(lines) <= 24, max(map(len, lines)) <= 80)'; }
try screen
named() {
  local target help
  help=$(make help)
  for target in $(sed -n 's/^\.PHONY: //p' Makefile); do
    case $target in FORCE | help | configure | '$(STAGES)') continue ;; esac
    grep -qw -- "$target" <<< "$help" || echo "$target is not named"
  done
}
try named
