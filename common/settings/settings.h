// The settings of the whole chain: one struct, one table, three spellings.
//
// Every setting of settings.def has one name: `num_layers` in a profile, NUM_LAYERS in the environment and --num-layers on
// the command line. Command line beats environment beats profile beats what a checkpoint says beats the default.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fairway {

// Which stages use a setting (bits). kRun: how a run is carried out, not what it computes; no part of an identity.
namespace scope {
inline constexpr unsigned kModel = 1, kTrain = 2, kFinalize = 4, kQuantise = 8, kEvaluate = 16, kData = 32, kRun = 64, kPack = 128;
inline constexpr unsigned kAll = 255;
// Since which version of a checkpoint's settings a setting exists: 1, unless its scopes say otherwise.
inline constexpr unsigned kSinceShift = 16;
constexpr unsigned Since(unsigned version) { return version << kSinceShift; }
}  // namespace scope

// Where a value came from, weakest first.
enum class Origin { kDefault, kCheckpoint, kProfile, kEnvironment, kCommandLine };
std::string_view OriginName(Origin origin);

enum class SettingType { kInteger, kNumber, kSwitch, kText };

struct SettingInfo {
  std::string_view name;
  SettingType type;
  double low, high;          // of numbers
  std::string_view choices;  // of texts: "a|b", or empty for any
  unsigned scopes;
  std::string_view help;
  std::string Flag() const;         // --num-layers
  std::string Environment() const;  // NUM_LAYERS
  std::string_view title() const;   // what a record's title calls it, a % for its value; empty: nothing
  unsigned since() const { return (scopes >> scope::kSinceShift) != 0 ? scopes >> scope::kSinceShift : 1; }
};

// The table, in the order of settings.def.
std::span<const SettingInfo> SettingTable();

// Name and value in the canonical text form (integers plain, numbers shortest, switches 0 or 1).
using SettingValues = std::vector<std::pair<std::string, std::string>>;

// Settings that a checkpoint holds, in today's spelling: renamed settings and choices by their new names.
SettingValues CurrentSpelling(SettingValues values);

struct Settings {
#define INTEGER(name, value, low, high, scopes, help) int64_t name = value;
#define NUMBER(name, value, low, high, scopes, help) double name = value;
#define SWITCH(name, value, scopes, help) bool name = value;
#define TEXT(name, value, choices, scopes, help) std::string name = value;
#include "common/settings/settings.def"
#undef INTEGER
#undef NUMBER
#undef SWITCH
#undef TEXT

  Settings();

  // Sets one value from its text; a value of stronger origin that is already there stays. `where` is what an error names
  // ("--seed", "SEED", "x.profile:3"). Throws UsageError, or InputError for a profile: unknown name, not a number, out of range.
  void Set(std::string_view name, std::string_view text, Origin origin, const std::string& where);
  std::string Get(std::string_view name) const;
  Origin origin(std::string_view name) const;

  // `profile` is a path or the name of a file pipelines/NAME.profile beside the program's build. Lines `name = value`, `#`
  // starts a comment. Relative paths in it (data_path, tokenizer_path, byte_table) are relative to the profile's folder.
  void LoadProfile(const std::string& profile);
  // Every setting whose upper-case name is in the environment, or the name that pull request 1855 has for it. UsageError where that
  // pull request's environment switches on what is not here.
  void LoadEnvironment();

  // Takes the settings of a checkpoint read from `path`. Of the model's shape a differing explicit value is refused by name
  // (InputError); of other settings the explicit value stays. Settings of the model that came after the file's version are at
  // their defaults in it. Names that this version does not know are an InputError, as are
  // settings that only say how a run is carried out.
  void Adopt(const SettingValues& values, const std::string& path);

  // The values of settings used by any of `stages` (kRun ones left out unless asked for), in table order.
  SettingValues Select(unsigned stages, bool with_run = false) const;
  // Of those, the ones that differ from their defaults: for lineage.
  SettingValues NonDefault(unsigned stages) const;

  // What evaluation takes: eval_seq_len, where it is given, as train_seq_len, for its windows; the residual stream in float32.
  Settings ForEvaluation() const;

  // `threads`, or UsableProcessors() where it is 0, within OMP_THREAD_LIMIT: of everything that a program does
  // once it knows its settings (a packed artifact, which has some of them, is unpacked by all).
  int ThreadCount() const;

  // UsageError where memory_limit is no number of bytes, or less than the `bytes` that a program estimates it will take.
  void CheckMemory(double bytes) const;

  // Checks what concerns several settings at once: heads divide the width and each other, head size even, the batch is a
  // whole number of sequences in each micro-step. Throws UsageError naming the settings.
  void CheckModel() const;
  // The same of a model that a file describes: InputError naming it.
  void CheckModel(const std::string& path) const;
  void CheckTraining(int64_t world_size) const;
  // UsageError where training on a GPU, or on the CPU, does not do what is set.
  void CheckTrainingDevice(bool gpu) const;

 private:
  std::vector<Origin> origins_;
};

}  // namespace fairway
