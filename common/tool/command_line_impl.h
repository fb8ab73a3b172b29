// What RunTool asks of a command line. Apart from tool.h so that only command_line.cc sees CLI11.
#pragma once

#include "common/tool/tool.h"

namespace fairway {

struct CommandLine::Impl {
  struct Parser;
  std::string name;
  std::unique_ptr<Parser> parser;
  bool ranks = false;  // may be one of several

  Impl();
  ~Impl();
  // False where nothing is left to do: --help, --version, --print-settings. Throws UsageError and what profiles throw.
  bool Parse(int argc, char** argv);
  // The file of --log, or nothing.
  const std::string& LogPath() const;
  // Whether an output was given as "-".
  bool StandardOutputTaken() const;
};

}  // namespace fairway
