// Libraries that a program loads at run time, only when it needs them.
#pragma once

#include <string>

namespace fairway {

// Where lib/NAME is searched for: beside the program's folder, so that both can be moved together.
std::string PluginPath(const std::string& name);

// Loads lib/NAME, never to unload it, its symbols and those of its libraries visible to what is loaded later, and returns the
// function that it exports as `symbol`. Throws IoError where that fails, and InputError where the library was built from other
// sources than this program: every plug-in exports FairwayPluginSources(), the digest of the files that both are made from
// (CMakeLists.txt).
void* LoadPlugin(const std::string& name, const char* symbol);
// The same for the library at `path`.
void* LoadPluginAt(const std::string& path, const char* symbol);

}  // namespace fairway
