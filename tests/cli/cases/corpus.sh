# Shards of one's own text: documents, held-out ones, the tokenizer of the rest; and nothing half made.
export TOKENIZE_SHARD=$bin/tokenize-shard
for i in {1..60}; do printf 'Document %d says:\n\tin the beginning   was document %d,\nand it was good.\n\n' $i $((i * 7919)); done > book.txt
for i in {61..90}; do printf '{"title": "%d", "body": "In JSON, document %d says nothing."}\n' $i $i; done > notes.jsonl
for i in {1..30}; do printf 'A file %d of its own.\n\nTwo paragraphs.\n' $i > file-$i.txt; done

try_status "$root/scripts/corpus" --pieces 300 --holdout 20% mine book.txt
try ls -A mine
try tokenize-shard --identify mine
need train --profile small.profile --data-path mine --vocab-size 300 --iterations 1 --out train.ckpt
# The tokenizer has seen none of what is held out.
need tokenize-shard --split train --separator blank-line --holdout 20% --vocab-size 300 --train-tokenizer again.model --out other book.txt
need cmp again.model mine/tokenizer.model
# A score of it is proved; one with a vocabulary that was learnt from the held-out documents is not.
proof() {  # proof FOLDER: what a proof says of its documents, and how it ended
  local status
  eval-sliding --profile small.profile --vocab-size 300 --data-path "$1" --prove prove.json weights.ckpt > out 2> err
  status=$?
  { grep -E '^prove: (documents|tokenizer|FAILED)' err; tail -n 1 err | grep -E '^eval-sliding: '; }
  return $status
}
need ema-finalize --profile small.profile --vocab-size 300 train.ckpt weights.ckpt
try proof mine
need tokenize-shard --separator blank-line --vocab-size 300 --train-tokenizer all.model book.txt
need tokenize-shard --split train --separator blank-line --holdout 20% --tokenizer all.model --out leaky book.txt
try tokenize-shard --split val --separator blank-line --holdout 20% --tokenizer all.model --out leaky book.txt
try proof leaky
# What a tokenizer was trained on belongs to it.
cp all.model.documents again.model.documents
try_last tokenize-shard --split val --separator blank-line --holdout 20% --tokenizer again.model --out other book.txt
# Others are added: what was held out stays so.
held() { grep -o '"documents": [0-9]*' "$1/manifest.json" | paste -sd ' '; }
try held mine

try_status "$root/scripts/corpus" --pieces 300 --documents key:body --case-ops json notes.jsonl
try held json
try ls -A json
try_status "$root/scripts/corpus" --pieces 300 --documents file --holdout 30% files file-*.txt
try held files
# JSON lines are known by their name, and their text by the name "text".
try_last "$root/scripts/corpus" --pieces 300 json notes.jsonl
try held json

# What cannot be leaves what there is as it was.
need cp -r mine before
try_last "$root/scripts/corpus" --pieces 30000 mine book.txt
try_last "$root/scripts/corpus" --pieces 300 --documents file mine book.txt
try_last "$root/scripts/corpus" --pieces 300 --holdout all mine book.txt
try_last "$root/scripts/corpus" mine absent.txt
try_last "$root/scripts/corpus" mine
try_last "$root/scripts/corpus" --peaces 300 mine book.txt
need diff -r before mine

# Killed while it replaces one, it leaves what no program takes for a corpus, until it is made again.
need mkdir fatal
need sh -c 'printf "#!/bin/sh\nkill -9 \$PPID\n" > fatal/mv; chmod +x fatal/mv'
try_status env PATH="$scratch/work/fatal:$PATH" bash "$root/scripts/corpus" --pieces 300 mine book.txt
try_last train --profile small.profile --vocab-size 300 --data-path mine --out never.ckpt
try_status "$root/scripts/corpus" --pieces 300 mine book.txt
try held mine

# By make.
clone=$scratch/work/clone
texts=$scratch/work
unset TOKENIZE_SHARD
(stand_in_clone "$clone"; cp "$bin/tokenize-shard" build/bin/
  ran corpus TEXT="$texts/file-*.txt" OUT=data/mine PIECES=300 DOCUMENTS=file HOLDOUT=30%; echo "status $?"; cat ../make.out
  ran corpus TEXT="$texts/book.txt"; echo "status $?"; head -n 1 ../make.err) | normalise
