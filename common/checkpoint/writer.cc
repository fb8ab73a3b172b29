#include <cmath>
#include <stdexcept>
#include <unordered_set>

#include "common/base/text.h"
#include "common/checkpoint/format.h"

namespace fairway {
namespace {

using namespace format;

void Require(bool holds, const std::string& what) {
  if (!holds) throw std::logic_error("CheckpointWriter: " + what);
}

// A reader refuses text that is not; better to stop before the file has its name.
const std::string& Text(const std::string& text) {
  Require(IsPrintable(text), "'" + Printable(text) + "' is not printable");
  return text;
}

template <typename Message>
void SetSettings(const SettingValues& settings, Message* message) {
  for (const auto& [name, value] : settings) {
    pb::Setting* setting = message->add_setting();
    setting->set_name(Text(name));
    setting->set_value(Text(value));
  }
}

void SetLineage(const Lineage& lineage, int depth, pb::Lineage* message) {
  // Readers of protobuf refuse messages that are nested too deep (100 levels; a generation takes two).
  Require(depth <= CheckpointWriter::kMaxLineageDepth, "lineage is too deep");
  message->set_tool(Text(lineage.tool));
  message->set_version(Text(lineage.version));
  message->set_source_digest(Text(lineage.source_digest));
  SetSettings(lineage.settings, message);
  for (const Lineage::Input& input : lineage.inputs) {
    pb::Input* child = message->add_input();
    child->set_role(Text(input.role));
    child->set_identity(Text(input.identity));
    if (!input.lineage.tool.empty()) SetLineage(input.lineage, depth + 1, child->mutable_lineage());
  }
}

// A padding field that makes something of `size` bytes written at `offset`, behind it, end at a multiple of kAlignment.
std::string Padding(uint64_t offset, uint64_t size) {
  uint64_t bytes = (kAlignment - (offset + size) % kAlignment) % kAlignment;
  if (bytes == 0) return "";
  if (bytes == 1) bytes += kAlignment;  // the smallest field has two
  std::string padding = {kPaddingTag, static_cast<char>(bytes - 2)};
  padding.resize(bytes);
  return padding;
}

}  // namespace

pb::Tensor format::Describe(const TensorInfo& info) {
  pb::Tensor tensor;
  tensor.set_name(info.name);
  tensor.set_dtype(static_cast<uint32_t>(info.dtype));
  for (const int64_t size : info.shape) tensor.add_shape(size);
  if (info.quantisation) {
    pb::Quantisation* quantisation = tensor.mutable_quantisation();
    quantisation->set_grid(Text(info.quantisation->grid));
    quantisation->set_code_min(info.quantisation->code_min);
    quantisation->set_code_max(info.quantisation->code_max);
    quantisation->set_scale(Text(info.quantisation->scale));
    if (!info.quantisation->column_scale.empty()) quantisation->set_column_scale(Text(info.quantisation->column_scale));
    if (info.quantisation->group > 0) quantisation->set_group(static_cast<uint64_t>(info.quantisation->group));
    if (!info.quantisation->low_rank_left.empty()) quantisation->set_low_rank_left(Text(info.quantisation->low_rank_left));
    if (!info.quantisation->low_rank_right.empty()) quantisation->set_low_rank_right(Text(info.quantisation->low_rank_right));
  }
  return tensor;
}

std::string format::Start(uint32_t version, Kind kind, const SettingValues& settings) {
  pb::Header header;
  header.set_format_version(version);
  header.set_kind(static_cast<uint32_t>(kind));
  SetSettings(settings, &header);
  const std::string body = header.SerializeAsString();
  std::string start(kMagic);
  start += kHeaderTag;
  AppendVarint(start, body.size());
  return start + body;
}

struct CheckpointWriter::State {
  State(const std::string& path, Kind kind, const SettingValues& settings) : file(path), identity(kind, settings) {}
  State(std::string* memory, Kind kind, const SettingValues& settings) : memory(memory), identity(kind, settings) {}

  uint64_t offset() const { return file ? file->offset() : memory->size(); }
  void Write(std::string_view bytes) {
    if (file)
      file->Write(bytes);
    else
      memory->append(bytes);
  }

  std::optional<OutputFile> file;
  std::string* memory = nullptr;  // where there is no file
  Identity identity;
  std::unordered_set<std::string> names;
  pb::Footer footer;
};

CheckpointWriter::CheckpointWriter(const std::string& path, Kind kind, const SettingValues& settings)
    : state_(std::make_unique<State>(path, kind, settings)) {
  Begin(kind, settings);
}

CheckpointWriter::CheckpointWriter(std::string* bytes, Kind kind, const SettingValues& settings)
    : state_(std::make_unique<State>(bytes, kind, settings)) {
  Require(bytes->empty(), "the bytes to write to are not empty");
  Begin(kind, settings);
}

void CheckpointWriter::Begin(Kind kind, const SettingValues& settings) {
  const std::string start = Start(kVersion, kind, settings);
  state_->Write(start);
  state_->footer.set_header_hash(Xxh3Of(start));
}

CheckpointWriter::~CheckpointWriter() = default;

void CheckpointWriter::Add(const TensorInfo& info, std::span<const std::byte> data) {
  Require(IsTensorName(info.name), "'" + info.name + "' is no name for a tensor");
  Require(info.shape.size() <= TensorInfo::kMaxDimensions, info.name + " has too many dimensions");
  Require(data.size() == info.bytes(), "the data of " + info.name + " are not of its size");
  Require(state_->names.insert(info.name).second, info.name + " is added twice");

  std::string body = Describe(info).SerializeAsString();
  body += kDataTag;
  AppendVarint(body, data.size());
  std::string start = {kTensorTag};
  AppendVarint(start, body.size() + data.size());
  start += body;
  start.insert(0, Padding(state_->offset(), start.size()));

  Xxh3 hash;
  hash.Update(start);
  hash.Update(data);
  pb::IndexEntry* entry = state_->footer.add_index();
  entry->set_name(info.name);
  entry->set_offset(state_->offset() + start.size());
  entry->set_length(data.size());
  entry->set_hash(hash.Digest());

  state_->identity.Add(info, data);
  state_->Write(start);
  state_->Write({reinterpret_cast<const char*>(data.data()), data.size()});
}

std::string CheckpointWriter::Finish(const Counters& counters, const Lineage& lineage) {
  pb::Footer& footer = state_->footer;
  for (const auto& [name, value] : counters.all()) {
    pb::Counter* counter = footer.add_counter();
    Require(std::isfinite(value), "the counter " + name + " is not a finite number");
    counter->set_name(Text(name));
    counter->set_number(value);
  }
  if (!lineage.tool.empty()) SetLineage(lineage, 1, footer.mutable_lineage());
  footer.set_identity(state_->identity.Finish());

  const std::string body = footer.SerializeAsString();
  std::string end = {kFooterTag};
  AppendVarint(end, body.size() + kFooterTailBytes);
  end += body;
  const uint64_t hash = Xxh3Of(end);
  end += kFooterHashTag;
  AppendFixed64(end, hash);
  end += kFooterOffsetTag;
  AppendFixed64(end, state_->offset());
  state_->Write(end);
  if (state_->file) state_->file->Commit();
  return footer.identity();
}

}  // namespace fairway
