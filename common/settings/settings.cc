#include "common/settings/settings.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <variant>

#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/number.h"
#include "common/base/text.h"
#include "common/base/threads.h"

namespace fairway {
namespace {

constexpr unsigned M = scope::kModel, T = scope::kTrain, F = scope::kFinalize, Q = scope::kQuantise, P = scope::kPack, E = scope::kEvaluate,
                   D = scope::kData, R = scope::kRun, V2 = scope::Since(2), V3 = scope::Since(3), V4 = scope::Since(4);

constexpr SettingInfo kTable[] = {
#define INTEGER(name, value, low, high, scopes, help) {#name, SettingType::kInteger, double(low), double(high), "", scopes, help},
#define NUMBER(name, value, low, high, scopes, help) {#name, SettingType::kNumber, low, high, "", scopes, help},
#define SWITCH(name, value, scopes, help) {#name, SettingType::kSwitch, 0, 1, "", scopes, help},
#define TEXT(name, value, choices, scopes, help) {#name, SettingType::kText, 0, 0, choices, scopes, help},
#include "common/settings/settings.def"
#undef INTEGER
#undef NUMBER
#undef SWITCH
#undef TEXT
};

// Where each setting lives in the struct, in table order.
using Member = std::variant<int64_t Settings::*, double Settings::*, bool Settings::*, std::string Settings::*>;
const Member kMembers[] = {
#define INTEGER(name, ...) &Settings::name,
#define NUMBER(name, ...) &Settings::name,
#define SWITCH(name, ...) &Settings::name,
#define TEXT(name, ...) &Settings::name,
#include "common/settings/settings.def"
#undef INTEGER
#undef NUMBER
#undef SWITCH
#undef TEXT
};

struct SettingTitle {
  std::string_view name, title;
};
constexpr SettingTitle kTitles[] = {
#define INTEGER(name, ...)
#define NUMBER(name, ...)
#define SWITCH(name, ...)
#define TEXT(name, ...)
#define TITLE(name, title) {#name, title},
#include "common/settings/settings.def"
#undef INTEGER
#undef NUMBER
#undef SWITCH
#undef TEXT
};

constexpr size_t kCount = std::size(kTable);

size_t IndexOf(std::string_view name) {
  return std::find_if(kTable, kTable + kCount, [&](const SettingInfo& info) { return info.name == name; }) - kTable;
}

std::string Text(int64_t value) { return std::to_string(value); }
std::string Text(double value) { return ShortestDouble(value); }
std::string Text(bool value) { return value ? "1" : "0"; }
std::string Text(const std::string& value) { return value; }

std::string TextOf(const Settings& settings, size_t index) {
  return std::visit([&](auto member) { return Text(settings.*member); }, kMembers[index]);
}

// Each returns what is wrong with `text`, or nothing after setting `value`.
std::string RangeError(const SettingInfo& info, double value) {
  if (value >= info.low && value <= info.high) return "";
  if (info.high >= 9.2e18) return StringPrintf("must be at least %s", ShortestDouble(info.low).c_str());
  return StringPrintf("must be between %s and %s", ShortestDouble(info.low).c_str(), ShortestDouble(info.high).c_str());
}
std::string Parse(const SettingInfo& info, std::string_view text, int64_t& value) {
  int64_t parsed;
  if (!ParseInt(text, &parsed)) return NotAnInteger(text);
  value = parsed;
  return RangeError(info, static_cast<double>(parsed));
}
std::string Parse(const SettingInfo& info, std::string_view text, double& value) {
  double parsed;
  if (!ParseDouble(text, &parsed)) return "is not a number";
  value = parsed;
  return RangeError(info, parsed);
}
std::string Parse(const SettingInfo&, std::string_view text, bool& value) {
  if (text != "0" && text != "1") return "must be 0 or 1";
  value = text == "1";
  return "";
}
std::string Parse(const SettingInfo& info, std::string_view text, std::string& value) {
  // What goes into checkpoints must be fit for them; paths are the file system's matter.
  if (!(info.scopes & scope::kRun) && !IsPrintable(text)) return "holds what is not printable";
  const auto choices = Split(info.choices, '|');
  if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end())
    return "must be one of " + Join(choices, ", ");
  value = text;
  return "";
}

const Settings& Defaults() {
  static const Settings defaults;
  return defaults;
}

// Of a text that is refused, in the message.
constexpr size_t kMaxQuoted = 200;

// Names and values as checkpoints wrote them before they were renamed.
struct Renamed {
  std::string_view name, before;
};
constexpr Renamed kRenamedSettings[] = {
    {"published_quirks", "compat"},
    {"gptq_damping", "hessian_damping"},
    {"gptq_order", "hessian_order"},
    {"ln_scale", "layer_scale"},
    {"ttt_chunk_tokens", "adapt_chunk_tokens"},
    {"ttt_steps", "adapt_steps"},
    {"ttt_lr", "adapt_lr"},
    {"ttt_momentum", "adapt_momentum"},
};
struct RenamedChoice {
  std::string_view setting, choice, before;
};
constexpr RenamedChoice kRenamedChoices[] = {
    {"quantiser", "rtn", "lite"},      {"quantiser", "gptq", "hessian"}, {"method", "sliding", "windows"},
    {"method", "kv_cache", "cached"}, {"method", "ttt", "adapt"},
};

// Names that openai/parameter-golf pull request 1855 has in the environment for what has another name here.
constexpr std::pair<std::string_view, std::string_view> kOtherEnvironmentNames[] = {{"MUON_WD", "muon_weight_decay"},
                                                                                    {"VAL_BATCH_TOKENS", "val_batch_size"}};
// What that pull request also has in the environment and this program does not, and the value at which it does nothing.
constexpr std::pair<const char*, double> kNotHere[] = {{"ATTN_OUT_GATE_ENABLED", 0}, {"GATED_ATTN_ENABLED", 0}, {"ROPE_YARN", 0},
                                                       {"SPARSE_ATTN_GATE_INIT_STD", 0}};

constexpr std::string_view kPathSettings[] = {"data_path", "tokenizer_path", "byte_table"};

}  // namespace

