#include "common/checkpoint/safetensors.h"

#include <algorithm>
#include <stdexcept>
#include <unordered_map>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/json.h"
#include "common/base/text.h"
#include "common/checkpoint/format.h"

namespace fairway {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8, kMaxHeaderBytes = 100'000'000;
constexpr char kMetadata[] = "__metadata__";

struct Spelling {
  DType dtype;
  const char* name;
};
constexpr Spelling kSpellings[] = {{DType::kFloat32, "F32"}, {DType::kFloat16, "F16"}, {DType::kBFloat16, "BF16"},
                                   {DType::kInt8, "I8"},     {DType::kInt32, "I32"},   {DType::kInt64, "I64"}};

struct ByteRange {
  uint64_t begin, end;  // in the data
};

}  // namespace

struct SafetensorsReader::State {
  explicit State(const std::string& path);
  std::pair<TensorInfo, ByteRange> ReadEntry(const std::string& name, const json& entry) const;
  size_t IndexOf(std::string_view name) const;
  [[noreturn]] void Fail(const std::string& cause) const { throw InputError(file.path(), cause); }

  InputFile file;
  std::span<const std::byte> data;
  SettingValues metadata;
  std::vector<TensorInfo> tensors;
  std::vector<ByteRange> ranges;
  std::unordered_map<std::string_view, size_t> index;
};

SafetensorsReader::State::State(const std::string& path) : file(path) {
  const std::string_view bytes = file.text();
  if (bytes.empty()) Fail("is empty");
  if (bytes.size() < kLengthBytes) Fail("is truncated: it ends before its header");
  const uint64_t length = format::Fixed64At(bytes, 0);
  if (length > bytes.size() - kLengthBytes)
    Fail(StringPrintf("is truncated or no safetensors file: its header would have %ju bytes", length));
  if (length > kMaxHeaderBytes)
    Fail(StringPrintf("its header has %ju bytes; the format allows %ju", length, kMaxHeaderBytes));
  const json header = ParseJson<json>(bytes.substr(kLengthBytes, length), file.path(), "its header ");
  if (!header.is_object()) Fail("its header is not a JSON object");
  data = file.bytes().subspan(kLengthBytes + length);

  std::vector<std::pair<TensorInfo, ByteRange>> entries;
  for (const auto& [name, entry] : header.items()) {
    if (name != kMetadata) {
      entries.push_back(ReadEntry(name, entry));
      continue;
    }
    if (!entry.is_object()) Fail("its __metadata__ is not an object of texts");
    for (const auto& [key, value] : entry.items()) {
      if (!value.is_string()) Fail("its __metadata__ is not an object of texts");
      metadata.emplace_back(key, value.get<std::string>());
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.begin, a.second.end) < std::pair(b.second.begin, b.second.end);
  });
  uint64_t end = 0;
  for (auto& [info, range] : entries) {
    if (range.begin != end) Fail("tensor " + info.name + " does not begin where the data before it end");
    end = range.end;
    tensors.push_back(std::move(info));
    ranges.push_back(range);
  }
  if (end != data.size()) Fail(StringPrintf("has %zu bytes of data, its header describes %ju", data.size(), end));
  for (size_t i = 0; i < tensors.size(); ++i) index.emplace(tensors[i].name, i);
}

