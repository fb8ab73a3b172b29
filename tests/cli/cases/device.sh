# Where a run computes. What a build without CUDA, or a machine without a GPU, says to --device cuda begins alike.
[[ $(train --version) != *'GPUs here: '[1-9]* ]] || skip "there is a GPU"
make_shards data
try sh -c 'train --profile small.profile --device cuda --out train.ckpt 2>&1 > /dev/null | tail -n 1 | cut -c 1-19'
try sh -c 'train --profile small.profile --device cuda --out train.ckpt 2> /dev/null; [ $? = $(train --version | grep -q "CPU only" && echo 2 || echo 3) ]'
try train --profile small.profile --device gpu --out train.ckpt
# A residual stream in bfloat16 is held on a GPU alone, and not beside float32 products.
for device in auto cpu; do try train --profile small.profile --device $device --precision bfloat16 --residual-precision bfloat16 --out train.ckpt; done
try train --profile small.profile --residual-precision bfloat16 --out train.ckpt
try ls -A
