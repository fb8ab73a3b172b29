// Checkpoints: the files that the stages exchange. docs/formats.md gives the bytes; this header hides them.
//
// A checkpoint is a kind, settings, named tensors, counters (what happened) and lineage (what it was made from). Its
// identity is the SHA-256 of its kind, settings and tensors: two runs of the same thing have the same identity although
// their clocks, paths and logs differ. Nothing here depends on LibTorch, and no protobuf type is visible to callers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/file.h"
#include "common/settings/settings.h"

namespace fairway {

enum class Kind : uint32_t { kTraining = 1, kWeights = 2, kQuantised = 3 };
std::string_view KindName(Kind kind);  // "training", "weights", "quantised"

enum class DType : uint32_t { kFloat32 = 1, kFloat16 = 2, kBFloat16 = 3, kInt8 = 4, kInt32 = 5, kInt64 = 6 };
std::string_view DTypeName(DType dtype);  // "float32", …
size_t DTypeSize(DType dtype);            // bytes per element
bool IsFloatingPoint(DType dtype);

// On codes: how they turn back into weights, code * scale[row], or code * (scale[row] * column_scale[column]), plus the product
// left right where there is one.
struct Quantisation {
  std::string grid;  // "int5", "int6", "int8"
  int32_t code_min = 0, code_max = 0;
  std::string scale;             // name of the tensor with one scale per row
  std::string column_scale = {}; // of the one with one factor per column; empty: there is none
  int64_t group = 0;             // codes that a scale serves, one after another in row-major order; 0: a row
  std::string low_rank_left = {}, low_rank_right = {};  // names of the factors' codes [rows, rank] and [rank, columns]; empty: none
  bool operator==(const Quantisation&) const = default;
};

struct TensorInfo {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<int64_t> shape;  // empty: a scalar
  std::optional<Quantisation> quantisation;

  static constexpr size_t kMaxDimensions = 8;

  int64_t numel() const;
  uint64_t bytes() const { return numel() * DTypeSize(dtype); }
};

// What happened while a product was made, by name ("ema.updates", "train.seconds"), in the order of adding.
class Counters {
 public:
  void Set(const std::string& name, double value);
  double Get(const std::string& name) const;  // 0 where it was never set
  bool Has(const std::string& name) const;
  const std::vector<std::pair<std::string, double>>& all() const { return all_; }

 private:
  std::vector<std::pair<std::string, double>> all_;
  std::map<std::string, size_t> places_;  // in all_; a file may hold very many
};

struct Lineage {
  struct Input;
  std::string tool, version, source_digest;
  SettingValues settings;
  std::vector<Input> inputs;
};
struct Lineage::Input {
  std::string role, identity;  // "training checkpoint", "train shards"; hexadecimal SHA-256
  Lineage lineage;             // of that input, back to the corpus; empty where it has none
};

// The lineage of what this program is about to make: itself, and those settings of `stages` that are not at their
// default.
//   OpenLineage("train", Version(), SourceDigest(), settings, scope::kModel | scope::kTrain)
Lineage OpenLineage(const std::string& tool, const std::string& version, const std::string& source_digest,
                    const Settings& settings, unsigned stages);

class CheckpointReader;

// Names `input` as something the product is made from, with its own lineage. InputError where that is so deep that a checkpoint
// could not hold one generation more.
void AddInput(Lineage& lineage, const std::string& role, const CheckpointReader& input);

// Named tensors and their data, of a checkpoint (CheckpointReader) or in memory (TensorsInMemory): what is quantised and packed.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual const std::string& path() const = 0;  // what errors name
  virtual Kind kind() const = 0;
  virtual const SettingValues& settings() const = 0;
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  virtual bool Has(std::string_view name) const = 0;
  virtual const TensorInfo& Find(std::string_view name) const = 0;  // InputError "misses tensor NAME"
  virtual std::span<const std::byte> Data(std::string_view name) const = 0;
  std::vector<float> Floats(std::string_view name) const;  // of float32, float16, bfloat16: widened to float32
};

// Where tensors go as they are made.
class TensorSink {
 public:
  virtual ~TensorSink() = default;
  // REQUIRES: data.size() == info.bytes(); the name is of 1 to 255 printable ASCII characters and was not added before;
  // at most kMaxDimensions sizes.
  virtual void Add(const TensorInfo& info, std::span<const std::byte> data) = 0;
  template <typename T>
  void Add(const TensorInfo& info, const std::vector<T>& values) {
    Add(info, std::as_bytes(std::span<const T>(values)));
  }
};

// Writes tensors as they come; needs no more memory than one tensor. The file appears under its name in Finish.
class CheckpointWriter : public TensorSink {
 public:
  CheckpointWriter(const std::string& path, Kind kind, const SettingValues& settings);  // "-": standard output
  // Appends to `bytes`, which are empty and outlive the writer, instead: for what is compressed before it is stored.
  CheckpointWriter(std::string* bytes, Kind kind, const SettingValues& settings);
  ~CheckpointWriter() override;

