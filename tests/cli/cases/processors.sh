# One artifact from the same weights and what training measured of them, whatever the processor: this one, one with AVX2 and one with
# neither that nor AVX-512, both emulated.
command -v qemu-x86_64 > /dev/null || skip "no qemu-x86_64 here (Debian's package qemu-user)"
[ "$(uname -m)" = x86_64 ] || skip "this machine is no x86-64"
make_shards data
need train --profile small.profile --model-dim 64 --quantiser gptq --bits-per-weight 5 --calibration-windows 3 --calibration-tokens 16 --out train.ckpt
need ema-finalize train.ckpt weights.ckpt
artifacts() {  # artifacts NAME [COMMAND…]: by programs that COMMAND runs
  local name=$1
  shift
  need "$@" "$(command -v gptq-lite)" --training train.ckpt weights.ckpt "$name.ckpt"
  need "$@" "$(command -v pack-zstd)" "$name.ckpt" "$name.zst"
  need "$@" "$(command -v pack-zstd)" --coder zstd "$name.ckpt" "$name.by-zstd"
}
artifacts here
artifacts avx2 qemu-x86_64 -cpu Haswell
artifacts neither qemu-x86_64 -cpu Westmere
for name in avx2 neither; do
  try cmp here.zst $name.zst
  try cmp here.by-zstd $name.by-zstd
done
# Both coders took part.
try cmp -s here.zst here.by-zstd
