#include "common/base/plugin.h"

#include <dlfcn.h>

#include <filesystem>

#include "common/base/error.h"

namespace fairway {

std::string PluginPath(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib" / name;
}

void* LoadPlugin(const std::string& name, const char* symbol) {
  const std::string path = PluginPath(name);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  void* found = library == nullptr ? nullptr : dlsym(library, symbol);
  if (found == nullptr) throw IoError(path, dlerror());
  return found;
}

}  // namespace fairway
