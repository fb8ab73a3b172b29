# Every way in which a file can be wrong (malformed_files.cc), and what becomes of it: one line, status 4, nothing written.
need "$bin/../tests/malformed-files" files
make_shards data
printf 'In the beginning\n' > book.txt
# No size that a file states is believed before the file was measured: programs have this many KiB of addresses and no more.
# (AddressSanitizer takes terabytes of them.)
at_most() { [ -n "${ASAN_OPTIONS-}" ] || ulimit -v "$1"; }

kinds=0
each() { kinds=$((kinds + 1)); }
at_most 4000000  # LibTorch alone takes more than half
for file in files/models/*; do each; try_last eval-sliding --data-path data "$file"; done
for folder in files/shards/*; do
  each
  cp data/fineweb_val_000000.bin data/tokenizer.model "$folder"
  try_last train --profile small.profile --data-path "$folder" --out out.ckpt
done
for file in files/table/*; do each; try_last train --profile small.profile --byte-table "$file" --out out.ckpt; done

at_most 500000
for file in files/checkpoint/*; do each; try_last ckpt-inspect --verify "$file"; done
for file in files/artifact/*; do each; try_last ckpt-inspect "$file"; done
for file in files/safetensors/*; do each; try_last ckpt-inspect --import "$file" out.ckpt; done
for file in files/training/*; do each; try_last ema-finalize --source swa "$file" out.ckpt; done
for file in files/weights/*; do each; try_last gptq-lite "$file" out.ckpt; done
for file in files/quantised/*; do each; try_last ckpt-inspect "$file" --export out.safetensors; done
for file in files/tokenizer/*; do each; try_last tokenize-shard --out shards --split train --tokenizer "$file" book.txt; done
for file in files/profile/*; do each; try_last ema-finalize --profile "$file" data out.ckpt; done
for file in files/documents/*; do each; try_last tokenize-shard --out shards --split train --tokenizer data/tokenizer.model --key text "$file"; done
for folder in files/manifest/*; do each; try_last tokenize-shard --out "$folder" --split train --tokenizer data/tokenizer.model book.txt; done
in_a_run() {  # in_a_run FILE NAME: make-submission of a run that is whole but for this file
  each
  cp -r files/run "$1-run"
  cp "$1" "$1-run/$2"
  try_last make-submission --out submission "$1-run"
}
for file in files/scores/*; do in_a_run "$file" eval.json; done
for file in files/log/*; do in_a_run "$file" train.log; done
need make-submission --check files/record
for file in files/submission/*; do
  each
  cp -r files/record "$file-record"
  cp "$file" "$file-record/submission.json"
  try_last make-submission --check "$file-record"
done
# No data need lie where a processor would like it.
try_last ckpt-inspect files/unaligned
try printf '%d kinds of malformed file\n' $kinds
try ls -A
