# Text to shards: what it says when all is well, and about text and folders that are not what they should be.
printf 'In the beginning\fGod created\fthe heaven and the earth.\f' > book.txt
printf '{"id": 1, "text": "In the beginning"}\n{"id": 2, "text": "God created"}\n' > book.jsonl
make_shards made
model=made/tokenizer.model

try tokenize-shard --out data --split train --separator '\f' --tokenizer $model book.txt
try cat data/manifest.json
try tokenize-shard --out data --split val --key text --tokenizer $model --shard-tokens 10 book.jsonl
try ls -A data
try tokenize-shard --tokenizer-path $model --byte-table pieces.pb
need cmp pieces.pb data/byte_table.pb
# A pipe is one document like any other file.
need bash -c "tokenize-shard --out piped --split val --tokenizer $model - < book.txt"
need tokenize-shard --out plain --split val --tokenizer $model book.txt
need diff -r piped plain

# Text that the tokenizer changes: what is dropped is counted, and no score counts more than there is.
printf 'a   b\n\n\tc \357\267\272' > odd.txt
need tokenize-shard --vocab-size 300 --train-tokenizer exact.model --separator '\f' book.txt
need tokenize-shard --vocab-size 300 --train-tokenizer field.model --normalisation field --separator '\f' book.txt
try tokenize-shard --out exact --split val --tokenizer exact.model odd.txt
try tokenize-shard --out field --split val --tokenizer field.model odd.txt
try ls -A exact field

# CaseOps: val has a byte sidecar, train has none.
printf 'The NASA Launch\nwas McDonald'"'"'s idea.\n' > cased.txt
try tokenize-shard --out cased --split train --vocab-size 300 --train-tokenizer cased.model --case-ops cased.txt
try tokenize-shard --out cased --split val --tokenizer cased.model --case-ops cased.txt
try ls -A cased
try_last tokenize-shard --out cased --split val --tokenizer cased.model cased.txt
try_last tokenize-shard --out exact --split val --tokenizer exact.model --case-ops odd.txt

# Held-out documents stay held out when others come.
for i in {1..40}; do printf 'document %d\nof two lines\n\n \n' $i; done > many.txt
for split in train val; do try tokenize-shard --out held --split $split --separator blank-line --holdout 20% --tokenizer exact.model many.txt; done
try_last tokenize-shard --out held --split val --holdout 20% --tokenizer exact.model book.txt
try_last tokenize-shard --out held --split val --holdout 120% --tokenizer exact.model many.txt
try_last tokenize-shard --out held --split val --holdout 20% --train-tokenizer new.model many.txt
try_last tokenize-shard --out held --split val --normalisation exact --tokenizer exact.model many.txt
try_last tokenize-shard --out held --split val --normalisation nfkd --train-tokenizer new.model many.txt
rm -r exact field cased held ./*.model many.txt cased.txt odd.txt

# The text.
gzip -c book.txt > book.txt.gz
try_last tokenize-shard --out new --split train --tokenizer $model book.txt.gz
try_last tokenize-shard --out new --split train --tokenizer $model --key text book.txt.gz
rm book.txt.gz
printf '{"text": "a", "text": "b"}\n' > twice.jsonl
try_last tokenize-shard --out new --split train --tokenizer $model --key text twice.jsonl
printf '{"text": "\\ud83d"}\n' > half.jsonl
try_last tokenize-shard --out new --split train --tokenizer $model --key text half.jsonl
rm ./twice.jsonl half.jsonl
try_last tokenize-shard --out new --split train --vocab-size 5000 --train-tokenizer new.model book.txt
printf 'caf\351' > latin1.txt
: > empty.txt
try_last tokenize-shard --out new --split train --tokenizer $model latin1.txt
try_last tokenize-shard --out new --split train --tokenizer $model empty.txt
try_last tokenize-shard --out new --split train --tokenizer $model absent.txt
try_last tokenize-shard --out new --split train --tokenizer $model made
try_last tokenize-shard --out new --split train --tokenizer $model --key txt book.jsonl
try_last tokenize-shard --out new --split train --tokenizer $model --key text book.txt
try_last tokenize-shard --out new --split train --vocab-size 300 --train-tokenizer new.model --separator '\f' book.txt

# The tokenizer.
try_last tokenize-shard --out new --split train --tokenizer book.txt book.txt
try_last tokenize-shard --out new --split train --tokenizer empty.txt book.txt
try_last tokenize-shard --out new --split train --tokenizer absent.model book.txt
make_shards other --vocab 60
try_last tokenize-shard --out data --split val --tokenizer other/tokenizer.model book.txt

# The folder.
try_last tokenize-shard --out book.txt --split train --tokenizer $model book.txt
echo '{}' > data/manifest.json
try_last tokenize-shard --out data --split train --tokenizer $model book.txt

# The command line.
try_last tokenize-shard
try_last tokenize-shard book.txt
try_last tokenize-shard --out new book.txt
try_last tokenize-shard --split train book.txt
try_last tokenize-shard --out new --split train --tokenizer $model
try_last tokenize-shard --out new --split train --tokenizer $model --separator ab book.txt
try_last tokenize-shard --out new --split train --tokenizer $model --separator 0 --key text book.jsonl
try_last tokenize-shard --out new --split train --tokenizer $model --shard-tokens 0 book.txt
try_last tokenize-shard --out new --split train --tokenizer $model --train-tokenizer new.model book.txt
try_last tokenize-shard --tokenizer $model --byte-table pieces.pb book.txt
try_last tokenize-shard --tokenizer $model --byte-table absent/pieces.pb
try ls -A
