# Names of any kind, of runs, profiles and data: each works or is refused in one line, and none is ever taken for a command, an
# option or a pattern.
# All that a shell, make or a pattern may trip over, in one name: each outcome costs a make.
names=("it's \"a\" & b; touch pwned"' $(touch pwned)`touch pwned`$(shell touch pwned)#${HOME} star*[x]?\' '--out' $'two\nlines' '../up' '..' '')
make_shards data
stand_in_clone clone
mkdir profiles
outcome() {  # outcome WHAT COMMAND…: what comes of a name given as WHAT
  local said
  "${@:2}" > ../said 2>&1 && { echo "$1: works"; return; }
  said=$(grep -v '^make: \*\*\*' ../said)
  echo "$1: ${said:-refused without a word}"
}
everywhere() {
  outcome "RUN" make train "RUN=$1"
  outcome "RUN in the environment" env "RUN=$1" make train
  outcome "RUNS" make train "RUNS=../places/$1/runs"
  mkdir -p "../places/$1"
  cp ../data/*.bin "../places/$1/" 2> /dev/null
  touch "../places/$1/byte_table.pb"
  outcome "DATA_PATH" make train "DATA_PATH=../places/$1" RUN=data
  cp pipelines/tiny.profile "profiles/$1.profile"
  outcome "PROFILE" make train "PROFILE=profiles/$1.profile"
  outcome "AUTHOR" make submission "AUTHOR=$1" "GITHUB_ID=$1" RUN=author
  outcome "RECORD" make verify-record "RECORD=../places/$1"
}
for name in "${names[@]}"; do try everywhere "$name"; done
published() { make publish RUN=author 2>&1 | grep -v '^make.*\*\*\*' | sed "s/$(date -u +%F)/DATE/"; }
try published
try published
# Two publications, the first of which was killed half way.
rm -r records/*
mkdir records/.cpu-demo-author-seed-1337.tmp
touch records/.cpu-demo-author-seed-1337.tmp/old
try sh -c 'make publish RUN=author > /dev/null 2>&1; cd records; ls -A * | grep -v :'
try sh -c 'find ../places runs -path "*seed*" -prune -print | sort'

# The programs themselves: what they say stays one line.
cd ..
PATH=$bin:$PATH
for name in "${names[@]:0:3}"; do
  mv data "./$name.data"
  sed '/_path/d' small.profile > "./$name.profile"
  need train "--profile=./$name.profile" "--data-path=$name.data" "--tokenizer-path=$name.data/tokenizer.model" "--out=$name.ckpt" "--log=$name.log"
  try ckpt-inspect --json "./$name.missing"
  need grep -q '^run_id:' <(sed -n 2p "./$name.log")
  need ckpt-inspect "./$name.ckpt"
  mv "./$name.data" data
done
try find . -name pwned
