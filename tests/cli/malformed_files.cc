// malformed-files DIR: one file for every way in which a file can be wrong, DIR/KIND/NAME; the case malformed.sh says
// what becomes of each. A file is as right as it can be but for its one defect: hashes, where they are not the defect,
// agree.
#include <zstd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>

#include "common/tokens/byte_table.h"
#include "common/tokens/manifest.h"
#include "common/submission/record.h"
#include "common/tokens/shard_format.h"
#include "tests/common/checkpoint/raw_file.h"
#include "tests/common/submission/finished_run.h"
#include "tests/common/tokens/raw_model.h"

using namespace fairway;

namespace {

std::string root;

void Put(const std::string& name, std::string_view bytes) {
  const std::string path = root + "/" + name;
  MakeDirectories(DirectoryOf(path));
  WriteFile(path, bytes);
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) throw std::logic_error("there is no " + from + " to replace");
  return text.replace(at, from.size(), to);
}

// --- checkpoints, as ckpt-inspect reads them

void Checkpoints() {
  const std::string good = RawFile().Bytes(), magic = "\tfairway\n";
  const auto put = [](const std::string& name, const std::string& bytes) { Put("checkpoint/" + name, bytes); };
  const auto with = [&](const std::string& name, auto change) {
    RawFile file;
    change(file);
    put(name, file.Bytes());
  };
  put("empty", "");
  put("text", "In the beginning");
  put("cut-after-magic", magic);
  put("cut-in-header", good.substr(0, 20));
  put("cut-in-data", good.substr(0, 90));
  put("cut-by-one", good.substr(0, good.size() - 1));
  put("one-byte-more", good + '\0');
  put("twice", good + good);
  put("no-header", magic + Field(3, "x"));
  put("header-beyond-file", magic + "\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f");
  put("header-garbage", magic + Field(2, "\xff"));
  put("header-flipped", Replaced(good, "num_layers", "Num_layers"));
  put("footer-flipped",
      good.substr(0, good.size() - 30) + char(good[good.size() - 30] ^ 1) + good.substr(good.size() - 29));
  put("footer-beyond-file", good.substr(0, good.size() - 8) + Fixed(1ull << 40));
  put("data-flipped", Replaced(good, "xxxxxxxx", "xxyxxxxx"));
  with("identity", [](RawFile&) {});
  with("version", [](RawFile& file) { file.header = Field(1, 7) + Field(2, 2); });
  with("kind", [](RawFile& file) { file.header = Field(1, 1) + Field(2, 9); });
  with("setting-control", [](RawFile& file) { file.header += Field(3, Field(1, "source") + Field(2, "a\x1b[2J")); });
  with("setting-twice", [](RawFile& file) { file.header += Field(3, Field(1, "num_layers") + Field(2, "3")); });
  with("footer-garbage", [](RawFile& file) { file.more_footer = Field(3, "\xff"); });
  with("counter-nan",
       [](RawFile& file) { file.more_footer = Field(2, Field(1, "steps") + FixedField(2, 0x7ff8000000000000)); });
  with("counter-infinite",
       [](RawFile& file) { file.more_footer = Field(2, Field(1, "steps") + FixedField(2, 0x7ff0000000000000)); });
  with("counter-twice",
       [](RawFile& file) { file.more_footer = Field(2, Field(1, "steps")) + Field(2, Field(1, "steps")); });
  with("lineage-control", [](RawFile& file) { file.more_footer = Field(3, Field(1, "train\n")); });
  with("lineage-endless", [](RawFile& file) {
    std::string lineage;
    for (int depth = 0; depth < 200; ++depth) lineage = Field(5, Field(3, lineage));
    file.more_footer = Field(3, lineage);
  });
  with("tensor-twice", [](RawFile& file) { file.tensors[1] = Floats("a", 3); });
  with("before-footer", [](RawFile& file) { file.after = Field(14, std::string(3, '\0')); });
  with("index-short", [](RawFile& file) { file.skip_in_index = 1; });
  with("index-skips", [](RawFile& file) { file.skip_in_index = 0; });
  with("index-name", [](RawFile& file) { file.tensors[0].name = "c"; });
  with("index-beyond", [](RawFile& file) { file.offset_error = 1000000; });
  with("index-before", [](RawFile& file) { file.offset_error = -1000000; });
  const auto tensor = [&](const std::string& name, int dtype, const std::string& shape, const std::string& more = "") {
    with("tensor-" + name, [&](RawFile& file) {
      file.tensors = {{"a", Field(1, "a") + Field(2, dtype) + Field(3, shape) + more, "1234"}};
    });
  };
  tensor("dtype", 7, Varint(1));
  tensor("shape", 1, Varint(3) + Varint(2));
  tensor("shape-overflow", 4, Varint(1ull << 32) + Varint(1ull << 32));
  tensor("shape-empty-overflow", 4, Varint(0) + Varint(1ull << 62) + Varint(4));
  tensor("shape-negative", 4, Varint(~0ull));
  tensor("shape-gigantic", 1, Varint(1ull << 40));
  tensor("shape-nine", 1, std::string(9, '\1'));
  tensor("shape-million", 1, std::string(1000000, '\1'));
  tensor("grid-control", 1, Varint(1), Field(4, Field(1, "int\t6")));
  with("name-blank", [](RawFile& file) { file.tensors = {Floats("a b", 1)}; });
  with("name-long", [](RawFile& file) { file.tensors = {Floats(std::string(256, 'a'), 1)}; });
  with("name-none", [](RawFile& file) { file.tensors = {Floats("", 1)}; });

  const auto packed = [&](const std::string& name, auto change) {
    RawPacked file;
    change(file);
    put("packed-" + name, file.Bytes());
  };
  const std::string whole = RawPacked().Bytes();
  put("packed-cut", whole.substr(0, whole.size() - 1));
  put("packed-flipped", Replaced(whole, "w.scale", "W.scale"));
  packed("garbage", [](RawPacked& file) { file.after = "\x7a\x7f"; });
  packed("data-short", [](RawPacked& file) { file.data.pop_back(); });
  packed("data-long", [](RawPacked& file) { file.data += 'x'; });
  packed("name-twice", [](RawPacked& file) { file.scales = Field(1, "w.q") + Field(2, 2) + Field(3, Varint(2)); });
  packed("dtype", [](RawPacked& file) { file.scales = Field(1, "w.scale") + Field(2, 7) + Field(3, Varint(2)); });
  packed("shape-gigantic", [](RawPacked& file) { file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(1 << 20) + Varint(1 << 20)); });
  packed("shape-overflow", [](RawPacked& file) { file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(1ull << 32) + Varint(1ull << 32)); });
  packed("order", [](RawPacked& file) { file.order = 3; });
  packed("order-no-scales", [](RawPacked& file) { file.quantisation += Field(4, "absent"); });
  packed("order-other-scales", [](RawPacked& file) { file.order = 2, file.quantisation += Field(5, "w.scale"); });
  packed("stream-none", [](RawPacked& file) { file.header = Field(1, 6) + Field(2, 3), file.order = 3; });
  packed("stream-long", [](RawPacked& file) { file.header = Field(1, 6) + Field(2, 3), file.order = 3, file.stream = Field(6, 6); });
  packed("stream-bomb", [](RawPacked& file) {
    file.header = Field(1, 6) + Field(2, 3), file.order = 3, file.stream = Field(6, 6);
    file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(1 << 20) + Varint(1 << 20));
  });
  packed("setting-twice", [](RawPacked& file) { file.header += Field(3, Field(1, "num_layers") + Field(2, "3")); });
}

