# A public record's folder, of which some claims hold, some are contradicted, and some cannot be told. Nothing of it runs.
mkdir -p record/logs honest
log() {  # log SEED BPB TOTAL
  cat << LOG
train_loader:dataset:fineweb10B_sp1024 train_shards:80
val_loader:shards pattern=./fineweb_val_*.bin tokens:62021632
world_size:8 grad_accum_steps:1
max_wallclock_seconds:600.000
seed:$1
step:0/20000 val_loss:6.9285 val_bpb:4.1034 train_time:0ms step_avg:0.03ms
step:1/20000 train_loss:6.9310 train_time:129ms step_avg:128.52ms
swa:start step:5900
stopping_early: wallclock_cap train_time:599997ms step:6824/20000
swa:applying averaged 19 checkpoints
Code size: 56639 bytes
Serialized model int6+zstd: $(($3 - 56639)) bytes
Total submission size int6+zstd: $3 bytes
final_int8_zlib_roundtrip_exact val_loss:$(awk "BEGIN { printf \"%.6f\", $2 * 0.693147 / 0.410521 }") val_bpb:$2
LOG
}
log 1337 1.135078 17498720 > record/logs/train_seed1337.log
log 42 1.129773 16981056 > record/logs/train_seed42.log
cat > record/submission.json << 'JSON'
{
 "name": "11L + EMA + SWA + Late QAT",
 "track": "10min_16mb",
 "val_bpb": 1.1351,
 "bytes_total": 17498720,
 "bytes_code": 56539
}
JSON
printf '#!/bin/sh\ntouch ran\n' > record/train_gpt.py
chmod +x record/train_gpt.py
log 7 1.200000 15000000 > honest/train.log
printf '{"name": "SWA", "track": "10min_16mb", "val_bpb": 1.2, "seed": 7, "bytes_total": 15000000, "bytes_code": 56639}\n' > honest/submission.json
try audit-record record
try audit-record honest
try audit-record --markdown honest record
try audit-record --json honest
# The tables of docs/audit.md: every contradiction with its lines and why it is one.
AUDIT_RECORD=$bin/audit-record try "$root/docs/audit-table" honest record
try "$root/docs/audit-table"
try audit-record record honest
try audit-record --baseline-bpb 1.3 record/logs
try ls record ran
# What is no record's folder.
try audit-record nowhere
try audit-record record/submission.json
try audit-record --json --markdown honest
try audit-record --baseline-bpb 1 --baseline-loss 2 honest
mkdir empty
try audit-record empty
# Reading has a bound: what is larger is named.
truncate -s 70M honest/huge.log
ln -s /dev/zero honest/endless.log
mkfifo honest/pipe.log
try audit-record honest
