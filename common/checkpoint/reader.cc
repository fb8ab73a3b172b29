#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/checkpoint/format.h"
#include "common/checkpoint/packed.h"

namespace fairway {
namespace {

using namespace format;
using google::protobuf::Message;

// Reads the framing of protobuf fields. A file may be larger than what protobuf's own reader takes. Every function
// returns false, and leaves the cursor anywhere, where the bytes end or make no sense.
class Cursor {
 public:
  Cursor(std::string_view bytes, uint64_t position) : bytes_(bytes), position_(position) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64 && remaining() > 0; shift += 7) {
      const uint64_t byte = static_cast<unsigned char>(bytes_[position_++]);
      *value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Length(uint64_t* value) { return Varint(value) && *value <= remaining(); }
  bool Advance(uint64_t bytes) {
    if (bytes > remaining()) return false;
    position_ += bytes;
    return true;
  }
  bool SkipField(uint64_t tag) {
    uint64_t value;
    switch (tag & 7) {
      case 0:
        return Varint(&value);
      case 1:
        return Advance(8);
      case 2:
        return Length(&value) && Advance(value);
      case 5:
        return Advance(4);
      default:
        return false;
    }
  }

 private:
  std::string_view bytes_;
  uint64_t position_;
};

bool Parse(std::string_view bytes, Message* message) {
  const google::protobuf::LogSilencer silencer;  // of broken UTF-8 it would talk to standard error, and go on
  return bytes.size() <= std::numeric_limits<int>::max() &&
         message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

bool HasUnknownFields(const Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  if (!reflection.GetUnknownFields(message).empty()) return true;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const auto* field : fields) {
    if (field->message_type() == nullptr) continue;
    if (!field->is_repeated()) {
      if (HasUnknownFields(reflection.GetMessage(message, field))) return true;
      continue;
    }
    for (int i = 0; i < reflection.FieldSize(message, field); ++i)
      if (HasUnknownFields(reflection.GetRepeatedMessage(message, field, i))) return true;
  }
  return false;
}

}  // namespace

struct CheckpointReader::State {
  // Where a tensor lies. The hash covers everything from the end of the tensor before.
  struct ByteRange {
    uint64_t begin, data, end, hash;
  };

  State(InputFile input) : file(std::move(input)), name(file->path()), bytes(file->text()) { Open(); }
  State(std::string input, const std::string& name, uint64_t most_bytes)
      : memory(std::move(input)), name(name), bytes(memory), most_bytes(most_bytes) {
    Open();
  }

  void Open();
  uint64_t OpenHeader();
  std::string Unpack(uint64_t header_end);
  pb::Footer OpenFooter(uint64_t header_end);
  uint64_t OpenTensor(const pb::IndexEntry& entry, uint64_t begin);
  TensorInfo Describe(const pb::Tensor& tensor) const;

  std::string Text(const std::string& text) const;
  template <typename Message>
  SettingValues ReadSettings(const Message& message) const;
  Lineage ReadLineage(const pb::Lineage& message) const;

  size_t IndexOf(std::string_view name) const;
  std::string_view Slice(uint64_t begin, uint64_t end) const { return bytes.substr(begin, end - begin); }
  [[noreturn]] void Fail(const std::string& cause) const { throw InputError(name, cause); }

  std::optional<InputFile> file;
  std::string memory;
  std::string name;
  std::string_view bytes;
  uint64_t most_bytes = 0;  // that a packed file may unpack to; 0: MaxContentBytes of it

