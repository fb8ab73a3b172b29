# --help ends with the exit statuses and an example.
for program in tokenize-shard train ema-finalize gptq-lite pack-zstd eval-sliding make-submission compare-runs audit-record ckpt-inspect; do
  try sh -c "$program --help | tail -n 5"
done
try ema-finalize --help