// --- checkpoints that are whole and cannot be what the next stage needs

using Change = std::function<void(CheckpointWriter&)>;
constexpr uint16_t kOne = 0x3c00, kInfinity = 0x7c00;

void Stage(const std::string& name, Kind kind, const SettingValues& settings, const Change& add,
           const Counters& counters = {}, const Lineage& lineage = {}) {
  MakeDirectories(DirectoryOf(root + "/" + name));
  CheckpointWriter writer(root + "/" + name, kind, settings);
  add(writer);
  writer.Finish(counters, lineage);
}

Counters Counted(const std::string& name, double value) {
  Counters counters;
  counters.Set(name, value);
  return counters;
}

void Stages() {
  const auto matrix = [](const std::string& name, float value = 1) {
    return [=](CheckpointWriter& out) {
      out.Add({name, DType::kFloat32, {2, 3}, {}}, std::vector<float>{1, 2, 3, value, 5, 6});
    };
  };
  const auto training = [&](const std::string& name, const Counters& counters, const Change& add = {}) {
    Stage(
        "training/" + name, Kind::kTraining, {{"num_layers", "2"}},
        [&](CheckpointWriter& out) {
          matrix("w")(out);
          if (add) add(out);
        },
        counters);
  };
  training("swa-none", {});
  training("swa-negative", Counted(counter::kSwaSnapshots, -1));
  training("swa-half", Counted(counter::kSwaSnapshots, 0.5));
  training("swa-beyond-counting", Counted(counter::kSwaSnapshots, 1e300));
  training("swa-missing", Counted(counter::kSwaSnapshots, 3));
  training("swa-shape", Counted(counter::kSwaSnapshots, 3), [](CheckpointWriter& out) {
    out.Add({"swa_sum/w", DType::kFloat32, {3, 2}, {}}, std::vector<float>(6));
  });
  training("swa-integers", Counted(counter::kSwaSnapshots, 3), [](CheckpointWriter& out) {
    out.Add({"swa_sum/w", DType::kInt32, {2, 3}, {}}, std::vector<int32_t>(6));
  });

  const auto weights = [&](const std::string& name, const Change& add, const SettingValues& settings = {},
                           const Lineage& lineage = {}) {
    SettingValues all = settings;
    all.emplace_back("keep_max_numel", "4");
    Stage("weights/" + name, Kind::kWeights, all, add, {}, lineage);
  };
  weights("not-a-number", matrix("w", NAN));
  weights("infinite", matrix("w", INFINITY));
  weights("too-large", matrix("w", 1e30f));
  weights("too-large-kept", [](CheckpointWriter& out) {
    out.Add({"w", DType::kFloat32, {2}, {}}, std::vector<float>{1, 1e6f});
  });
  weights("name-long", matrix(std::string(255, 'w')));
  weights("name-taken", [&](CheckpointWriter& out) {
    matrix("w")(out);
    matrix("w.q")(out);
    out.Add({"w.scale", DType::kFloat32, {1}, {}}, std::vector<float>{1});
  });
  weights("setting-unknown", matrix("w"), {{"num_experts", "8"}});
  weights("setting-range", matrix("w"), {{"num_layers", "0"}});
  weights("setting-long", matrix("w"), {{std::string(100000, 'n'), "8"}});
  weights("setting-of-run", matrix("w"), {{"threads", "4096"}});
  Lineage deep{"t", "", "", {}, {}};
  for (int depth = 1; depth < CheckpointWriter::kMaxLineageDepth; ++depth)
    deep = Lineage{"t", "", "", {}, {{"parent", "00", deep}}};
  weights("lineage-deep", matrix("w"), {}, deep);

  const auto quantised = [](const std::string& name, const TensorInfo& codes, int8_t code,
                            const std::vector<uint16_t>& scales, const std::string& more = "") {
    Stage("quantised/" + name, Kind::kQuantised, {}, [&](CheckpointWriter& out) {
      std::string data(codes.bytes(), static_cast<char>(code));
      out.Add(codes, std::as_bytes(std::span<const char>(data)));
      if (!scales.empty()) out.Add({"w.scale", DType::kFloat16, {static_cast<int64_t>(scales.size())}, {}}, scales);
      if (!more.empty()) out.Add({more, DType::kFloat32, {1}, {}}, std::vector<float>{1});
    });
  };
  const TensorInfo codes{"w.q", DType::kInt8, {2, 3}, Quantisation{"int6", -32, 31, "w.scale"}};
  quantised("code-outside", codes, 32, {kOne, kOne});
  quantised("scale-infinite", codes, 31, {kOne, kInfinity});
  quantised("scale-of-another-row", codes, 31, {kOne});
  quantised("scale-missing", codes, 31, {});
  quantised("codes-of-16-bits", {"w.q", DType::kFloat16, {2, 3}, codes.quantisation}, 31, {kOne, kOne});
  quantised("codes-in-a-row", {"w.q", DType::kInt8, {6}, codes.quantisation}, 31, {kOne, kOne});
  quantised("name-taken", codes, 31, {kOne, kOne}, "w");
  quantised("name-metadata", codes, 31, {kOne, kOne}, "__metadata__");

  const auto factored = [](const std::string& name, const std::vector<uint16_t>& factors, DType dtype = DType::kFloat16) {
    Stage("quantised/" + name, Kind::kQuantised, {}, [&](CheckpointWriter& out) {
      out.Add({"w.q", DType::kInt8, {2, 3}, Quantisation{"step", -127, 127, "w.scale", "w.columns"}}, std::vector<int8_t>(6, 1));
      out.Add({"w.scale", DType::kFloat16, {2}, {}}, std::vector<uint16_t>{kOne, kOne});
      if (!factors.empty()) out.Add({"w.columns", dtype, {static_cast<int64_t>(factors.size() / (DTypeSize(dtype) / 2))}, {}}, factors);
    });
  };
  factored("factor-missing", {});
  factored("factor-of-another-column", {kOne, kOne});
  factored("factor-infinite", {kOne, kInfinity, kOne});
  factored("factor-integers", std::vector<uint16_t>(6, 1), DType::kInt32);

  Stage("models/heads", Kind::kWeights, {{"num_heads", "3"}}, matrix("w"));
  Stage("models/tensors", Kind::kWeights, {{"num_layers", "1"}, {"xsa_last_n", "1"}}, matrix("w"));
  // A kilobyte that describes a model of 10 terabytes.
  Stage("models/gigantic", Kind::kWeights, {{"num_layers", "256"}, {"model_dim", "65536"}, {"mlp_mult", "64"}},
        matrix("tok_emb.weight"));
}

