# Where the quantiser's calibration takes place, and what it refuses.
make_shards data
small="--profile small.profile --quantiser gptq --bits-per-weight 12 --calibration-windows 3 --calibration-tokens 16"
need train $small --out train.ckpt
need train $small --seed 2 --out other.ckpt
need ema-finalize train.ckpt weights.ckpt
need ema-finalize --source last train.ckpt last.ckpt

# In training: gptq-lite reads no text.
mv data elsewhere
try_status gptq-lite --training train.ckpt weights.ckpt measured.ckpt
try_status gptq-lite --quantiser rtn --training train.ckpt weights.ckpt measured.ckpt
try_last gptq-lite weights.ckpt x.ckpt
try_last gptq-lite --training other.ckpt weights.ckpt x.ckpt
try_last gptq-lite --training weights.ckpt weights.ckpt x.ckpt
try_last gptq-lite --training train.ckpt last.ckpt x.ckpt
try_last gptq-lite --training train.ckpt --gptq-order descending weights.ckpt x.ckpt

# On what the weights generate: the same every time, and not what training measured.
need gptq-lite --calibration self weights.ckpt generated.ckpt
need gptq-lite --calibration self weights.ckpt again.ckpt
need gptq-lite --calibration self --calibration-seed 2 weights.ckpt seed.ckpt
need gptq-lite --training train.ckpt weights.ckpt measured.ckpt
try sh -c 'for file in generated again seed measured; do ckpt-inspect --json $file.ckpt 2> /dev/null | grep -o "\"identity\":\"[0-9a-f]*" | head -n 1; done | sort | uniq -c | sed "s/\"identity.*//" | sort'

# On training data, which must be there.
try_last gptq-lite --calibration shards weights.ckpt x.ckpt
mv elsewhere data
try_status gptq-lite --profile small.profile --calibration shards weights.ckpt shards.ckpt

# Training without it leaves none; a clock that it would fill is refused before the first step.
need train $small --calibration self --out without.ckpt
need ema-finalize without.ckpt without-weights.ckpt
try_last gptq-lite --calibration train --training without.ckpt without-weights.ckpt x.ckpt
try_status train $small --max-wallclock-seconds 0.001 --out x.ckpt
need train $small --max-wallclock-seconds 60 --log clock.log --out clock.ckpt
try sh -c 'grep -c "are kept for calibration at the end" clock.log; grep -c "windows of 16 tokens, of the weights of ema, in" clock.log'

# gptq_sdclip calibrates on micro-batches of training; tables that no layer multiplies by are rounded as they stand.
try_status gptq-lite --profile small.profile --quantiser gptq_sdclip weights.ckpt sdclip.ckpt
try_last gptq-lite --profile small.profile --quantiser gptq_sdclip --grad-micro-steps 8 weights.ckpt x.ckpt
try_last gptq-lite --quantiser gptq_sdclip weights.ckpt x.ckpt