std::string_view OriginName(Origin origin) {
  constexpr std::string_view kNames[] = {"default", "checkpoint", "profile", "environment", "command line"};
  return kNames[static_cast<size_t>(origin)];
}

std::string SettingInfo::Flag() const {
  std::string flag = "--" + std::string(name);
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::string SettingInfo::Environment() const {
  std::string upper(name);
  for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return upper;
}

std::string_view SettingInfo::title() const {
  for (const SettingTitle& own : kTitles)
    if (own.name == name) return own.title;
  return {};
}

std::span<const SettingInfo> SettingTable() { return kTable; }

Settings::Settings() : origins_(kCount, Origin::kDefault) {}

void Settings::Set(std::string_view name, std::string_view text, Origin origin, const std::string& where) {
  const auto fail = [&](const std::string& cause) {
    if (origin == Origin::kProfile || origin == Origin::kCheckpoint) throw InputError(where, cause);
    throw UsageError(where + ": " + cause);
  };
  const size_t index = IndexOf(name);
  if (index == kCount) {
    for (const Renamed& renamed : kRenamedSettings)
      if (renamed.before == name) fail("'" + std::string(name) + "' is now named '" + std::string(renamed.name) + "'");
    fail("unknown setting '" + Shorten(name, kMaxQuoted) + "'");
  }
  // Checked even where a stronger value is set already: a mistake in a profile is a mistake.
  Settings parsed;
  std::string cause = std::visit([&](auto member) { return Parse(kTable[index], text, parsed.*member); }, kMembers[index]);
  for (const RenamedChoice& renamed : kRenamedChoices)
    if (renamed.setting == name && renamed.before == text) cause = "is now named '" + std::string(renamed.choice) + "'";
  if (!cause.empty()) fail(std::string(name) + " = '" + Shorten(text, kMaxQuoted) + "' " + cause);
  if (origin < origins_[index]) return;
  std::visit([&](auto member) { this->*member = parsed.*member; }, kMembers[index]);
  origins_[index] = origin;
}

std::string Settings::Get(std::string_view name) const { return TextOf(*this, IndexOf(name)); }
Origin Settings::origin(std::string_view name) const { return origins_[IndexOf(name)]; }

void Settings::LoadProfile(const std::string& profile) {
  namespace fs = std::filesystem;
  std::string path = profile;
  // A folder does not hide a profile: runs are kept in folders that have the profile's name.
  if (profile.find('/') == std::string::npos && (!fs::exists(profile) || fs::is_directory(profile))) {
    const auto in = [&](const char* folder) { return fs::path(ProgramDirectory() + folder + profile + ".profile").lexically_normal(); };
    const std::string installed = in("/../share/fairway/pipelines/"), named = fs::exists(installed) ? installed : in("/../../pipelines/").string();
    if (fs::exists(named)) {
      path = named;
    } else if (!fs::exists(profile)) {
      throw IoError(profile, "no such profile (neither a file nor " + named + ")");
    }
  }
  const InputFile file(path);
  std::string_view rest = file.text();
  if (constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF"; rest.starts_with(kByteOrderMark)) rest.remove_prefix(kByteOrderMark.size());
  for (int line = 1; !rest.empty(); ++line) {
    const size_t end = rest.find('\n');
    const std::string text = Trim(rest.substr(0, end).substr(0, rest.substr(0, end).find('#')));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (text.empty()) continue;
    const std::string where = path + ":" + std::to_string(line);
    const size_t equals = text.find('=');
    if (equals == std::string::npos) throw InputError(where, "'" + Shorten(text, kMaxQuoted) + "' is not of the form name = value");
    const std::string name = Trim(text.substr(0, equals));
    std::string value = Trim(text.substr(equals + 1));
    const bool is_path = std::find(std::begin(kPathSettings), std::end(kPathSettings), name) != std::end(kPathSettings);
    if (is_path && !value.empty() && value.front() != '/')
      value = fs::path(DirectoryOf(path) + "/" + value).lexically_normal();
    Set(name, value, Origin::kProfile, where);
  }
}

void Settings::LoadEnvironment() {
  for (const SettingInfo& info : kTable) {
    const std::string name = info.Environment();
    if (const char* value = std::getenv(name.c_str())) Set(info.name, value, Origin::kEnvironment, "environment " + name);
  }
  for (const auto& [other, name] : kOtherEnvironmentNames) {
    const char* const value = std::getenv(other.data());
    if (value == nullptr) continue;
    const std::string own = kTable[IndexOf(name)].Environment(), where = "environment " + std::string(other);
    if (const char* const named = std::getenv(own.c_str()); named != nullptr && std::string_view(named) != value)
      throw UsageError(StringPrintf("environment %s = '%s' and %s = '%s' are two values of one setting", own.c_str(), named, other.data(), value));
    Set(name, value, Origin::kEnvironment, where);
  }
  for (const auto& [name, off] : kNotHere) {
    const char* const value = std::getenv(name);
    double number;
    if (value != nullptr && (!ParseDouble(value, &number) || number != off))
      throw UsageError(StringPrintf("environment %s = '%s': this program does not have what it switches on; unset it", name, value));
  }
}

void Settings::Adopt(const SettingValues& file_values, const std::string& path) {
  SettingValues values = CurrentSpelling(file_values);
  const auto names = [&](std::string_view name) {
    return std::any_of(values.begin(), values.end(), [&](const auto& value) { return value.first == name; });
  };
  if (names("num_layers")) {
    // Rotated dimensions were paired across the whole head before the settings of version 3.
    for (const auto& [name, value] : values)
      if (name == "rope_dims" && value != "0" && !names("num_loops"))
        throw InputError(path, "rope_dims = " + value + " means other dimensions since this file was written; train the model again");
    for (const SettingInfo& info : kTable)
      if ((info.scopes & scope::kModel) && info.since() > 1 && !names(info.name)) values.emplace_back(info.name, Defaults().Get(info.name));
  }
  for (const auto& [name, value] : values) {
    Settings there;  // in its own spelling a value may differ that is the same: 3.0 and 3
    there.Set(name, value, Origin::kCheckpoint, path);
    const size_t index = IndexOf(name);
    // Where files lie and how many threads run is not for a file from elsewhere to say.
    if (kTable[index].scopes & scope::kRun)
      throw InputError(path, "sets " + name + ", which says how a run is carried out and is no part of a checkpoint");
    const bool explicitly_set = origins_[index] > Origin::kCheckpoint;
    if (explicitly_set && (kTable[index].scopes & scope::kModel) && Get(name) != there.Get(name))
      throw InputError(path, StringPrintf("is of another model: %s is %s there and %s by %s", name.c_str(), value.c_str(),
                                          Get(name).c_str(), OriginName(origins_[index]).data()));
    Set(name, value, Origin::kCheckpoint, path);
  }
}

SettingValues CurrentSpelling(SettingValues values) {
  for (auto& [name, value] : values) {
    for (const Renamed& renamed : kRenamedSettings)
      if (renamed.before == name) name = renamed.name;
    for (const RenamedChoice& renamed : kRenamedChoices)
      if (renamed.setting == name && renamed.before == value) value = renamed.choice;
  }
  return values;
}

SettingValues Settings::Select(unsigned stages, bool with_run) const {
  SettingValues values;
  for (size_t i = 0; i < kCount; ++i) {
    const bool run = kTable[i].scopes & scope::kRun;
    if ((kTable[i].scopes & stages & ~scope::kRun) && (with_run || !run))
      values.emplace_back(kTable[i].name, TextOf(*this, i));
  }
  return values;
}

SettingValues Settings::NonDefault(unsigned stages) const {
  SettingValues values = Select(stages);
  std::erase_if(values, [](const auto& value) { return value.second == Defaults().Get(value.first); });
  return values;
}

Settings Settings::ForEvaluation() const {
  Settings settings = *this;
  if (eval_seq_len > 0) settings.train_seq_len = eval_seq_len;
  settings.residual_precision = "float32";
  return settings;
}

int Settings::ThreadCount() const { return ThreadsFor(threads); }

void Settings::CheckMemory(double bytes) const {
  if (memory_limit.empty()) return;
  int64_t limit;
  if (!ParseBytes(memory_limit, &limit))
    throw UsageError("memory_limit = '" + Shorten(memory_limit, kMaxQuoted) + "' is no number of bytes such as 800M or 4G");
  if (bytes > static_cast<double>(limit))
    throw UsageError(StringPrintf("memory_limit = %s: about %.2f GB would be taken", memory_limit.c_str(), bytes / 1e9));
}

void Settings::CheckModel() const {
  const auto require = [](bool holds, const std::string& cause) {
    if (!holds) throw UsageError(cause);
  };
  require(model_dim % num_heads == 0, StringPrintf("num_heads = %jd does not divide model_dim = %jd", num_heads, model_dim));
  require(num_heads % num_kv_heads == 0,
          StringPrintf("num_kv_heads = %jd does not divide num_heads = %jd", num_kv_heads, num_heads));
  require(model_dim / num_heads % 2 == 0,
          StringPrintf("the head size model_dim / num_heads = %jd is odd; rotary embedding needs pairs", model_dim / num_heads));
  require(rope_dims % 2 == 0, StringPrintf("rope_dims = %jd is odd; rotary embedding needs pairs", rope_dims));
  require(rope_dims <= model_dim / num_heads, StringPrintf("rope_dims = %jd is more than the head size model_dim / num_heads = %jd",
                                                           rope_dims, model_dim / num_heads));
  require(static_cast<int64_t>(mlp_mult * model_dim) >= 1,
          StringPrintf("mlp_mult = %s leaves no hidden units", ShortestDouble(mlp_mult).c_str()));
  require(bigram_vocab_size != 1, "bigram_vocab_size = 1 leaves no row for a bigram: at least 2, or 0 for none");
  require(num_loops == 0 || (loop_start <= loop_end && loop_end < num_layers),
          StringPrintf("loop_start = %jd and loop_end = %jd are no segment of num_layers = %jd layers", loop_start, loop_end, num_layers));
  require(parallel_start_layer < num_layers || parallel_start_layer == 0,
          StringPrintf("parallel_start_layer = %jd is no layer: num_layers = %jd", parallel_start_layer, num_layers));
  require(!(smear && smear_gate_enabled), "smear and smear_gate_enabled are two ways to mix in the token before: switch one off");
  require(!(smear_gate_enabled && bigram_vocab_size > 0),
          "smear_gate_enabled mixes token embeddings alone: it needs bigram_vocab_size = 0");
  // What #531's smear and hashed bigram see before a segment of a packed row was never defined: that entry has no packed rows.
  require(!(packed_documents && smear), "packed_documents and smear do not go together: set smear = 0 (smear_gate_enabled sees documents)");
  require(!(packed_documents && bigram_vocab_size > 0),
          "packed_documents and the hashed bigram do not go together: set bigram_vocab_size = 0 or packed_documents = 0");
  require(!(smear_gate_enabled || sparse_attn_gate_enabled) || gate_window <= model_dim,
          StringPrintf("gate_window = %jd is more than model_dim = %jd", gate_window, model_dim));
  require(value_embed_every <= num_layers,
          StringPrintf("value_embed_every = %jd is more than num_layers = %jd: no layer would have one", value_embed_every, num_layers));
  require(xsa_last_n <= num_layers, StringPrintf("xsa_last_n = %jd is more than num_layers = %jd", xsa_last_n, num_layers));
}

void Settings::CheckModel(const std::string& path) const {
  try {
    CheckModel();
  } catch (const UsageError& error) {
    throw InputError(path, error.what());
  }
}

void Settings::CheckTraining(int64_t world_size) const {
  CheckModel();
  const auto require = [](bool holds, const std::string& cause) {
    if (!holds) throw UsageError(cause);
  };
  require(grad_micro_steps % world_size == 0,
          StringPrintf("WORLD_SIZE = %jd does not divide grad_micro_steps = %jd", world_size, grad_micro_steps));
  require(select_tokens == 0 || select_tokens > train_seq_len,
          StringPrintf("select_tokens = %jd holds no sequence of train_seq_len = %jd and its last target", select_tokens, train_seq_len));
  // Divided by 1 - beta^t, and an average that never moves.
  for (const char* beta : {"beta1", "beta2"}) require(Get(beta) != "1", StringPrintf("%s = 1 divides by zero; it must be less than 1", beta));
  require(adam_eps > 0, "adam_eps = 0 divides by zero where a weight has no gradient; it must be more than 0");
  require(!ema_enabled || ema_decay < 1, "ema_decay = 1 keeps the weights of the first step: set it below 1, or ema_enabled = 0");
  require(max_wallclock_seconds <= 0 || gptq_reserve_seconds < max_wallclock_seconds,
          StringPrintf("gptq_reserve_seconds = %s leaves nothing of max_wallclock_seconds = %s to train in",
                       ShortestDouble(gptq_reserve_seconds).c_str(), ShortestDouble(max_wallclock_seconds).c_str()));
  require(quantiser != "gptq_sdclip" || late_qat_threshold <= 0,
          StringPrintf("late_qat_threshold = %s: there is no late QAT on the grid of quantiser = gptq_sdclip; set it to 0",
                       ShortestDouble(late_qat_threshold).c_str()));
  require(!packed_documents || data_order == "sequential",
          "data_order = shuffled has no meaning with packed_documents = 1, whose rows are read one after another; set one of them back");
  require(!packed_documents || train_batch_tokens % grad_micro_steps == 0, StringPrintf("train_batch_tokens = %jd is not a multiple of grad_micro_steps = %jd",
                                                                   train_batch_tokens, grad_micro_steps));
  require(packed_documents || train_batch_tokens % (grad_micro_steps * train_seq_len) == 0,
          StringPrintf("train_batch_tokens = %jd is not a multiple of grad_micro_steps * train_seq_len = %jd * %jd",
                       train_batch_tokens, grad_micro_steps, train_seq_len));
  const bool narrow = residual_precision != "float32";
  require(!narrow || precision == residual_precision, "residual_precision = " + residual_precision + " with precision = " + precision +
                                                          ": the stream would be coarser than the products that it is made of; set it to float32");
  require(!narrow || !published_quirks, "residual_precision = " + residual_precision +
                                            ": what published_quirks = 1 is compared with, number by number, has a float32 stream; set it to float32");
}

void Settings::CheckTrainingDevice(bool gpu) const {
  if (!gpu && residual_precision != "float32")
    throw UsageError("residual_precision = " + residual_precision +
                     " is for training on a GPU, and this is on the CPU: set residual_precision = float32");
}

}  // namespace fairway