std::pair<TensorInfo, ByteRange> SafetensorsReader::State::ReadEntry(const std::string& name, const json& entry) const {
  if (!format::IsTensorName(name)) Fail("has a tensor whose name is not 1 to 255 printable ASCII characters");
  const auto whole = [](const json& value) { return value.is_number_unsigned() && value.get<uint64_t>() <= INT64_MAX; };
  const auto all_whole = [&](const json& array) {
    return array.is_array() && std::all_of(array.begin(), array.end(), whole);
  };
  if (!entry.is_object() || !entry.contains("dtype") || !entry["dtype"].is_string() || !entry.contains("shape") ||
      !all_whole(entry["shape"]) || !entry.contains("data_offsets") || !all_whole(entry["data_offsets"]) ||
      entry["data_offsets"].size() != 2)
    Fail("tensor " + name + " is not described by dtype, shape and data_offsets");

  const std::string dtype = entry["dtype"];
  const auto spelling = std::find_if(std::begin(kSpellings), std::end(kSpellings),
                                     [&](const Spelling& one) { return dtype == one.name; });
  if (spelling == std::end(kSpellings))
    Fail("tensor " + name + " is of dtype " + Shorten(Printable(entry["dtype"].dump()), 100) + ", which this program does not know");
  TensorInfo info{name, spelling->dtype, entry["shape"].get<std::vector<int64_t>>(), {}};
  const ByteRange range{entry["data_offsets"][0], entry["data_offsets"][1]};
  if (range.begin > range.end || range.end > data.size())
    Fail(StringPrintf("tensor %s lies at bytes %ju to %ju of %zu bytes of data: truncated or damaged", name.c_str(),
                      range.begin, range.end, data.size()));
  if (const std::string error = format::ShapeError(info, range.end - range.begin); !error.empty()) Fail(error);
  return {info, range};
}

size_t SafetensorsReader::State::IndexOf(std::string_view name) const {
  const auto found = index.find(name);
  if (found == index.end()) Fail("misses tensor " + std::string(name));
  return found->second;
}

SafetensorsReader::SafetensorsReader(const std::string& path) : state_(std::make_unique<State>(path)) {}
SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;

const std::string& SafetensorsReader::path() const {
  return state_->file.path();
}
const std::vector<TensorInfo>& SafetensorsReader::tensors() const {
  return state_->tensors;
}
const SettingValues& SafetensorsReader::metadata() const {
  return state_->metadata;
}
std::string SafetensorsReader::digest() const {
  return Sha256Hex(state_->file.bytes());
}

bool SafetensorsReader::Has(std::string_view name) const {
  return state_->index.contains(name);
}
const TensorInfo& SafetensorsReader::Find(std::string_view name) const {
  return state_->tensors[state_->IndexOf(name)];
}

std::span<const std::byte> SafetensorsReader::Data(std::string_view name) const {
  const ByteRange& range = state_->ranges[state_->IndexOf(name)];
  return state_->data.subspan(range.begin, range.end - range.begin);
}

std::vector<float> SafetensorsReader::Floats(std::string_view name) const {
  const DType dtype = Find(name).dtype;
  if (!IsFloatingPoint(dtype))
    state_->Fail(StringPrintf("tensor %s is of dtype %s; expected floating point", std::string(name).c_str(),
                              DTypeName(dtype).data()));
  return Widen(dtype, Data(name));
}

void WriteSafetensors(const std::string& path, std::vector<TensorInfo> tensors, const SettingValues& metadata,
                      const std::function<std::span<const std::byte>(const TensorInfo&)>& data) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) { return DTypeSize(a.dtype) > DTypeSize(b.dtype); });
  json header;
  for (const auto& [name, text] : metadata) header[kMetadata][name] = text;
  uint64_t end = 0;
  for (const TensorInfo& info : tensors) {
    const auto spelling = std::find_if(std::begin(kSpellings), std::end(kSpellings),
                                       [&](const Spelling& one) { return one.dtype == info.dtype; });
    header[info.name] = {{"dtype", spelling->name}, {"shape", info.shape}, {"data_offsets", {end, end + info.bytes()}}};
    end += info.bytes();
  }
  std::string text = header.is_null() ? "{}" : header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');

  OutputFile file(path);
  std::string length;
  format::AppendFixed64(length, text.size());
  file.Write(length);
  file.Write(text);
  for (const TensorInfo& info : tensors) {
    const std::span<const std::byte> bytes = data(info);
    if (bytes.size() != info.bytes())
      throw std::logic_error("WriteSafetensors: the data of " + info.name + " are not of its size");
    file.Write(bytes);
  }
  file.Commit();
}

}  // namespace fairway
