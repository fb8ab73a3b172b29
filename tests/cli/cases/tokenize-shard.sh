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

# The text.
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