// --- artifacts

std::string Compressed(std::string_view content, bool declare = true) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, declare);
  std::string bytes(ZSTD_compressBound(content.size()), '\0');
  bytes.resize(ZSTD_compress2(context, bytes.data(), bytes.size(), content.data(), content.size()));
  ZSTD_freeCCtx(context);
  return bytes;
}

std::string Sealed(const std::string& compressed) {
  Sha256 sha;
  sha.Update(compressed);
  return compressed + std::string("\x50\x2a\x4d\x18\x20\0\0\0", 8) + sha.Finish();
}

void Artifacts() {
  const auto content = [](Kind kind) {
    std::string bytes;
    CheckpointWriter writer(&bytes, kind, {{"num_layers", "2"}});
    writer.Add({.name = "w.scale", .dtype = DType::kFloat16, .shape = {100}}, std::vector<uint16_t>(100, kOne));
    writer.Finish({}, {});
    return bytes;
  };
  const std::string frame = Compressed(content(Kind::kQuantised)), good = Sealed(frame);
  const auto put = [](const std::string& name, const std::string& bytes) { Put("artifact/" + name, bytes); };
  put("cut-in-frame", good.substr(0, frame.size() / 2));
  put("cut-before-digest", frame);
  put("cut-in-digest", good.substr(0, good.size() - 1));
  put("more", good + "x");
  put("twice", good + good);
  put("frame-flipped", Replaced(good, frame, frame.substr(0, 20) + char(frame[20] ^ 1) + frame.substr(21)));
  put("digest-flipped", good.substr(0, good.size() - 1) + char(good.back() ^ 1));
  put("digest-none", frame + std::string(40, '\0'));
  put("digest-longer", frame + Replaced(good.substr(frame.size()), "\x20", "\x21"));
  put("no-checkpoint", Sealed(Compressed("In the beginning")));
  put("empty-content", Sealed(Compressed("")));
  put("weights", Sealed(Compressed(content(Kind::kWeights))));
  RawPacked packed;
  packed.header = Field(1, 3) + Field(2, 2);
  put("weights-packed", Sealed(Compressed(packed.Bytes())));
  packed = {.order = 3};
  put("packed-order", Sealed(Compressed(packed.Bytes())));
  put("cut-content", Sealed(Compressed(content(Kind::kQuantised).substr(0, 100))));
  put("undeclared", Sealed(Compressed(content(Kind::kQuantised), false)));
  put("bomb", Sealed(Compressed(std::string(100 << 20, '\0'))));
  std::string liar = Compressed(std::string(1 << 20, '\0'));
  liar.replace(5, 4, std::string("\0\x10\0\0", 4));  // 4,096 bytes, where the frame says how many
  put("bomb-that-declares-less", Sealed(liar));
  liar.replace(5, 4, std::string("\1\0\x10\0", 4));
  put("declares-more", Sealed(liar));
}

