#include "common/base/plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <string_view>

#include "common/base/error.h"
#include "common/base/text.h"

extern "C" const char* FairwayPluginSources();  // of this program

namespace fairway {

std::string PluginPath(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib" / name;
}

void* LoadPlugin(const std::string& name, const char* symbol) { return LoadPluginAt(PluginPath(name), symbol); }

void* LoadPluginAt(const std::string& path, const char* symbol) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) throw IoError(path, dlerror());
  // Nothing else of the library is called before it is known to have this program's layout of structures and classes.
  const auto sources_of = reinterpret_cast<const char* (*)()>(dlsym(library, "FairwayPluginSources"));
  const char* const sources = sources_of != nullptr ? sources_of() : nullptr;
  if (sources == nullptr || std::string_view(sources) != FairwayPluginSources())
    throw InputError(path, StringPrintf("was built from other sources (%.12s) than this program (%.12s); build or install both from one checkout",
                                        sources == nullptr ? "unknown" : sources, FairwayPluginSources()));
  void* found = dlsym(library, symbol);
  if (found == nullptr) throw IoError(path, dlerror());
  return found;
}

}  // namespace fairway
