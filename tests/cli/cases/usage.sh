# What every program says to a command line that it cannot take.
for program in tokenize-shard train ema-finalize gptq-lite pack-zstd eval-sliding make-submission compare-runs audit-record ckpt-inspect; do
  try $program --no-such-option
  try $program
  try $program --version
  try $program a b c d e
done
try train --out
try pack-zstd --budget -1 quantised.ckpt model.bin.zst
try pack-zstd --code-bytes many quantised.ckpt model.bin.zst
try pack-zstd --level 23 quantised.ckpt model.bin.zst
try pack-zstd missing.ckpt
try tokenize-shard --out data --split test book.txt
try make-submission --out
try make-submission --check --out submission record
try make-submission --check --baseline-bpb 2 record
