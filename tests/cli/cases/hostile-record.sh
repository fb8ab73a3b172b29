# A record that somebody else made: its archive stays where it is unpacked, nothing of it runs before that is said, and nothing in
# its scores becomes an option.
stand_in_clone clone
cat > scripts/setup <<'SCRIPT'
#!/bin/sh
echo "setup runs" >&2
SCRIPT
# What stands for the build makes a program that says what it was told.
cat > ../tools/ninja <<'SCRIPT'
#!/bin/sh
[ "$1" = -C ] && mkdir -p "$2/bin" || exit
printf '#!/bin/sh\nfor word; do case $word in --profile | --byte-table | /*) ;; *) echo "eval-sliding: $word" >&2 ;; esac; done\n' > "$2/bin/eval-sliding"
chmod +x "$2/bin/eval-sliding"
SCRIPT
mkdir -p ../source/pipelines ../record
cp pipelines/tiny.profile ../source/pipelines
touch ../source/{CMakeLists.txt,requirements.txt,byte_table.pb} ../record/model.bin.zst
scores='"stride": 64, "seq_len": 128, "compat": false, "threads": 1'
echo "{$scores, \"precision\": \"float32\"}" > ../record/eval.json
archive() { tar -C ../source --zstd -cPf ../record/source.tar.zst "$@"; }
verified() { scripts/verify-record ../record 2>&1 | sed 's/SHA-256 [0-9a-f]*/SHA-256 D/'; return "${PIPESTATUS[0]}"; }
archive .
try verified
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
  echo "{\"stride\": 64, \"seq_len\": 128, \"compat\": false, \"threads\": \"x\", \"precision\": $precision}" > ../record/eval.json
  try verified
  echo "{$scores, \"precision\": $precision}" > ../record/eval.json
  try verified
done
echo '{"precision": "float32", "stride": "64\n--log=/tmp/fairway-was-told", "seq_len": 128, "compat": false, "threads": 1}' > ../record/eval.json
try verified