// --- safetensors

void Safetensors() {
  const auto put = [](const std::string& name, const std::string& header, const std::string& data = "") {
    Put("safetensors/" + name, Fixed(header.size()) + header + data);
  };
  const auto one = [&](const std::string& name, const std::string& entry, const std::string& data = "1234") {
    put(name, "{\"a\":" + entry + "}", data);
  };
  const auto metadata = [&](const std::string& name, const std::string& entries) {
    put(name, "{\"__metadata__\":{" + entries + R"(},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "1234");
  };
  Put("safetensors/empty", "");
  Put("safetensors/cut-in-length", "1234567");
  Put("safetensors/header-beyond-file", Fixed(1ull << 62) + "{}");
  put("not-json", "{");
  put("not-utf8", "{\"\xff\":1}");
  put("not-an-object", "[]");
  put("deep", "{\"a\":" + std::string(50000, '[') + std::string(50000, ']') + "}");
  put("name-twice",
      R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
      "1");
  put("name-newline", R"({"a\n":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})", "1");
  put("metadata-list", R"({"__metadata__":[]})");
  put("metadata-number", R"({"__metadata__":{"a":1}})");
  one("no-offsets", R"({"dtype":"F32","shape":[1]})");
  one("dtype", R"({"dtype":"F64","shape":[1],"data_offsets":[0,4]})");
  one("dtype-control", R"({"dtype":"\u001b[2J","shape":[1],"data_offsets":[0,4]})");
  one("dtype-integer", R"({"dtype":"I32","shape":[1],"data_offsets":[0,4]})");
  one("shape-negative", R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})");
  one("shape-fraction", R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})");
  one("shape-disagrees", R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})");
  one("shape-gigantic", R"({"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]})");
  one("shape-overflow", R"({"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]})", "");
  one("offsets-beyond-file", R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})");
  one("offsets-reversed", R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})");
  one("hole", R"({"dtype":"I8","shape":[1],"data_offsets":[1,2]})", "12");
  one("data-over", R"({"dtype":"I8","shape":[1],"data_offsets":[0,1]})", "12");
  put("overlap",
      R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"I8","shape":[2],"data_offsets":[1,3]}})",
      "123");
  metadata("setting-unknown", R"("setting.num_experts":"8")");
  metadata("setting-of-run", R"("setting.data_path":"/etc")");
  metadata("setting-control", R"("setting.fp16_keep_name_patterns":"tok\u001b_emb")");
  metadata("setting-model", R"("setting.num_heads":"3")");
}

