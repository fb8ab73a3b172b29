# fairway from a fresh clone to a finished record. `make` says what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
# A misspelt name would be ignored.
VARIABLES := PROFILE SEED SEEDS RUNS RUN AGAIN LAUNCH EXECUTOR AUTHOR GITHUB_ID BASELINE_BPB BASELINE_LOSS A B OUT RECORD VENV ROOT CI \
  LIBTORCH BENCH_FLAGS RANKS REPORT TEXT HOLDOUT PIECES DOCUMENTS CASE_OPS SET SHARDS SECONDS FUZZ_SEED KILLS SLURM_OPTIONS SHELL PREFIX PROMPT TOKENS TEMPERATURE TOP_K TOP_P SAMPLE_SEED
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
misspelt := $(if $(given),$(shell scripts/check-names '$(VARIABLES)' $(foreach name,$(given),'$(subst ','\'',$(name))')))
$(if $(misspelt),$(error $(misspelt)))

# Variables of the command line reach programs and further makes through the environment, and only so: scripts/in-run turns
# paths among them into absolute ones.
MAKEOVERRIDES :=
# They are values, not make's language: a dollar in a name stays one.
$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(eval override export $(name) := $$(value $(name)))))

export PROFILE ?= cpu-demo
export SEED ?= 1337
export RUNS ?= runs
export RUN ?=
export SEEDS ?= 1337 42 2025
export LAUNCH ?=
EXECUTOR ?= make
export VENV ?= $(CURDIR)/.venv
export ROOT := $(CURDIR)
# Waiting threads sleep: spinning ones win a third on an idle machine and lose tenfold on a busy one.
export OMP_WAIT_POLICY ?= PASSIVE

CMAKE_FLAGS := -DFAIRWAY_WERROR=$(if $(filter true 1,$(CI)),ON,OFF) -DFAIRWAY_TESTS=$(if $(wildcard tests),ON,OFF)
NINJA := flock build ninja -C build -j $(shell nproc)
PROGRAMS := tokenize-shard train ema-finalize gptq-lite pack-zstd eval-sliding make-submission compare-runs audit-record ckpt-inspect check-chain
STAGES := train finalize quantise pack eval submission

define HELP
fairway trains a language model that fits, with its code, into 16,000,000 bytes

make record [PROFILE=cpu-demo] [SEED=1337]    train, quantise, pack and score
make train | finalize | quantise | pack | eval | submission    up to that stage
make … AGAIN=1 | make -n …       replace finished stages; only print commands
make records SEEDS="1337 42" [-j2] [EXECUTOR=slurm]    several seeds, one record
make generate PROMPT="…"         continue a text (TEMPERATURE, TOP_P, TOKENS)
make runs | compare A=DIR B=DIR  list all runs; compare two experiments
make publish | prove             copy the submission to records/; prove a score
make verify-record RECORD=DIR    check claims, rebuild the source, score again
Data
make corpus TEXT='FILE…' OUT=DIR [HOLDOUT=5%] [PIECES=2048]   your own text
  [DOCUMENTS=blank-line|file|key:NAME]
make data [SET=SP1024|SP8192|CaseOps]    fetch a published data set into data/
Build and test
make setup | programs | build | clean | install PREFIX=DIR | wheel
make test | test-all | test-asan | test-tsan | test-faults [KILLS=200] | fuzz
make test-arm64 | check-gpu [RANKS=8] | bench | bench-operations
Settings
NAME=value changes a setting (ITERATIONS=9); `PROGRAM --help` lists them.
PROFILE=cpu-demo|beyond|beyond-10min|published-531|field-1855|record-h100x8|FILE
RUN=NAME keeps a run of its own in RUNS/PROFILE/NAME-seed-SEED (RUNS=runs).
LAUNCH="mpirun -n 2": several processes. AUTHOR=, GITHUB_ID=: who submits.
endef

.PHONY: FORCE help setup configure records runs compare programs build test test-all check-gpu test-asan test-tsan test-arm64 fuzz test-faults bench bench-operations data corpus record $(STAGES) publish prove generate verify-record install wheel clean
help:
	@$(info $(HELP)):

setup:
	@scripts/setup

# A build folder that came with a moved checkout names the old place all over. A compiler for GPUs may have come since.
configure: setup
	@grep -qsxF "CMAKE_HOME_DIRECTORY:INTERNAL=$$PWD" build/CMakeCache.txt || rm -rf build/CMakeCache.txt build/CMakeFiles build/flags; \
	flags=(-DFAIRWAY_VENV="$$VENV" $(CMAKE_FLAGS)); mkdir -p build; \
	made="$${flags[*]} $$(PATH=$$PATH:$${CUDA_HOME:-/usr/local/cuda}/bin:$$(echo "$$VENV"/lib/python3*/site-packages/nvidia/cu13/bin) type -P nvcc || echo no nvcc)"; \
	if [ ! -f build/build.ninja ] || [ "$$made" != "$$(cat build/flags 2>&1)" ]; then \
	  cmake -G Ninja -S . -B build "$${flags[@]}"; printf '%s\n' "$$made" > build/flags; \
	fi

programs: configure
	@$(NINJA) $(PROGRAMS)

build: configure
	@$(NINJA)

test: build
	@ctest --test-dir build --output-on-failure -j $$(nproc) -LE slow

test-all: build
	@ctest --test-dir build --output-on-failure -j $$(nproc)
	@$(MAKE) --no-print-directory test-asan test-tsan