  uint32_t version;
  Kind kind;
  SettingValues settings;
  std::vector<TensorInfo> tensors;
  std::vector<ByteRange> ranges;
  std::unordered_map<std::string_view, size_t> index;
  Counters counters;
  Lineage lineage;
  std::string identity;
  Packing packing;
  uint64_t footer_offset = 0;
  bool has_unknown_fields = false;
};

void CheckpointReader::State::Open() {
  uint64_t position = OpenHeader();
  if (IsPacked(version)) {
    memory = Unpack(position);
    file.reset();
    bytes = memory;
    position = OpenHeader();
  }
  const pb::Footer footer = OpenFooter(position);

  for (const pb::IndexEntry& entry : footer.index()) position = OpenTensor(entry, position);
  if (position != footer_offset)
    Fail("the index disagrees with the file: there is something between the last tensor and the footer");
  for (size_t i = 0; i < tensors.size(); ++i)
    if (!index.emplace(tensors[i].name, i).second) Fail("has two tensors named " + tensors[i].name);

  for (const pb::Counter& counter : footer.counter()) {
    if (counters.Has(Text(counter.name()))) Fail("has two counters named " + Shorten(counter.name(), 100));
    if (!std::isfinite(counter.number())) Fail("its counter " + Shorten(counter.name(), 100) + " is not a finite number");
    counters.Set(counter.name(), counter.number());
  }
  lineage = ReadLineage(footer.lineage());
  identity = Text(footer.identity());
  if (has_unknown_fields) Log("%s: has fields that are newer than this program; they are ignored", name.c_str());
}

// Returns the header's end.
uint64_t CheckpointReader::State::OpenHeader() {
  if (bytes.empty()) Fail("is empty");
  if (!bytes.starts_with(kMagic)) Fail("is not a checkpoint: it does not begin with a checkpoint's magic number");
  Cursor cursor(bytes, kMagic.size());
  uint64_t tag, length;
  if (!cursor.Varint(&tag)) Fail("is truncated: it ends before its header");
  if (tag != kHeaderTag) Fail("is damaged: no header follows the magic number");
  if (!cursor.Length(&length)) Fail("is truncated: it ends inside its header");
  pb::Header header;
  const uint64_t end = cursor.position() + length;
  if (!Parse(Slice(cursor.position(), end), &header)) Fail("is damaged: its header cannot be parsed");
  version = header.format_version();
  if (version < kOldestVersion || version > kCodedVersion)
    Fail(StringPrintf("is of format version %u; this program reads versions %u to %u", version, kOldestVersion, kCodedVersion));
  if (header.kind() < 1 || header.kind() > 3)
    Fail(StringPrintf("is of kind %u, which this program does not know", header.kind()));
  kind = static_cast<Kind>(header.kind());
  settings = ReadSettings(header);
  std::unordered_set<std::string_view> names;
  for (const auto& [name, value] : settings)
    if (!names.insert(name).second) Fail("has two settings named " + Shorten(name, 100));
  has_unknown_fields = HasUnknownFields(header);
  return end;
}

// The bytes of the same checkpoint as a writer writes it.
std::string CheckpointReader::State::Unpack(uint64_t header_end) {
  const uint64_t size = bytes.size();
  if (size < header_end + kFixedFieldBytes || bytes[size - kFixedFieldBytes] != kPackedHashTag)
    Fail("is truncated: it does not end with a hash");
  if (Fixed64At(bytes, size - 8) != Xxh3Of(Slice(0, size - kFixedFieldBytes))) Fail("is damaged: its hash disagrees");
  pb::Checkpoint checkpoint;
  if (!Parse(bytes, &checkpoint)) Fail("is damaged: it cannot be parsed");
  if (checkpoint.padding_size() > 0 || checkpoint.has_footer()) Fail("is damaged: it is packed and has padding or a footer");
  if (HasUnknownFields(checkpoint)) Log("%s: has fields that are newer than this program; they are ignored", name.c_str());

  std::vector<TensorInfo> infos;
  std::vector<Layout> layouts;
  std::unordered_set<std::string_view> names;
  uint64_t data_bytes = 0, coded_bytes = 0;  // in the file; of codes that come out of streams
  int streams = 0;
  const uint64_t most = most_bytes > 0 ? most_bytes : MaxContentBytes(size);
  const auto add = [&](uint64_t bytes) {
    if (bytes > checkpoint.packed().size() - data_bytes) Fail("its tensors are larger than its packed data");
    data_bytes += bytes;
  };
  for (const pb::Tensor& tensor : checkpoint.tensor()) {
    if (!IsTensorName(tensor.name())) Fail("has a tensor whose name is not 1 to 255 printable ASCII characters");
    if (!names.insert(tensor.name()).second) Fail("has two tensors named " + tensor.name());
    if (tensor.has_data()) Fail("is damaged: it is packed and tensor " + tensor.name() + " has data of its own");
    infos.push_back(Describe(tensor));
    const std::optional<uint64_t> payload = PayloadBytes(infos.back());
    if (const std::string error = ShapeError(infos.back(), payload.value_or(0)); !error.empty()) Fail(error);
    const bool coded = version == kCodedVersion && tensor.order() == static_cast<uint32_t>(CodeOrder::kCoded);
    layouts.push_back({tensor.order(), tensor.stream(), coded});
    if (!coded) {
      if (tensor.stream() > 0) Fail("is damaged: tensor " + tensor.name() + " begins a stream and is not in it");
      add(*payload);
      continue;
    }
    if (tensor.stream() > 0 && ++streams > kMostStreams) Fail(StringPrintf("has more than %d streams of codes", kMostStreams));
    if (streams == 0) Fail("is damaged: tensor " + tensor.name() + " lies in a stream, and none begins with it or before it");
    add(tensor.stream());
    packing.stream_bytes += tensor.stream();
    if (*payload > most - std::min(most, coded_bytes))
      Fail(StringPrintf("its codes are more than %ju bytes, which is more than a file of this size may hold", most));
    coded_bytes += *payload;
  }
  packing.bytes = size;
  packing.stream_codes = coded_bytes;
  if (data_bytes != checkpoint.packed().size()) Fail("its packed data are larger than its tensors");

  const std::vector<std::string> data = format::Unpack(infos, layouts, checkpoint.packed(), name);
  std::string unpacked;
  CheckpointWriter writer(&unpacked, kind, settings);
  for (size_t i = 0; i < infos.size(); ++i) writer.Add(infos[i], std::as_bytes(std::span<const char>(data[i])));
  writer.Finish({}, {});
  return unpacked;
}

pb::Footer CheckpointReader::State::OpenFooter(uint64_t header_end) {
  const auto truncated = [&] { Fail("is truncated: it does not end with a footer"); };
  const uint64_t size = bytes.size();
  if (size < header_end + 2 + kFooterTailBytes || bytes[size - kFixedFieldBytes] != kFooterOffsetTag) truncated();
  footer_offset = Fixed64At(bytes, size - 8);
  if (footer_offset < header_end || footer_offset > size - 2 - kFooterTailBytes || bytes[footer_offset] != kFooterTag)
    truncated();
  Cursor cursor(bytes, footer_offset + 1);
  uint64_t length;
  if (!cursor.Varint(&length) || length != cursor.remaining() || length < kFooterTailBytes) truncated();

  const uint64_t tail = size - kFooterTailBytes;
  if (bytes[tail] != kFooterHashTag || Fixed64At(bytes, tail + 1) != Xxh3Of(Slice(footer_offset, tail)))
    Fail("is damaged: the footer's hash disagrees");
  pb::Footer footer;
  if (!Parse(Slice(cursor.position(), size), &footer)) Fail("is damaged: its footer cannot be parsed");
  if (footer.header_hash() != Xxh3Of(Slice(0, header_end))) Fail("is damaged: the header's hash disagrees");
  has_unknown_fields |= HasUnknownFields(footer);
  return footer;
}

// Reads the description of the tensor that the index has next; everything that its data will be used by is checked, the
// data's hash is not. Returns the tensor's end.
uint64_t CheckpointReader::State::OpenTensor(const pb::IndexEntry& entry, uint64_t begin) {
  if (!IsTensorName(entry.name())) Fail("has a tensor whose name is not 1 to 255 printable ASCII characters");
  const auto disagrees = [&] { Fail("the index disagrees with the file at tensor " + entry.name()); };

  Cursor cursor(bytes, begin);
  uint64_t tag, length;
  while (true) {
    if (!cursor.Varint(&tag) || cursor.position() > footer_offset) disagrees();
    if (tag == kTensorTag) break;
    if (tag != kPaddingTag) has_unknown_fields = true;
    if (!cursor.SkipField(tag)) disagrees();
  }
  if (!cursor.Length(&length)) disagrees();
  const uint64_t description = cursor.position(), end = description + length;
  std::string data_start = {kDataTag};
  AppendVarint(data_start, entry.length());
  if (end > footer_offset || entry.offset() > end || entry.length() != end - entry.offset() ||
      entry.offset() < description + data_start.size() ||
      Slice(entry.offset() - data_start.size(), entry.offset()) != data_start)
    disagrees();

  pb::Tensor tensor;
  if (!Parse(Slice(description, entry.offset() - data_start.size()), &tensor) || tensor.has_data() ||
      tensor.has_order() || tensor.has_stream() || tensor.name() != entry.name())
    disagrees();
  has_unknown_fields |= HasUnknownFields(tensor);
  TensorInfo info = Describe(tensor);
  if (const std::string error = ShapeError(info, entry.length()); !error.empty()) Fail(error);
  tensors.push_back(std::move(info));
  ranges.push_back({begin, entry.offset(), end, entry.hash()});
  return end;
}

// What a tensor's description says. Its shape is still to be checked.
TensorInfo CheckpointReader::State::Describe(const pb::Tensor& tensor) const {
  if (tensor.dtype() < 1 || tensor.dtype() > 6)
    Fail(StringPrintf("tensor %s is of dtype %u, which this program does not know", tensor.name().c_str(), tensor.dtype()));
  TensorInfo info;
  info.name = tensor.name();
  info.dtype = static_cast<DType>(tensor.dtype());
  info.shape.assign(tensor.shape().begin(), tensor.shape().end());
  if (tensor.has_quantisation()) {
    const pb::Quantisation& quantisation = tensor.quantisation();
    info.quantisation = {Text(quantisation.grid()), quantisation.code_min(), quantisation.code_max(),
                         Text(quantisation.scale()), Text(quantisation.column_scale()), static_cast<int64_t>(quantisation.group()),
                         Text(quantisation.low_rank_left()), Text(quantisation.low_rank_right())};
  }
  return info;
}

std::string CheckpointReader::State::Text(const std::string& text) const {
  if (!IsPrintable(text)) Fail("holds text that is not printable");
  return text;
}

template <typename Message>
SettingValues CheckpointReader::State::ReadSettings(const Message& message) const {
  SettingValues values;
  for (const pb::Setting& setting : message.setting()) values.emplace_back(Text(setting.name()), Text(setting.value()));
  return values;
}

Lineage CheckpointReader::State::ReadLineage(const pb::Lineage& message) const {
  Lineage result{
      Text(message.tool()), Text(message.version()), Text(message.source_digest()), ReadSettings(message), {}};
  for (const pb::Input& input : message.input())
    result.inputs.push_back({Text(input.role()), Text(input.identity()), ReadLineage(input.lineage())});
  return result;
}

size_t CheckpointReader::State::IndexOf(std::string_view tensor) const {
  const auto found = index.find(tensor);
  if (found == index.end()) Fail("misses tensor " + std::string(tensor));
  return found->second;
}

CheckpointReader::CheckpointReader(const std::string& path) : CheckpointReader(InputFile(path)) {}
CheckpointReader::CheckpointReader(InputFile file) : state_(std::make_unique<State>(std::move(file))) {}
CheckpointReader::CheckpointReader(std::string bytes, const std::string& name, uint64_t most_bytes)
    : state_(std::make_unique<State>(std::move(bytes), name, most_bytes)) {}
CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;

void CheckpointReader::Expect(std::initializer_list<Kind> kinds) const {
  if (std::find(kinds.begin(), kinds.end(), kind()) != kinds.end()) return;
  std::vector<std::string> names;
  for (const Kind kind : kinds) names.emplace_back(KindName(kind));
  state_->Fail(StringPrintf("is a %s checkpoint; expected %s", KindName(kind()).data(), Join(names, " or ").c_str()));
}

void CheckpointReader::ExpectTensors(const std::vector<std::string>& names) const {
  const std::unordered_set<std::string_view> expected(names.begin(), names.end());
  std::vector<std::string> missing, unexpected, causes;
  for (const std::string& name : names)
    if (!Has(name)) missing.push_back(name);
  for (const TensorInfo& info : tensors())
    if (!expected.contains(info.name)) unexpected.push_back(info.name);
  const auto list = [](std::vector<std::string> names) {
    constexpr size_t kMost = 50;  // shown in a message; a model may have thousands
    const size_t more = names.size() - std::min(names.size(), kMost);
    names.resize(names.size() - more);
    return Join(names, ", ") + (more > 0 ? StringPrintf(" and %zu more", more) : "");
  };
  if (!missing.empty()) causes.push_back("misses tensor " + list(missing));
  if (!unexpected.empty()) causes.push_back("has unexpected tensor " + list(unexpected));
  if (!causes.empty()) state_->Fail(Join(causes, "; "));
}

const std::string& CheckpointReader::path() const {
  return state_->name;
}
Kind CheckpointReader::kind() const {
  return state_->kind;
}
const SettingValues& CheckpointReader::settings() const {
  return state_->settings;
}
const std::vector<TensorInfo>& CheckpointReader::tensors() const {
  return state_->tensors;
}
const Counters& CheckpointReader::counters() const {
  return state_->counters;
}
int64_t CheckpointReader::Count(const std::string& counter) const {
  const double value = counters().Get(counter);
  const std::optional<int64_t> count = WholeNumber(value);
  if (!count || *count < 0) state_->Fail("its counter " + counter + " is " + ShortestDouble(value) + ", which counts nothing");
  return *count;
}
const Lineage& CheckpointReader::lineage() const {
  return state_->lineage;
}
const std::string& CheckpointReader::identity() const {
  return state_->identity;
}

const CheckpointReader::Packing& CheckpointReader::packing() const {
  return state_->packing;
}

bool CheckpointReader::Has(std::string_view name) const {
  return state_->index.contains(name);
}
const TensorInfo& CheckpointReader::Find(std::string_view name) const {
  return state_->tensors[state_->IndexOf(name)];
}

std::span<const std::byte> CheckpointReader::Data(std::string_view name) const {
  const State::ByteRange& range = state_->ranges[state_->IndexOf(name)];
  if (Xxh3Of(state_->Slice(range.begin, range.end)) != range.hash)
    state_->Fail("tensor " + std::string(name) + " is damaged: its hash disagrees");
  return std::as_bytes(std::span<const char>(state_->Slice(range.data, range.end)));
}

void CheckpointReader::Verify() const {
  Identity identity(kind(), settings());
  for (const TensorInfo& info : tensors()) identity.Add(info, Data(info.name));
  if (identity.Finish() != state_->identity)
    state_->Fail("its content does not have the identity that its footer says");
}

}  // namespace fairway