// --- token shards, a folder each

void Shards() {
  const std::string tokens("\1\0\7\0\3\0\0\0", 8), good = ShardHeader(2000) + std::string(4000, '\1');
  const auto field = [](std::string bytes, int index, int32_t value) {
    std::memcpy(bytes.data() + 4 * index, &value, 4);
    return bytes;
  };
  const auto put = [](const std::string& name, const std::string& bytes) {
    Put("shards/" + name + "/fineweb_train_000000.bin", bytes);
  };
  put("empty", "");
  put("header-cut", good.substr(0, 500));
  put("magic", field(good, 0, 12345));
  put("version", field(good, 1, 2));
  put("no-tokens", field(good, 2, 0));
  put("tokens-negative", field(good, 2, -1));
  put("tokens-fewer", field(good, 2, 1999));
  put("tokens-more", field(good, 2, 2001));
  put("tokens-gigantic", field(good, 2, INT32_MAX));
  put("odd", good + "x");
  put("token-beyond-vocabulary", good);  // 257 of 64
}

// --- byte tables and SentencePiece models

struct RawPiece {
  std::string text;
  uint64_t bytes = 0;
  bool leading_space = false, boundary = false, byte = false;
};

std::string Table(const std::vector<RawPiece>& pieces) {
  std::string bytes =
      "\x09"
      "fwbytes\n";
  for (const RawPiece& piece : pieces) {
    bytes += Field(2, Field(1, piece.text) + Field(2, piece.bytes) + Field(3, piece.leading_space) +
                          Field(4, piece.boundary) + Field(5, piece.byte));
  }
  return bytes + FixedField(15, Xxh3Of(bytes));
}

