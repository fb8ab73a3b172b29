# The table of records/: one row per record, the best score first, whatever their submission.json holds; and what is no record.
table() { python3 "$root/scripts/records-readme" "$@"; }
rows() { table "$@" | sed '1,/^|---/d'; return "${PIPESTATUS[0]}"; }
made() {  # made NAME BPB [FIELDS]: a record of seed 1
  mkdir -p "records/$1"
  echo "{\"name\": \"11L + EMA\", \"val_bpb\": $2, \"seeds\": [1], \"bytes_total\": 1065592, \"track\": \"non-record-16mb\"${3-}}" > "records/$1/submission.json"
  echo '{"text_digest": "0123456789abcdef0123", "val_digest": "fedcba9876543210fedc"}' > "records/$1/eval.json"
}
try table
mkdir records
try rows records
made second 1.7
made best 1.25
# Shards whose text is not known; several seeds; text that Markdown would read as markup.
made unknown-text 1.5
echo '{"text_digest": null, "val_digest": "fedcba9876543210fedc"}' > records/unknown-text/eval.json
made seeds 1.6
mkdir records/seeds/seed-42 && mv records/seeds/eval.json records/seeds/seed-42
sed -i 's/"seeds": \[1\]/"seeds": [42, 7], "val_bpb_std": 0.0125/' records/seeds/submission.json
made markup 2
sed -i 's/11L + EMA/a | b](http:\/\/x) <b>*\\u001b[2J\\nc/' records/markup/submission.json
# Neither is a record: a file, and a folder that make publish has not finished.
touch records/README.md
mkdir records/.unfinished.tmp
try table records
# What cannot be read ends it with status 4 and the file's name.
broken() {  # broken WORD… : with this in submission.json of one record
  cp records/best/submission.json whole
  printf '%s' "$1" > records/best/submission.json
  try rows records
  mv whole records/best/submission.json
}
broken '{'
broken '[1]'
broken '{"name": "x", "val_bpb": 1, "seeds": [1], "track": "t"}'
broken '{"name": "x", "val_bpb": "low", "seeds": [1], "bytes_total": 1, "track": "t"}'
broken '{"name": "x", "val_bpb": 1, "seeds": [], "bytes_total": 1, "track": "t"}'
rm records/best/eval.json
try rows records
rm -r records/best
mkdir records/other
try rows records