  using TensorSink::Add;
  void Add(const TensorInfo& info, std::span<const std::byte> data) override;

  // Returns the identity (hexadecimal). REQUIRES: the lineage is at most kMaxLineageDepth deep, counters are finite, text is
  // printable: what is written can be read. Throws IoError.
  std::string Finish(const Counters& counters, const Lineage& lineage);
  static constexpr int kMaxLineageDepth = 40;

 private:
  void Begin(Kind kind, const SettingValues& settings);

  struct State;
  std::unique_ptr<State> state_;
};

// Opens a file of any size at once (memory-mapped) and checks what is used when it is used.
// Every defect is an InputError naming the file and the cause; docs/formats.md lists them.
class CheckpointReader : public TensorSource {
 public:
  explicit CheckpointReader(const std::string& path);  // "-": standard input, read to its end
  explicit CheckpointReader(InputFile file);
  // A checkpoint that is already in memory (an unpacked artifact); `name` is what errors say. Codes in streams may take at most
  // `most_bytes`; 0: MaxContentBytes (packed.h) of the checkpoint.
  CheckpointReader(std::string bytes, const std::string& name, uint64_t most_bytes = 0);
  ~CheckpointReader() override;
  CheckpointReader(CheckpointReader&&) noexcept;

  // REQUIRES (else InputError): the kind is one of these, named in the message.
  void Expect(std::initializer_list<Kind> kinds) const;
  // REQUIRES (else InputError): there are exactly these tensors. Missing and unexpected ones are listed.
  void ExpectTensors(const std::vector<std::string>& names) const;

  const std::string& path() const override;
  Kind kind() const override;
  const SettingValues& settings() const override;
  const std::vector<TensorInfo>& tensors() const override;  // in file order
  const Counters& counters() const;
  // A counter that counts things. InputError where it is negative, no whole number, or beyond what a double counts exactly.
  int64_t Count(const std::string& counter) const;
  const Lineage& lineage() const;
  const std::string& identity() const;

  bool Has(std::string_view name) const override;
  const TensorInfo& Find(std::string_view name) const override;
  // The bytes of a tensor, after checking its hash. Aligned to 64 bytes in a file, to 16 in memory or from a pipe.
  std::span<const std::byte> Data(std::string_view name) const override;

  // Of a packed file (packed.h): its bytes, and how many of these are streams of the arithmetic coder, with the codes that came out
  // of them.
  struct Packing {
    uint64_t bytes = 0, stream_bytes = 0, stream_codes = 0;
  };
  const Packing& packing() const;  // zeros of a file that is not packed

  // Checks every tensor's hash and recomputes the identity. What opens and passes this is byte for byte what was
  // written.
  void Verify() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Tensors that are added and read in memory, in the order of adding, without ever having the bytes of a file.
class TensorsInMemory : public TensorSource, public TensorSink {
 public:
  // `name` is what errors say.
  explicit TensorsInMemory(std::string name, Kind kind = Kind::kWeights, SettingValues settings = {});

  using TensorSink::Add;
  void Add(const TensorInfo& info, std::span<const std::byte> data) override;  // a copy of the data
  void AddView(const TensorInfo& info, std::span<const std::byte> data);       // the data themselves, which outlive this

  const std::string& path() const override { return name_; }
  Kind kind() const override { return kind_; }
  const SettingValues& settings() const override { return settings_; }
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  bool Has(std::string_view name) const override { return index_.contains(name); }
  const TensorInfo& Find(std::string_view name) const override { return tensors_[IndexOf(name)]; }
  std::span<const std::byte> Data(std::string_view name) const override { return data_[IndexOf(name)]; }

 private:
  size_t IndexOf(std::string_view name) const;

  std::string name_;
  Kind kind_;
  SettingValues settings_;
  std::vector<TensorInfo> tensors_;
  std::vector<std::span<const std::byte>> data_;
  std::deque<std::vector<std::byte>> copies_;
  std::map<std::string, size_t, std::less<>> index_;
};

// Adds tensor `name` of `from`, its hash checked, to `to`, as `new_name` where one is given.
void CopyTensor(const CheckpointReader& from, std::string_view name, CheckpointWriter& to,
                std::string_view new_name = {});

// The values of float32, float16 or bfloat16 data as float32. REQUIRES: `dtype` is one of these.
std::vector<float> Widen(DType dtype, std::span<const std::byte> data);

// Widening and narrowing, round to nearest even, as PyTorch converts.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float BFloat16ToFloat(uint16_t value);
uint16_t FloatToBFloat16(float value);

}  // namespace fairway