void Tables() {
  const auto put = [](const std::string& name, const std::string& bytes) { Put("table/" + name, bytes); };
  const std::string good = Table({{"<unk>", 0, false, true}, {"a", 1}}), space = "\xe2\x96\x81";
  put("empty", "");
  put("text", "In the beginning");
  put("cut", good.substr(0, 12));
  put("cut-by-one", good.substr(0, good.size() - 1));
  put("flipped", Replaced(good, "<unk>", "<Unk>"));
  put("no-pieces", Table({}));
  put("garbage", [] {
    const std::string bytes =
        "\x09"
        "fwbytes\n\x12\xff";
    return bytes + FixedField(15, Xxh3Of(bytes));
  }());
  put("bytes-256", Table({{std::string(256, 'a'), 256}}));
  put("bytes-that-lie", Table({{"a", 200}}));
  put("space-that-lies", Table({{"a", 1, true}}));
  put("space-that-hides", Table({{space + "a", 4, false}}));
  put("boundary-with-bytes", Table({{"a", 1, false, true}}));
  put("byte-misspelt", Table({{"<0xG1>", 1, false, false, true}}));
  put("two-pieces", good);  // a model of 64
  put("model-type", RawModel({{"a", 9}}));
  put("model-byte-misspelt", RawModel({{"<0x1>", 6}}));
  put("model-long-piece", RawModel({{std::string(256, 'a'), 1}}));
  put("model-cut", RawModel({{"a", 1}}).substr(0, 5));

  const auto model = [](const std::string& name, const RawPieces& pieces, const std::string& map = "") {
    Put("tokenizer/" + name, RawModel(pieces, map));
  };
  const auto with = [](const RawPieces& more) {
    RawPieces pieces = kFirstPieces;
    pieces.insert(pieces.end(), more.begin(), more.end());
    return pieces;
  };
  Put("tokenizer/empty", "");
  Put("tokenizer/text", "In the beginning");
  Put("tokenizer/cut", RawModel(with({{"a", 1}})).substr(0, 20));
  model("no-unknown", {{"<pad>", 3}, {"<s>", 3}, {"a", 1}});
  model("bos-elsewhere", {{"<s>", 3}, {"<unk>", 2}, {"a", 1}});
  model("empty-piece", with({{"", 1}}));
  model("zero-piece", with({{std::string("\0a", 2), 1}}));
  model("piece-twice", with({{"a", 1}, {"a", 1}}));
  RawPieces many, nested;
  for (int i = 0; i < 65536; ++i) many.emplace_back("p" + std::to_string(i), 1);
  for (int i = 1; i <= 65; ++i) nested.emplace_back(std::string(i, 'a'), 4);
  model("too-many", with(many));
  model("nested-pieces", with(nested));

  const auto map = [&](const std::string& name, auto change) {
    RawMap rule(1);
    change(rule);
    model("map-" + name, with({{"a", 1}, {"b", 1}}), rule.Bytes());
  };
  model("map-cut", with({}), RawMap(1).Bytes().substr(0, 3));
  model("map-no-trie", with({}), std::string("\0\0\0\0b\0", 6));
  model("map-trie-beyond", with({}), RawMap(1).Bytes().substr(0, 3 * 256 * 4 + 2));
  map("root-leads-out", [](RawMap& rule) { rule.units[0] = 768 << 10; });
  map("leads-out", [](RawMap& rule) { rule.units[RawMap::Unit(1)] = RawMap::Leading(RawMap::Unit(1), 768); });
  map("leads-far-out", [](RawMap& rule) { rule.units[RawMap::Unit(1)] = 0x7ffffe00 | 'a'; });
  map("text-beyond", [](RawMap& rule) { rule.units[512] |= 2; });
  map("text-without-end", [](RawMap& rule) { rule.texts = "bb"; });
  map("no-texts", [](RawMap& rule) { rule.texts = ""; });
  map("endless", [](RawMap& rule) { rule.units[RawMap::Unit(1)] = RawMap::Leading(RawMap::Unit(1), 256) | 1 << 8; });
  model("map-rule-too-long", with({}), RawMap(33).Bytes());
}

// --- text

