# A record by another person: its archive stays inside the folder where it is unpacked, nothing of it runs before that is announced, nothing in
# its scores becomes an option, and what it says of itself is compared with its files.
stand_in_clone clone
cat > scripts/setup <<'SCRIPT'
#!/bin/sh
echo "setup runs" >&2
SCRIPT
# In place of a build: a program that prints its arguments and environment.
cat > ../tools/ninja <<'SCRIPT'
#!/bin/sh
[ "$1" = -C ] && mkdir -p "$2/bin" || exit
cat > "$2/bin/eval-sliding" << 'PROGRAM'
#!/bin/sh
env | grep -E '^(EVAL|TRAIN|PUBLISHED_QUIRKS|PRECISION|METHOD|THREADS|TTT)' | sort | sed 's/^/eval-sliding: /' >&2
for word; do case $word in --profile | --byte-table | /*) ;; *) echo "eval-sliding: $word" >&2 ;; esac; done
PROGRAM
chmod +x "$2/bin/eval-sliding"
SCRIPT
printf '#!/bin/sh\n' > build/bin/make-submission  # of what makes no whole record
mkdir -p ../source/pipelines ../record
cp pipelines/tiny.profile ../source/pipelines
touch ../source/{CMakeLists.txt,requirements.txt,byte_table.pb} ../record/model.bin.zst
scores='"method": "sliding", "stride": 64, "seq_len": 128, "published_quirks": false, "threads": 1'
echo "{$scores, \"precision\": \"float32\"}" > ../record/eval.json
archive() { tar -C ../source --zstd -cPf ../record/source.tar.zst "$@"; }
verified() { scripts/verify-record ../record 2>&1 | sed 's/SHA-256 [0-9a-f]*/SHA-256 D/'; return "${PIPESTATUS[0]}"; }
archive .
try verified
# Another validation text than the one that was scored is refused before anything is built.
mkdir ../other
echo '{"splits": {"val": {"identity": "b2"}}}' > ../other/manifest.json
echo "{$scores, \"precision\": \"float32\", \"val_digest\": \"a1\"}" > ../record/eval.json
DATA_PATH=../other try verified
echo "{$scores, \"precision\": \"float32\"}" > ../record/eval.json
# Ways out of the folder.
with() {  # with COMMAND…: an archive that holds besides what this makes in its folder
  (cd ../source && "$@")
  archive .
  try verified
  rm -rf ../source/{link,pipe,build,.venv,pipelines/other.profile}
}
with ln -s /etc link
with ln -s .. build
with ln CMakeLists.txt link
with mkfifo pipe
with mkdir build
with mkdir .venv
with touch pipelines/other.profile
archive . --transform 's,byte_table.pb,../../climbs-out,'
try verified
archive . "$PWD/Makefile" --transform 's,^.*/Makefile,/tmp/fairway-is-absolute,'
try verified
try ls ../climbs-out /tmp/fairway-is-absolute
echo "not an archive" > ../record/source.tar.zst
try verified
# Scores.
archive .
for precision in '"float32\n--out=/tmp/fairway-was-told"' '"float16"' '["float32"]' '1'; do
  echo "{\"method\": \"sliding\", \"stride\": 64, \"seq_len\": 128, \"published_quirks\": false, \"threads\": \"x\", \"precision\": $precision}" > ../record/eval.json
  try verified
  echo "{$scores, \"precision\": $precision}" > ../record/eval.json
  try verified
done
echo '{"method": "sliding", "precision": "float32", "stride": "64\n--log=/tmp/fairway-was-told", "seq_len": 128, "published_quirks": false, "threads": 1}' > ../record/eval.json
try verified
for method in '"kv_cache"' '"ttt\n--out=/tmp/fairway-was-told"' '["kv_cache"]'; do
  echo "{${scores/\"sliding\"/$method}, \"precision\": \"float32\"}" > ../record/eval.json
  try verified
done
for ttt in '"chunk_tokens": 512, "steps": 1, "lr": 0.002, "momentum": 0.9' '"chunk_tokens": 512, "steps": "1\n--out=x", "lr": 0.002, "momentum": 0.9'; do
  echo "{${scores/sliding/ttt}, \"ttt\": {$ttt}, \"precision\": \"float32\"}" > ../record/eval.json
  try verified
done
# What it says of itself, of a record that is whole.
need "$bin/../tests/malformed-files" ../files
ln -sf "$bin/make-submission" build/bin/make-submission
archive .
cp ../record/source.tar.zst ../files/run
sed -i 's/"threads": 2/"threads": 1/' ../files/run/eval.json
rm -r ../record
need make-submission --out ../record --date 2026-03-31 ../files/run
try verified
says() {  # says FROM TO: the same with this in its submission.json
  cp ../record/submission.json ../whole.json
  sed -i "s/$1/$2/" ../record/submission.json
  try verified
  mv ../whole.json ../record/submission.json
}
says '"val_bpb": 1' '"val_bpb": 0'
says '"steps": 60' '"steps": 61'
says '"track"' '"claim"'
says 'non-record-16mb' '\\u001b[2J'
says '{' '{{'
cp ../files/run/eval.json ../record/eval.json
sed -i 's/"val_loss": 2.0/"val_loss": 1.0/' ../record/eval.json
try verified
rm ../record/submission.json
try verified
rm build/bin/make-submission
try verified
