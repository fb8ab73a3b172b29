# compare-runs takes public logs of any layout; make-submission --check says first that a public record is not its own.
mkdir record
for seed in 1 2; do
  cat > record/train_seed$seed.log << LOG
Hyperparameters:
  matrix_lr: 0.02$seed
  seed: $seed
train_shards: 80
val_tokens: 40540160
0/20000 val_loss: 9.0090 val_bpb: 3.4877
1/20000 train_loss: 9.0111 train_time: 0.0m tok/s: 8242436
500/20000 train_loss: 3.3$seed train_time: 0.8m tok/s: 8242436
stopping_early: wallclock_cap train_time: 588000ms step: 4900/20000
quantized_sliding_window val_loss:2.8$seed val_bpb:1.08$seed eval_time:84115ms
LOG
done
cat > earlier.log << 'LOG'
train_batch_tokens:786432 train_seq_len:2048 iterations:20000
tie_embeddings:True embed_lr:0.03 matrix_lr:0.02 scalar_lr:0.02
seed:42
step:0/20000 val_loss:6.9285 val_bpb:4.1034 train_time:0ms step_avg:0.03ms
step:1/20000 train_loss:6.9310 train_time:129ms step_avg:128.52ms
step:200/20000 train_loss:2.9310 train_time:16800ms step_avg:84.00ms
stopping_early: wallclock_cap train_time:599997ms step:6824/20000
final_int8_zlib_roundtrip val_loss:1.9076 val_bpb:1.1298 eval_time:186103ms
LOG
echo '{"author": "A", "date": "2026-03-18T14:56:29Z", "val_loss": 2.81, "val_bpb": 1.081}' > record/submission.json
try compare-runs earlier.log record
try compare-runs record/train_seed1.log record/train_seed2.log
try compare-runs earlier.log record/submission.json
try compare-runs earlier.log nowhere
need sh -c 'compare-runs --out pictures earlier.log record > /dev/null 2>&1'
try sh -c 'grep -o "[AB], [a-z0-9_.]*, seed [0-9]*, [a-z]*" pictures/loss-curve.svg | sort -u'
try make-submission --check record