void Texts() {
  const auto put = [](const std::string& name, const std::string& text) { Put("profile/" + name, text); };
  put("unknown", "seed = 1\n\nnum_layer = 4\n");
  put("no-value", "seed = 1\nnum_layers\n");
  put("empty-value", "seed =\n");
  put("not-a-number", "matrix_lr = fast\n");
  put("infinite", "matrix_lr = inf\n");
  put("fraction", "num_layers = 2.5\n");
  put("range", "seed = 1\nmodel_dim = -64\n");
  put("overflow", "seed = 99999999999999999999\n");
  put("choice", "precision = float8\n");
  put("switch", "published_quirks = yes\n");
  put("control", "fp16_keep_name_patterns = tok\x1b[2J_emb\n");
  put("not-utf8", "fp16_keep_name_patterns = tok\xff_emb\n");
  put("binary", std::string("\x7f"
                            "ELF\0\1\2\3\x1b[2J",
                            12));
  put("long-line", std::string(1 << 20, 'x'));

  const auto lines = [](const std::string& name, const std::string& text) { Put("documents/" + name, text); };
  lines("empty", "");
  lines("latin1", "{\"text\": \"caf\xe9\"}\n");
  lines("overlong", "{\"text\": \"\xc0\x80\"}\n");
  lines("text", "In the beginning\n");
  lines("cut", "{\"text\": \"a\"}\n{\"text\": \"b");
  lines("list", "[\"text\"]\n");
  lines("no-text", "{\"txt\": \"a\"}\n");
  lines("number", "{\"text\": 1}\n");
  lines("half-surrogate", "{\"text\": \"\\ud83d\"}\n");
  lines("deep", std::string(50000, '[') + std::string(50000, ']') + "\n");
  lines("blank-line", "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n");
}

void Manifests() {
  const auto put = [](const std::string& name, const std::string& text) {
    Put("manifest/" + name + "/manifest.json", text);
  };
  Manifest manifest;
  manifest.splits["val"] = {{{"fineweb_val_000000.bin", 4, 1032, "33"}}, 1, 4, "cc", "dd"};
  const std::string good = manifest.ToJson();
  put("empty", "");
  put("cut", good.substr(0, good.size() / 2));
  put("list", "[]");
  put("no-format", "{}");
  put("format", R"({"format": 3, "splits": {}})");
  put("format-fraction", R"({"format": 1.5, "splits": {}})");
  put("format-switch", R"({"format": true, "splits": {}})");
  put("no-splits", R"({"format": 1})");
  put("splits-list", R"({"format": 1, "splits": []})");
  put("no-files", R"({"format": 1, "splits": {"val": {}}})");
  put("name-twice", R"({"format": 1, "format": 1, "splits": {}})");
  put("deep", R"({"format": 1, "splits": )" + std::string(50000, '[') + std::string(50000, ']') + "}");
  put("tokens-negative", Replaced(good, "\"tokens\": 4,\n          \"bytes\"", "\"tokens\": -4,\n          \"bytes\""));
  put("tokens-beyond-counting",
      Replaced(good, "\"tokens\": 4,\n          \"bytes\"", "\"tokens\": 1e300,\n          \"bytes\""));
  put("digest-number", Replaced(good, "\"33\"", "33"));
  put("digest-control", Replaced(good, "\"cc\"", "\"c\\nc\""));
}

// --- finished runs: scores, records and logs