bench: configure
	@$(NINJA) bench-step bench-products bench-coder
	@build/bin/bench-coder
	@build/bin/bench-products
	@"$$VENV/bin/python" bench/race.py --bin build/bin --out build/bench $(BENCH_FLAGS)

# The build that is there may be older than the package.
bench-operations: configure
	@PACKAGES=libbenchmark-dev scripts/setup
	@cmake -S . -B build > /dev/null
	@$(NINJA) bench-operations
	@python3 bench/operations.py build/bin/bench-operations --out build/bench/operations.json $(BENCH_FLAGS)

# Disks of a few kilobytes, hostile names and the like, then faults at every place, then kills.
test-faults: build
	@PACKAGES=btrfs-progs scripts/setup
	@tests/faults/all build $${KILLS:-200}

# Builds of their own, beside build/; docs/reliability.md says what they find. Of the threads none of ours needs LibTorch, whose
# own the sanitizer does not understand.
LIBTORCH ?= ON
test-asan: flags = -DFAIRWAY_SANITIZE=address,undefined,float-cast-overflow -DFAIRWAY_LIBTORCH=$(LIBTORCH)
test-tsan: flags = -DFAIRWAY_SANITIZE=thread -DFAIRWAY_LIBTORCH=OFF
test-asan test-tsan: test-%: setup
	@cmake -G Ninja -S . -B build-$* -DFAIRWAY_VENV="$$VENV" $(CMAKE_FLAGS) $(flags) > /dev/null
	@flock build-$* ninja -C build-$* -j $$(nproc)
	@ASAN_OPTIONS=detect_leaks=1 ctest --test-dir build-$* --output-on-failure -j $$(nproc) -LE slow

fuzz:
	@PACKAGES="clang-14 libclang-rt-14-dev" scripts/setup
	@cmake -G Ninja -S . -B build-fuzz -DCMAKE_CXX_COMPILER=clang++-14 -DFAIRWAY_FUZZ=ON -DFAIRWAY_LIBTORCH=OFF -DFAIRWAY_TESTS=OFF \
	  -DFAIRWAY_SANITIZE=fuzzer-no-link,address,undefined,float-cast-overflow > /dev/null
	@flock build-fuzz ninja -C build-fuzz -j $$(nproc) fuzz
	@tests/fuzz/run build-fuzz $(or $(SECONDS),60)

test-arm64:
	@scripts/cross-arm64

# A first day's minutes are few: no more is built than it needs.
check-gpu: configure
	@$(NINJA) check_gpu
	@build/tests/check_gpu --ranks "$${RANKS:-1}" --report "$${REPORT:-check-gpu.txt}"

data: setup
	@"$$VENV/bin/python" scripts/fetch-data $${SET:+--set "$$SET"} data

corpus: programs
	@[ -n "$${TEXT-}" ] && [ -n "$${OUT-}" ] || { echo "make: corpus needs TEXT='FILE…' and OUT=DIR" >&2; exit 2; }
	@scripts/corpus $${DOCUMENTS:+--documents "$$DOCUMENTS"} $${HOLDOUT:+--holdout "$$HOLDOUT"} \
	  $${PIECES:+--pieces "$$PIECES"} $$([ "$${CASE_OPS:-0}" = 0 ] || echo --case-ops) "$$OUT" $$TEXT
	@echo "make record RUN=$$(basename -- "$$OUT") DATA_PATH=$$OUT VOCAB_SIZE=$${PIECES:-2048}"

# The default corpus, and the same in other vocabularies: made once, shared by all runs, and made again where what makes it has other
# content: .made-from has its digest, because times say nothing.
define MAKE_CORPUS
@made_from=$$(cat scripts/make-corpus scripts/corpus build/bin/tokenize-shard.digest | sha256sum); \
if [ ! -f $@ ] || [ "$$made_from" != "$$(cat $(@D)/.made-from 2>&1)" ]; then \
  scripts/make-corpus $(@D) $(1); printf '%s\n' "$$made_from" > $(@D)/.made-from; \
fi
endef
data/bible-kjv/manifest.json: FORCE
	$(call MAKE_CORPUS,1024)
data/bible-kjv-%/manifest.json: FORCE
	$(call MAKE_CORPUS,$*)
FORCE:

# A run is Makefile.runs at work inside the run's own directory.
record $(STAGES) publish generate: programs
	+@scripts/in-run $(MAKE) --no-print-directory -f "$$ROOT/Makefile.runs" $@

# EXECUTOR=slurm hands the same targets to Slurm.
records: programs
ifeq ($(EXECUTOR),slurm)
	@scripts/records-by-slurm
else
	@$(MAKE) --no-print-directory -f Makefile.records records
endif

runs:
	@scripts/runs "$$RUNS"

compare: programs
	@[ -n "$${A-}" ] && [ -n "$${B-}" ] || { echo "make: compare needs A=DIR and B=DIR, for example A=runs/cpu-demo/seed-1337" >&2; exit 2; }
	@build/bin/compare-runs --out "$${OUT:-$$RUNS/comparison}" -- "$${A-}" "$${B-}"

prove: programs
	@scripts/in-run "$$ROOT/scripts/prove"

verify-record: configure
	@$(NINJA) make-submission
	@scripts/verify-record $${RECORD:+"$$RECORD"}

export PREFIX ?= $(HOME)/.local
install: programs
	@cmake --install build --prefix "$$PREFIX" > /dev/null

wheel: programs
	@packaging/make-wheel build build/wheel

clean:
	@rm -rf build build-asan build-tsan build-fuzz
