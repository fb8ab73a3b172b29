# What make does again after which change, and that paths may look like anything. The programs are stand-ins.
stand_in_clone "it's a clone"

try ran record SEED=1337
try ran record SEED=1337
try ran finalize SOURCE=swa
try ran record SOURCE=swa
try ran record
try ran eval EVAL_STRIDE=32
try ran record ITERATIONS=100
try ran train SEED=42
try ran train RUN=named ITERATIONS=200
try ls runs/cpu-demo
try ran record ITERATIONS=100

# A program rebuilt is no change; its sources are. So is the code that counts, for what weighs it.
touch build/bin/gptq-lite
try ran record ITERATIONS=100
echo 2 > build/bin/gptq-lite.digest
try ran record ITERATIONS=100
echo 2 > build/bin/make-submission.digest
try ran record ITERATIONS=100
echo '# more' >> CMakeLists.txt
try ran record ITERATIONS=100
echo '# more' >> pipelines/cpu-demo.profile
try ran train ITERATIONS=100
try ran submission ITERATIONS=100 AUTHOR=somebody
try ran record ITERATIONS=100 SWA_ENABLED=0
try ran record ITERATIONS=100 SWA_ENABLED=0

# Where a size in bytes is asked for, it counts the code: another size of the code means another artifact.
try ran quantise ITERATIONS=100 SWA_ENABLED=0
try ran quantise ITERATIONS=100 SWA_ENABLED=0 TARGET_BYTES=500000
try ran quantise ITERATIONS=100 SWA_ENABLED=0 TARGET_BYTES=500000
echo '# some more of it, which takes some bytes' >> CMakeLists.txt
try ran quantise ITERATIONS=100 SWA_ENABLED=0 TARGET_BYTES=500000

# A stage that fails leaves what was there, and is made again.
try ran quantise SEED=7 FAIL=gptq-lite
try ran quantise SEED=7
try ran train SEED=8 FAIL=train
try ls runs/cpu-demo/seed-8

# The corpus in another vocabulary.
try ran train SEED=9 DATA_PATH=data/bible-kjv-512
try ran train SEED=9 DATA_PATH=data/bible-kjv-512

# Paths.
mkdir -p "../my data"
touch "../my data/fineweb_train_000000.bin" "../my data/byte_table.pb"
cp pipelines/tiny.profile "../-my own.profile"
try ran -j 4 submission "PROFILE=../-my own.profile" "RUNS=-the runs" "DATA_PATH=../my data"
try find "./-the runs" -mindepth 2 -maxdepth 2
try sh -c 'tar --zstd -tf "./-the runs/-my own/seed-1337/source.tar.zst" | grep -vE "^(common|tools|cmake)/"'
try ran train PROFILE=no-such
try ran train DATA_PATH=nowhere
mkdir nothing
touch nothing/fineweb_train_000000.bin
try ran train DATA_PATH=nothing

try ran verify-record
try ran verify-record RECORD=nowhere