void Runs() {
  const std::string run = root + "/run";
  FakeRun().Write(run);
  const std::string scores(InputFile(run + "/eval.json").text()), log(InputFile(run + "/train.log").text());
  const auto put = [](const std::string& name, const std::string& text) { Put("scores/" + name, text); };
  const auto changed = [&](const std::string& name, const std::string& from, const std::string& to) {
    put(name, Replaced(scores, from, to));
  };
  put("empty", "");
  put("cut", scores.substr(0, scores.size() / 2));
  put("list", "[]");
  const auto losses = [](const auto& changed) {  // submission.json has one too
    changed("no-loss", "\"val_loss\"", "\"lost\"");
    changed("loss-text", "\"val_loss\": 2.0", "\"val_loss\": \"two\"");
    changed("loss-null", "\"val_loss\": 2.0", "\"val_loss\": null");
    changed("loss-beyond-counting", "\"val_loss\": 2.0", "\"val_loss\": 1e999");
    changed("loss-twice", "\"val_loss\": 2.0", "\"val_loss\": 2.0, \"val_loss\": 1.0");
  };
  losses(changed);
  changed("targets-none", "\"targets\": 12000", "\"targets\": 0");
  changed("targets-negative", "\"targets\": 12000", "\"targets\": -1");
  changed("targets-beyond-counting", "\"targets\": 12000", "\"targets\": 1e300");
  changed("processor-number", "\"cpu\": \"Abacus 9000\"", "\"cpu\": 9000");
  changed("digest-control", "\"val_digest\": \"76a1\"", "\"val_digest\": \"76\\u001b[2J\"");
  changed("digest-long", "\"artifact_digest\": \"", "\"artifact_digest\": \"" + std::string(1 << 20, 'x'));
  changed("digest-deep", "\"val_digest\": \"76a1\"",
          "\"val_digest\": " + std::string(50000, '[') + std::string(50000, ']'));

  // The record of that run, and what its submission.json might say.
  const std::string record = root + "/record";
  WriteRecord(MakeRecord({ReadRun(run)}, {.author = "A", .date = "2026-03-31", .baseline_bpb = 2}), record);
  const std::string submission(InputFile(record + "/submission.json").text());
  const auto says = [&](const std::string& name, const std::string& from, const std::string& to) {
    Put("submission/" + name, Replaced(submission, from, to));
  };
  Put("submission/empty", "");
  Put("submission/cut", submission.substr(0, submission.size() / 2));
  Put("submission/list", "[]");
  Put("submission/object", "{}");
  losses(says);
  says("loss-of-another", "\"val_loss\": 2.0", "\"val_loss\": 1.9");
  says("loss-deep", "\"val_loss\": 2.0", "\"val_loss\": " + std::string(50000, '[') + std::string(50000, ']'));
  says("author-number", "\"author\": \"A\"", "\"author\": 1");
  says("date", "2026-03-31", "yesterday");
  says("bytes-fewer", "\"bytes_code\": 18", "\"bytes_code\": 17");
  says("bytes-negative", "\"bytes_code\": 18", "\"bytes_code\": -18");
  says("seeds-number", "\"seeds\": [\n    1337\n  ]", "\"seeds\": 1337");
  says("seeds-more", "    1337\n", "    1337, 1338\n");
  says("seed-of-another", "\"1337\": {", "\"1338\": {");
  says("results-list", "\"seed_results\": {", "\"seed_results\": [], \"results\": {");
  says("steps-more", "\"steps\": 60", "\"steps\": 61");
  says("track", "non-record-16mb", "10min_16mb");
  says("track-control", "non-record-16mb", "\\u001b[2J");
  says("track-long", "non-record-16mb", std::string(1 << 20, 'x'));
  says("baseline-list", "\"baseline\": {", "\"baseline\": [], \"base\": {");
  says("baseline-negative", "\"val_bpb\": 2.0", "\"val_bpb\": -2.0");
  says("baseline-beyond-counting", "\"val_bpb\": 2.0", "\"val_bpb\": 1e300");
  says("qualifies", "\"qualifies\": false", "\"qualifies\": true");
  says("more", "\"author\"", "\"speed\": \"fast\", \"author\"");

  const auto line = [&](const std::string& name, const std::string& text) { Put("log/" + name, log + text); };
  Put("log/empty", "");
  Put("log/text", "In the beginning\n");
  line("no-loss", "step:61/90 val_bpb:1\n");
  line("loss-text", "step:61/90 train_loss:two train_time:1ms step_avg:1ms\n");
  line("loss-not-a-number", "step:61/90 train_loss:nan train_time:1ms step_avg:1ms\n");
  line("no-unit", "step:61/90 train_loss:2 train_time:1 step_avg:1ms\n");
  line("step-negative", "step:-1/90 train_loss:2 train_time:1ms step_avg:1ms\n");
  line("step-beyond-counting", "step:99999999999999999999/90 train_loss:2 train_time:1ms step_avg:1ms\n");
  line("seed-text", "seed:one\n");
  line("control", "step:\x1b[2J train_loss:2\n");
  line("long", "step:" + std::string(1 << 20, '9') + " train_loss:2\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return std::fprintf(stderr, "malformed-files DIR\n"), 2;
  root = argv[1];
  Checkpoints();
  Stages();
  Artifacts();
  Safetensors();
  Shards();
  Tables();
  RawFile unaligned;  // and as it should be: data stand where they happen to
  unaligned.tensors = {{"a", Field(1, "a") + Field(2, 4) + Field(3, Varint(1)), "1"},
                       {"b", Field(1, "b") + Field(2, 6) + Field(3, Varint(2)), "1234567812345678"},
                       {"c", Field(1, "c") + Field(2, 5) + Field(3, Varint(1)), "1234"}};
  Put("unaligned", unaligned.Bytes());
  Texts();
  Manifests();
  Runs();
}
