// A profile; and its lines taken for the settings of a checkpoint.
#include "common/settings/settings.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

namespace {

void Use(const Settings& settings) {
  for (int64_t world : {1, 8}) {
    try {
      settings.CheckTraining(world);
    } catch (const UsageError&) {
    }
  }
  settings.NonDefault(scope::kAll);
  for (const auto& [name, value] : settings.Select(scope::kAll))
    fuzz::Require(IsPrintable(value), "a value that no checkpoint could hold");
}

}  // namespace

FUZZ(input) {
  static fuzz::MemoryFile file;
  fuzz::Takes([&] {
    Settings settings;
    settings.LoadProfile(file.With(input));
    Use(settings);
  });
  SettingValues values;
  for (const std::string& line : Split(input, '\n')) {
    const size_t equals = line.find('=');
    if (equals != std::string::npos) values.emplace_back(Trim(line.substr(0, equals)), Trim(line.substr(equals + 1)));
  }
  fuzz::Takes([&] {
    Settings settings;
    settings.Adopt(values, "checkpoint");
    Use(settings);
    Settings again;
    again.Adopt(settings.Select(scope::kAll), "again");
    fuzz::Require(again.Select(scope::kAll) == settings.Select(scope::kAll), "settings that do not survive their text");
  });
}
