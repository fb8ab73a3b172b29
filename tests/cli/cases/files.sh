# Files that are not there, not files, or not to be written.
: > empty
mkdir folder
make_shards data
for input in missing empty folder; do
  try ema-finalize $input out.ckpt
  try gptq-lite $input out.ckpt
  try pack-zstd $input out.zst
  try eval-sliding $input --out eval.json
  try ckpt-inspect $input
  try train --profile small.profile --out train.ckpt --resume $input
  try tokenize-shard --out shards --split train --tokenizer data/tokenizer.model $input
  try tokenize-shard --tokenizer $input --byte-table byte_table.pb
done
try make-submission --out submission missing
try make-submission --out submission folder
try train --profile small.profile --data-path missing --out train.ckpt
try train --profile small.profile --data-path folder --out train.ckpt
try sh -c 'ema-finalize - out.ckpt < empty'
try_last train --profile small.profile --tokenizer-path missing --out train.ckpt
try_last train --profile small.profile --out missing/train.ckpt
try_last train --profile small.profile --out folder
try_last train --profile small.profile --out -
try train --profile small.profile --out train.ckpt --log folder
need train --profile small.profile --out train.ckpt
try_last ema-finalize train.ckpt missing/weights.ckpt
try_last ema-finalize train.ckpt folder
need ema-finalize train.ckpt weights.ckpt
try_last gptq-lite weights.ckpt missing/quantised.ckpt
need gptq-lite weights.ckpt quantised.ckpt
try_last pack-zstd quantised.ckpt missing/model.bin.zst
try_last pack-zstd quantised.ckpt folder
try ls -A
