# Every file that a product's identity covers: overwritten in place by another of the same size, and with the times of the first, it is
# refused, or what is made of it names the bytes that were read.
make_shards data --val 300
cp -r data kept
small="--profile small.profile"
chain() {
  need train $small --log train.log --out train.ckpt
  need ema-finalize train.ckpt weights.ckpt
  need gptq-lite weights.ckpt quantised.ckpt
  need pack-zstd quantised.ckpt model.bin.zst
  need eval-sliding $small --out eval.json model.bin.zst
}
chain
# over FILE PLACE: changes the byte there, or, for 'order', the order of a shard's tokens, or, for 'all', bytes all over the middle.
over() {
  cp -p "$1" saved
  python3 - "$1" "$2" << 'PY'
import sys
path, place = sys.argv[1:]
data = bytearray(open(path, "rb").read())
if place == "order":
    tokens = data[1026:]
    data[1026:] = b"".join(bytes(tokens[i:i + 2]) for i in range(len(tokens) - 2, -1, -2))
elif place == "all":
    for at in range(len(data) // 10, len(data) * 9 // 10, 97):
        data[at] ^= 1
else:
    data[int(place)] ^= 1
with open(path, "r+b") as file:
    file.write(data)
PY
  touch -r saved "$1"
}
back() { cat saved > "$1"; touch -r saved "$1"; }
# said COMMAND…: whether it was refused, or what became of it.
said() { "$@" > said.out 2> said.err && echo made || echo "refused with $?"; }
input() { ckpt-inspect --json "$1" 2> /dev/null | python3 -c 'import json,sys; print([i["identity"] for i in json.load(sys.stdin)["lineage"]["inputs"]][0])'; }
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$1" "$2"; }
differs() { [ "$1" != "$2" ] && echo "of another identity" || echo "OF THE SAME IDENTITY"; }

files() {
  local was
  was=$(input train.ckpt)
  over data/fineweb_train_000000.bin order
  echo "training shards: $(said train $small --out other.ckpt), $(differs "$(input other.ckpt)" "$was")"
  back data/fineweb_train_000000.bin
  was=$(field eval.json val_digest)
  over data/fineweb_val_000000.bin order
  echo "validation shards: $(said eval-sliding $small --out other.json model.bin.zst), $(differs "$(field other.json val_digest)" "$was")"
  back data/fineweb_val_000000.bin
  was=$(field eval.json byte_table_digest)
  sed -i s/e/E/ data/tokenizer.model
  echo "tokenizer: $(said eval-sliding $small --out other.json model.bin.zst), $(differs "$(field other.json byte_table_digest)" "$was")"
  rm -r data && cp -r kept data
  cp "$here/../../tests/cli/small.profile" .
  python3 - << 'PY'
import struct
# Bytes of text of each token of the validation shard: a third of them 2, the others 1.
open("data/fineweb_val_bytes_000000.bin", "wb").write(struct.pack("<256i", 20240520, 1, 300, *[0] * 253) + struct.pack("<300H", 0, *[1 + (i % 3 == 0) for i in range(299)]))
PY
  echo "a byte sidecar: $(said eval-sliding $small --out eval.json model.bin.zst)"
  was=$(field eval.json byte_sidecar_digest)
  over data/fineweb_val_bytes_000000.bin order
  echo "the sidecar: $(said eval-sliding $small --out other.json model.bin.zst), $(differs "$(field other.json byte_sidecar_digest)" "$was")"
  rm data/fineweb_val_bytes_000000.bin
  for file in train.ckpt weights.ckpt quantised.ckpt; do
    over $file all
    case $file in
      train.ckpt) echo "$file: $(said ema-finalize train.ckpt other.ckpt)" ;;
      weights.ckpt) echo "$file: $(said gptq-lite weights.ckpt other.ckpt)" ;;
      quantised.ckpt) echo "$file: $(said pack-zstd quantised.ckpt other.zst)" ;;
    esac
    back $file
  done
  over model.bin.zst 100
  echo "model.bin.zst: $(said eval-sliding $small model.bin.zst)"
  back model.bin.zst
}
try files
# A submission is made of files that belong together.
tar -c -C "$root" pipelines/tiny.profile | zstd -q > source.tar.zst
mkdir run && cp train.log train.ckpt weights.ckpt quantised.ckpt model.bin.zst model.bin.zst.lineage eval.json source.tar.zst run
need make-submission --date 2026-03-31 --out submission run
need train $small --seed 2 --log other.log --out other-train.ckpt
need ema-finalize other-train.ckpt other-weights.ckpt
need gptq-lite other-weights.ckpt other-quantised.ckpt
need pack-zstd other-quantised.ckpt other.bin.zst
need eval-sliding $small --out other-eval.json other.bin.zst
other() {
  local file
  for file in train.ckpt weights.ckpt quantised.ckpt model.bin.zst model.bin.zst.lineage eval.json train.log; do
    case $file in
      train.log) cp other.log run/train.log ;;
      model.bin.zst.lineage) cp other.bin.zst.lineage run/$file ;;
      model.bin.zst) cp other.bin.zst run/$file ;;
      eval.json) cp other-eval.json run/$file ;;
      *) cp other-$file run/$file ;;
    esac
    touch -r $file run/$file
    echo "$file: $(said make-submission --date 2026-03-31 --out submission run)"
    cp $file run/$file
  done
}
try other
