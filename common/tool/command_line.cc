// The only file that sees CLI11: it takes five seconds to compile.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <iostream>

#include "common/base/error.h"
#include "common/base/hardware.h"
#include "common/base/launch.h"
#include "common/base/log.h"
#include "common/base/number.h"
#include "common/base/text.h"
#include "common/tool/command_line_impl.h"

namespace fairway {
namespace {

constexpr char kExitStatuses[] =
    "exit status: 0 done, 1 internal error, 2 usage, 3 input/output, 4 bad or incompatible input,\n"
    "             5 a gate failed (over budget, score too low), 128+n ended by signal n";

constexpr char kSettings[] = "settings (also as NAME in the environment, name = value in a profile)";
constexpr char kInheritedSettings[] =
    "settings (also as NAME in the environment, name = value in a profile; what is given nowhere is as the input file states it, else [the default])";

// What CLI11 would not see. A switch may stand alone: `--published-quirks IN` is `--published-quirks=1 IN`, `--published-quirks 0
// IN` is `--published-quirks=0 IN`. A value may be empty: `--byte-table=` is `--byte-table ''`.
std::vector<std::string> WithPlainValues(int argc, char** argv) {
  std::vector<std::string> words;
  for (int i = 1; i < argc; ++i) {
    words.emplace_back(argv[i]);
    if (words.back().starts_with("--") && words.back().find('=') == words.back().size() - 1) {
      words.back().pop_back();
      words.emplace_back();
      continue;
    }
    const auto is_switch = [&](const SettingInfo& info) { return info.type == SettingType::kSwitch && words.back() == info.Flag(); };
    if (std::none_of(SettingTable().begin(), SettingTable().end(), is_switch)) continue;
    const std::string next = i + 1 < argc ? argv[i + 1] : "";
    const bool valued = next == "0" || next == "1";
    words.back() += valued ? "=" + next : "=1";
    i += valued;
  }
  return words;
}

}  // namespace

struct CommandLine::Impl::Parser {
  CLI::App app;
  CLI::Option* last = nullptr;
  std::vector<std::pair<CLI::Option*, std::string*>> outputs;
  Settings* settings = nullptr;
  unsigned stages = 0;
  std::string profile, log;
  bool print_settings = false;
  const std::string* input = nullptr;  // whose settings are taken where none are given
  std::function<SettingValues(const std::string&)> read_input;
};

CommandLine::CommandLine(std::string name, std::string purpose, std::string example) : impl_(std::make_unique<Impl>()) {
  impl_->name = std::move(name);
  impl_->parser = std::make_unique<Impl::Parser>();
  CLI::App& app = impl_->parser->app;
  app.name(impl_->name);
  app.description(purpose);
  app.footer(std::string(kExitStatuses) + "\n\nexample:\n  " + example);
  app.set_version_flag("--version", [this] {
    const std::string gpus = BuiltWithCuda() ? StringPrintf(", GPUs here: %d", GpuCount()) : "";
    return impl_->name + " " + Version() + gpus;
  });
  app.set_help_flag("--help", "print this and exit");
  app.get_formatter()->column_width(34);
}

CommandLine::~CommandLine() = default;

void CommandLine::Input(const std::string& name, std::string& path, const std::string& help) {
  impl_->parser->last = impl_->parser->app.add_option(name, path, help)->required()->type_name("FILE");
}

void CommandLine::Inputs(const std::string& name, std::vector<std::string>& paths, const std::string& help) {
  impl_->parser->last = impl_->parser->app.add_option(name, paths, help)->required()->type_name("FILE");
}

void CommandLine::Output(const std::string& name, std::string& path, const std::string& help) {
  Input(name, path, help);
  impl_->parser->outputs.emplace_back(impl_->parser->last, &path);
}

void CommandLine::OutputOption(const std::string& flag, std::string& path, const std::string& help) {
  Option(flag, path, help);
  impl_->parser->last->type_name("FILE");
  impl_->parser->outputs.emplace_back(impl_->parser->last, &path);
}

void CommandLine::Option(const std::string& flag, std::string& value, const std::string& help) {
  impl_->parser->last = impl_->parser->app.add_option(flag, value, help)->take_last()->type_name("TEXT");
}

void CommandLine::Option(const std::string& flag, std::vector<std::string>& values, const std::string& help) {
  const auto add = [&values](const std::string& text) { values.push_back(text); };
  impl_->parser->last = impl_->parser->app.add_option_function<std::string>(flag, add, help)->trigger_on_parse()->type_name("TEXT");
}

void CommandLine::Option(const std::string& flag, int64_t& value, int64_t low, int64_t high, const std::string& help) {
  const auto set = [=, &value](const std::string& text) {
    if (!ParseInt(text, &value)) throw UsageError(flag + " = '" + text + "' " + NotAnInteger(text));
    if (value >= low && value <= high) return;
    throw UsageError(flag + " = '" + text + "' must be " +
                     (high == INT64_MAX ? StringPrintf("at least %jd", low) : StringPrintf("between %jd and %jd", low, high)));
  };
  impl_->parser->last = impl_->parser->app.add_option_function<std::string>(flag, set, help)->trigger_on_parse()->type_name("N");
}

void CommandLine::Option(const std::string& flag, double& value, double low, double high, const std::string& help) {
  const auto set = [=, &value](const std::string& text) {
    if (!ParseDouble(text, &value)) throw UsageError(flag + " = '" + text + "' is not a number");
    if (value < low || value > high)
      throw UsageError(flag + " = '" + text + "' must be between " + ShortestDouble(low) + " and " + ShortestDouble(high));
  };
  impl_->parser->last = impl_->parser->app.add_option_function<std::string>(flag, set, help)->trigger_on_parse()->type_name("X");
}

void CommandLine::Flag(const std::string& flag, bool& value, const std::string& help) {
  impl_->parser->last = impl_->parser->app.add_flag(flag, value, help);
}

void CommandLine::Required(const std::string& flag) { impl_->parser->app.get_option(flag)->required(); }
void CommandLine::Optional() { impl_->parser->last->required(false); }

void CommandLine::Use(Settings& settings, unsigned stages) {
  Impl::Parser& parser = *impl_->parser;
  parser.settings = &settings;
  parser.stages = stages;
  parser.app.add_option("--profile", parser.profile, "settings from this file, or from pipelines/NAME.profile")->type_name("FILE|NAME");
  parser.app.add_option("--log", parser.log, "append the log to this file too")->type_name("FILE");
  parser.app.add_flag("--print-settings", parser.print_settings, "print each setting with where it came from, and exit");
  const Settings defaults;
  for (const SettingInfo& info : SettingTable()) {
    const auto set = [&settings, &info](const std::string& text) {
      settings.Set(info.name, text, Origin::kCommandLine, info.Flag());
    };
    std::string help = std::string(info.help);
    if (!info.choices.empty()) help += " (" + std::string(info.choices) + ")";
    if (const std::string value = defaults.Get(info.name); !value.empty()) help += " [" + value + "]";
    const bool used = info.scopes & stages & ~scope::kRun;
    parser.app.add_option_function<std::string>(info.Flag(), set, help)
        ->type_name("")
        ->trigger_on_parse()
        ->group(used ? kSettings : "");
  }
}

void CommandLine::Inherit(const std::string& path, std::function<SettingValues(const std::string&)> read) {
  impl_->parser->input = &path;
  impl_->parser->read_input = std::move(read);
  for (CLI::Option* option : impl_->parser->app.get_options())
    if (option->get_group() == kSettings) option->group(kInheritedSettings);
}

void CommandLine::Ranks() { impl_->ranks = true; }

bool CommandLine::Impl::Parse(int argc, char** argv) {
  CLI::App& app = parser->app;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--print-settings") != 0) continue;
    // Nothing will be read or written, so nothing is required.
    for (CLI::Option* option : app.get_options()) option->required(false);
  }
  try {
    std::vector<std::string> words = WithPlainValues(argc, argv);
    std::reverse(words.begin(), words.end());  // the order in which CLI11 takes a vector
    app.parse(words);
  } catch (const CLI::Success& success) {  // --help, --version
    app.exit(success);
    return false;
  } catch (const CLI::ParseError& error) {
    // A word that nothing takes explains more than what is then missing.
    if (const auto extras = app.remaining(); !extras.empty()) throw UsageError("unexpected: " + Join(extras, " ") + " (see --help)");
    throw UsageError(std::string(error.what()) + " (see --help)");
  }
  if (parser->settings == nullptr) return true;
  Settings& settings = *parser->settings;
  if (!parser->profile.empty()) settings.LoadProfile(parser->profile);
  settings.LoadEnvironment();
  if (parser->print_settings) {
    const bool inherits = parser->input != nullptr, known = inherits && !parser->input->empty() && *parser->input != "-";
    if (known) settings.Adopt(parser->read_input(*parser->input), *parser->input);
    const SettingValues of_run = settings.Select(parser->stages, /*with_run=*/true), inherited = settings.Select(parser->stages);
    for (const auto& [name, value] : of_run) {
      const bool open = inherits && !known && settings.origin(name) == Origin::kDefault && std::ranges::find(inherited, name, &SettingValues::value_type::first) != inherited.end();
      std::cout << name << " = " << value << "  # " << OriginName(settings.origin(name)) << (open ? ", unless the input file states it" : "") << "\n";
    }
    return false;
  }
  if (!parser->log.empty() && ReadLaunch().rank == 0) OpenLog(parser->log);
  LogLine(Printable(QuotedCommand()));
  return true;
}

const std::string& CommandLine::Impl::LogPath() const { return parser->log; }

bool CommandLine::Impl::StandardOutputTaken() const {
  for (const auto& [option, path] : parser->outputs)
    if (*path == "-" && !option->empty()) return true;
  return false;
}

CommandLine::Impl::Impl() = default;
CommandLine::Impl::~Impl() = default;

}  // namespace fairway
