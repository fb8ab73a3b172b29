# verify-record on a record that was scored with adapters that learn from each document: its score is proved while its artifact is scored
# again; another score, another artifact and another proof than the record's own are refused. Only the build from the source is a stand-in:
# it puts the programs of this test where the record's would be.
make_shards data
stand_in_clone clone
for program in tokenize-shard train ema-finalize gptq-lite pack-zstd eval-sliding make-submission ckpt-inspect; do
  ln -sf "$bin/$program" "$bin/$program.digest" build/bin
done
cat > ../tools/ninja << SCRIPT
#!/bin/sh
[ "\$1" = -C ] && [ "\$2" != build ] && mkdir -p "\$2/bin" && ln -s "$bin/eval-sliding" "\$2/bin/eval-sliding"
exit 0
SCRIPT
sed -E 's#^((data|tokenizer)_path = )data#\1../../data#; /^eval_stride/d' ../small.profile > pipelines/small.profile
cat >> pipelines/small.profile << 'PROFILE'
method = ttt
ttt_lora_rank = 2
ttt_chunk_size = 16
ttt_eval_seq_len = 32
ttt_lora_lr = 0.01
eval_stride = 0
PROFILE
need make submission PROFILE=small
try grep author runs/small/seed-1337/submission.log
need make prove PROFILE=small
need make submission PROFILE=small AUTHOR=A GITHUB_ID=a
try grep author runs/small/seed-1337/submission.log
cp -rL runs/small/seed-1337/submission ../record
try sh -c "grep -E '\"(method|ttt_lora_rank)\"' ../record/eval.json; grep '\"proved\"' ../record/prove.json; grep '\"name\"' ../record/submission.json"
# Of what the two programs say: what was proved, what differs, and how it ends; the figures of a score depend on the processor.
verified() {
  DATA_PATH=../data scripts/verify-record ../record > ../out 2>&1
  local status=$?
  grep -E '^(prove|verify-record|make-submission|eval-sliding): |^expect ' ../out |
    sed -E 's/[0-9a-f]{64}/D/g; s/at most [0-9.e-]+/at most …/; s/(val_[a-z]+):[0-9.]+ got:[0-9.]+ difference:0.00e\+00/\1: the same/;
      s/(val_[a-z]+):[0-9.]+ got:[0-9.]+ difference:[0-9.e+-]+/\1: another/; s/differs by [0-9.e+-]+/differs/g; s/[0-9]+\.[0-9]{4,}/N/g'
  return $status
}
try verified
damaged() {  # damaged COMMAND…: the same of the record with this done in its folder
  rm -rf ../whole && cp -r ../record ../whole
  (cd ../record && "$@")
  try verified
  rm -r ../record && mv ../whole ../record
}
lower() {  # lower FILE…: the scores of the record in these files are a little better
  python3 - "$@" << 'PYTHON'
import re, sys
for name in sys.argv[1:]:
    text = open(name).read()
    text = re.sub(r'("val_(?:loss|bpb)": )([0-9.]+)', lambda match: match[1] + f"{float(match[2]) - 0.125:.12f}", text)
    open(name, "w").write(text)
PYTHON
}
# A better score in what states it, in what the evaluation wrote, and in all that has it: then only the artifact itself tells.
damaged lower submission.json
damaged lower eval.json
damaged lower eval.json prove.json submission.json
# Adapters that were not those of the score.
damaged sed -i 's/"ttt_lora_lr": "0.01"/"ttt_lora_lr": "0.02"/' eval.json
# A byte of the artifact, and another artifact that works as well.
damaged python3 -c 'data = bytearray(open("model.bin.zst", "rb").read()); data[len(data) // 2] ^= 1; open("model.bin.zst", "wb").write(data)'
need make submission PROFILE=small SEED=7
damaged cp ../clone/runs/small/seed-7/model.bin.zst .
# A proof that failed.
damaged sed -i 's/"proved": true/"proved": false/' prove.json
