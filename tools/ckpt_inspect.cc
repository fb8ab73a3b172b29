// ckpt-inspect: says what is in a checkpoint or an artifact; takes weights to and from safetensors.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/lineage_json.h"
#include "common/checkpoint/safetensors.h"
#include "common/quantise/artifact.h"
#include "common/quantise/quantiser.h"
#include "common/tool/tool.h"

namespace fairway {
namespace {

// What ema-finalize gives a checkpoint of weights.
constexpr unsigned kWeightsScope = scope::kModel | scope::kFinalize | scope::kQuantise | scope::kEvaluate;

struct Options {
  std::string file, out, export_to;
  bool json = false, verify = false, import = false;
};

// --- what is inside

// Least and greatest value, and how many are neither: an infinity or not a number.
template <typename T>
void AddRange(const std::vector<T>& values, Json& tensor) {
  bool found = false;
  int64_t not_finite = 0;
  T low = 0, high = 0;
  for (const T value : values) {
    if (!std::isfinite(static_cast<double>(value))) {
      ++not_finite;
      continue;
    }
    low = found ? std::min(low, value) : value;
    high = found ? std::max(high, value) : value;
    found = true;
  }
  tensor["min"] = found ? Json(low) : Json();
  tensor["max"] = found ? Json(high) : Json();
  if (not_finite > 0) tensor["not_finite"] = not_finite;
}

// A copy: data in files of other programs may lie at any alignment.
template <typename T>
std::vector<T> As(std::span<const std::byte> data) {
  std::vector<T> values(data.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), data.data(), data.size());
  return values;
}

Json DescribeTensor(const CheckpointReader& checkpoint, const TensorInfo& info) {
  Json tensor = {{"name", info.name},
                 {"dtype", DTypeName(info.dtype)},
                 {"shape", info.shape},
                 {"elements", info.numel()},
                 {"bytes", info.bytes()}};
  const std::span<const std::byte> data = checkpoint.Data(info.name);
  switch (info.dtype) {
    case DType::kInt8:
      AddRange(As<int8_t>(data), tensor);
      break;
    case DType::kInt32:
      AddRange(As<int32_t>(data), tensor);
      break;
    case DType::kInt64:
      AddRange(As<int64_t>(data), tensor);
      break;
    default:
      AddRange(Widen(info.dtype, data), tensor);
  }
  if (info.quantisation) {
    tensor["grid"] = info.quantisation->grid;
    tensor["code_min"] = info.quantisation->code_min;
    tensor["code_max"] = info.quantisation->code_max;
    tensor["scale"] = info.quantisation->scale;
    if (!info.quantisation->column_scale.empty()) tensor["column_scale"] = info.quantisation->column_scale;
    if (info.quantisation->group > 0) tensor["group"] = info.quantisation->group;
    if (!info.quantisation->low_rank_left.empty()) tensor["low_rank_left"] = info.quantisation->low_rank_left;
    if (!info.quantisation->low_rank_right.empty()) tensor["low_rank_right"] = info.quantisation->low_rank_right;
    if (info.dtype == DType::kInt8) tensor["entropy_bits"] = EntropyBits(As<int8_t>(data));
  }
  return tensor;
}

Json DescribeSettings(const SettingValues& values) {
  Json settings = Json::object();
  for (const auto& [name, value] : values) settings[name] = value;
  return settings;
}

// An artifact leaves counters and lineage to FILE.lineage, which names it by its digest.
std::optional<CheckpointReader> OpenCompanion(const std::string& path) {
  const std::string companion = path + ".lineage";
  if (path == "-" || access(companion.c_str(), F_OK) != 0) return std::nullopt;
  CheckpointReader reader(companion);
  const auto& inputs = reader.lineage().inputs;
  const std::string digest = Sha256Hex(InputFile(path).bytes());
  if (std::none_of(inputs.begin(), inputs.end(), [&](const auto& input) { return input.identity == digest; }))
    throw InputError(companion, "is of another artifact than " + path);
  return reader;
}

Json Describe(const CheckpointReader& checkpoint, const Options& options, uint64_t bytes) {
  Json result = {{"file", checkpoint.path()}, {"bytes", bytes}, {"kind", KindName(checkpoint.kind())}};
  result["identity"] = checkpoint.identity();
  result["settings"] = DescribeSettings(checkpoint.settings());
  const bool silent = checkpoint.lineage().tool.empty();
  const std::optional<CheckpointReader> companion = silent ? OpenCompanion(options.file) : std::nullopt;
  const CheckpointReader& history = companion ? *companion : checkpoint;
  result["counters"] = Json::object();
  for (const auto& [name, number] : history.counters().all()) result["counters"][name] = number;
  result["lineage"] = LineageJson(history.lineage());
  result["tensors"] = Json::array();
  for (const TensorInfo& info : checkpoint.tensors()) result["tensors"].push_back(DescribeTensor(checkpoint, info));
  if (options.verify) result["verified"] = true;
  return result;
}

// --- the same as text

std::string NumberText(const Json& number) {
  return number.is_number_float() ? StringPrintf("%.6g", number.get<double>()) : number.dump();
}

void PrintLineage(const Json& lineage, const std::string& indent, std::string& out) {
  if (lineage.is_null()) return;
  out += indent + lineage["tool"].get<std::string>() + ", " + lineage["version"].get<std::string>() + "\n";
  for (const auto& [name, value] : lineage["settings"].items())
    out += indent + "  " + name + " = " + value.get<std::string>() + "\n";
  for (const Json& input : lineage["inputs"]) {
    out += indent + "  from " + input["role"].get<std::string>() + " " + input["identity"].get<std::string>() + "\n";
    PrintLineage(input["lineage"], indent + "    ", out);
  }
}

std::string TensorTable(const Json& tensors) {
  size_t width = 6;
  for (const Json& tensor : tensors) width = std::max(width, tensor["name"].get_ref<const std::string&>().size());
  std::string out = StringPrintf("  %-*s %-9s %-16s %13s %25s  %s\n", static_cast<int>(width), "tensor", "dtype",
                                 "shape", "bytes", "min .. max", "bits/code");
  for (const Json& tensor : tensors) {
    std::vector<std::string> sizes;
    for (const Json& size : tensor["shape"]) sizes.push_back(size.dump());
    std::string range = tensor["min"].is_null() ? "" : NumberText(tensor["min"]) + " .. " + NumberText(tensor["max"]);
    if (tensor.contains("not_finite")) range += " (" + tensor["not_finite"].dump() + " not finite)";
    std::string codes;
    if (tensor.contains("entropy_bits"))
      codes =
          StringPrintf("%9.3f of %s", tensor["entropy_bits"].get<double>(), tensor["grid"].get<std::string>().c_str());
    std::string line = StringPrintf(
        "  %-*s %-9s %-16s %13s %25s  %s", static_cast<int>(width), tensor["name"].get<std::string>().c_str(),
        tensor["dtype"].get<std::string>().c_str(), sizes.empty() ? "scalar" : Join(sizes, " x ").c_str(),
        WithCommas(tensor["bytes"].get<int64_t>()).c_str(), range.c_str(), codes.c_str());
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

void PrintText(const Json& description) {
  const auto& tensors = description["tensors"];
  int64_t elements = 0, bytes = 0;
  for (const Json& tensor : tensors) {
    elements += tensor["elements"].get<int64_t>();
    bytes += tensor["bytes"].get<int64_t>();
  }
  std::string out = description["file"].get<std::string>() + ": a " + description["kind"].get<std::string>() +
                    " checkpoint of " + WithCommas(description["bytes"].get<int64_t>()) + " bytes\n";
  out += "identity " + description["identity"].get<std::string>() + "\n";
  if (description.contains("verified")) out += "verified: every hash and the identity agree\n";
  const auto section = [&](const char* title, const Json& entries) {
    out += entries.empty() ? std::string(title) + ": none\n" : std::string(title) + "\n";
    for (const auto& [name, value] : entries.items())
      out += "  " + name + " = " + (value.is_string() ? value.get<std::string>() : ShortestDouble(value)) + "\n";
  };
  section("settings", description["settings"]);
  section("counters", description["counters"]);
  out += description["lineage"].is_null() ? "lineage: none\n" : "lineage\n";
  PrintLineage(description["lineage"], "  ", out);
  out += StringPrintf("tensors: %zu, %s elements, %s bytes\n", tensors.size(), WithCommas(elements).c_str(),
                      WithCommas(bytes).c_str());
  if (!tensors.empty()) out += TensorTable(tensors);
  std::fwrite(out.data(), 1, out.size(), stdout);
}

// --- safetensors

constexpr std::string_view kSettingPrefix = "setting.";

// Codes are written as weights, in float32 and under the weights' name.
Json Export(const CheckpointReader& checkpoint, const std::string& path) {
  std::vector<TensorInfo> tensors;
  std::map<std::string, const TensorInfo*> codes;  // by the name of the weights
  const std::set<std::string> parts = PartNames(checkpoint);
  std::set<std::string> names = {"", "__metadata__"};  // taken
  for (const TensorInfo& info : checkpoint.tensors()) {
    if (parts.contains(info.name)) continue;
    tensors.push_back(info);
    if (info.quantisation) {
      std::string name = info.name;
      if (name.ends_with(".q")) name.resize(name.size() - 2);
      codes[name] = &info;
      tensors.back() = {name, DType::kFloat32, info.shape, {}};
    }
    if (const std::string& name = tensors.back().name; !names.insert(name).second)
      throw InputError(checkpoint.path(), "tensor " + info.name + " cannot be exported as '" + name + "', a name that is taken");
  }
  SettingValues metadata = {{"kind", std::string(KindName(checkpoint.kind()))}, {"identity", checkpoint.identity()}};
  for (const auto& [name, value] : checkpoint.settings())
    metadata.emplace_back(std::string(kSettingPrefix) + name, value);

  std::vector<float> weights;
  WriteSafetensors(path, tensors, metadata, [&](const TensorInfo& info) -> std::span<const std::byte> {
    const auto found = codes.find(info.name);
    if (found == codes.end()) return checkpoint.Data(info.name);
    weights = Dequantise(checkpoint, *found->second);
    return std::as_bytes(std::span<const float>(weights));
  });
  return {{"tool", "ckpt-inspect"}, {"out", path}, {"tensors", tensors.size()}, {"identity", checkpoint.identity()}};
}

Json Import(const std::string& from, const std::string& to, Settings& settings) {
  const SafetensorsReader reader(from);
  SettingValues values;
  for (const auto& [name, text] : reader.metadata())
    if (name.starts_with(kSettingPrefix)) values.emplace_back(name.substr(kSettingPrefix.size()), text);
  settings.Adopt(values, reader.path());
  settings.CheckModel(reader.path());

  CheckpointWriter writer(to, Kind::kWeights, settings.Select(kWeightsScope));
  for (const TensorInfo& info : reader.tensors()) {
    if (!IsFloatingPoint(info.dtype))
      throw InputError(reader.path(), StringPrintf("tensor %s is of dtype %s; weights are floating point",
                                                   info.name.c_str(), DTypeName(info.dtype).data()));
    writer.Add(info, reader.Data(info.name));
  }
  const auto given = [&](const SettingInfo& info) { return (info.scopes & scope::kModel) && settings.origin(info.name) != Origin::kDefault; };
  if (std::ranges::none_of(SettingTable(), given))
    throw InputError(reader.path(), "does not say of what model it is: its metadata have no setting.NAME; --profile FILE, or settings such as "
                                    "--num-layers, say so");
  Lineage lineage = OpenLineage("ckpt-inspect", Version(), SourceDigest(), settings, kWeightsScope);
  lineage.inputs.push_back({"safetensors file", reader.digest(), {}});
  const std::string identity = writer.Finish({}, lineage);
  return {{"tool", "ckpt-inspect"}, {"out", to}, {"tensors", reader.tensors().size()}, {"identity", identity}};
}

int Main(int argc, char** argv) {
  Options options;
  Settings settings;
  CommandLine line(
      "ckpt-inspect",
      "Prints what is in a checkpoint or an artifact: settings, counters, lineage back to the corpus, and a table of "
      "its tensors. With --export or --import it takes weights to or from a safetensors file instead.",
      "ckpt-inspect --verify model.bin.zst\n"
      "  ckpt-inspect model.bin.zst --export weights.safetensors\n"
      "  ckpt-inspect --import weights.safetensors imported.ckpt");
  line.Input("FILE", options.file, "checkpoint or artifact (with --import: safetensors file); - is standard input");
  line.Output("OUT", options.out, "with --import: checkpoint of weights to write; - is standard output");
  line.Optional();
  line.Flag("--json", options.json, "print one JSON line instead of text");
  line.Flag("--verify", options.verify, "check every hash and compute the identity anew");
  line.OutputOption(
      "--export", options.export_to,
      "write the tensors to this safetensors file; codes as the float32 weights that they represent. Kind, "
      "identity and settings (as setting.NAME) go into its metadata");
  line.Flag(
      "--import", options.import,
      "read a safetensors file and write OUT. Settings come from the command line, the environment, --profile and the "
      "metadata setting.NAME; other metadata is ignored");
  line.Use(settings, kWeightsScope);

  return RunTool(line, argc, argv, [&]() -> Json {
    if (options.import) {
      if (options.out.empty()) throw UsageError("--import needs OUT (see --help)");
      if (options.json || options.verify || !options.export_to.empty())
        throw UsageError("--import goes with neither --json, --verify nor --export");
      return Import(options.file, options.out, settings);
    }
    if (!options.out.empty()) throw UsageError("OUT is for --import alone (see --help)");

    InputFile file(options.file);
    const uint64_t bytes = file.bytes().size();
    const CheckpointReader checkpoint = OpenWeights(std::move(file));
    if (options.verify) checkpoint.Verify();
    if (!options.export_to.empty()) return Export(checkpoint, options.export_to);
    const Json description = Describe(checkpoint, options, bytes);
    if (options.json) return description;
    PrintText(description);
    return nullptr;
  });
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) {
  return fairway::Main(argc, argv);
}
