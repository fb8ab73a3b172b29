#include "common/base/loaded.h"

#include <link.h>

#include <filesystem>
#include <string_view>

namespace fairway {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kLibTorch = "libtorch_cpu.so";

std::vector<fs::path> LoadedPaths() {
  std::vector<fs::path> paths = {fs::read_symlink("/proc/self/exe")};
  const auto add = [](dl_phdr_info* info, size_t, void* found) {
    // The program itself has no name here, and the kernel's part no file.
    if (const std::string_view name = info->dlpi_name; name.find('/') != name.npos) {
      std::error_code error;
      if (const fs::path path = fs::canonical(name, error); !error) static_cast<std::vector<fs::path>*>(found)->push_back(path);
    }
    return 0;
  };
  dl_iterate_phdr(add, &paths);
  return paths;
}

bool Inside(const std::string& path, const std::string& folder) { return !folder.empty() && path.starts_with(folder + "/"); }

}  // namespace

LoadedFile::From FromWhere(const std::string& path, const std::string& prefix, const std::string& libtorch) {
  using enum LoadedFile::From;
  // As a Python package it is torch/lib, and what comes with it is installed beside torch.
  fs::path folder = fs::path(libtorch).parent_path();
  if (folder.parent_path().filename() == "torch") folder = folder.parent_path().parent_path();
  if (Inside(path, folder)) return kLibTorch;
  for (const char* system : {"/lib", "/lib32", "/lib64", "/usr", "/opt"})
    if (Inside(path, system)) return kSystem;
  return Inside(path, prefix + "/bin") || Inside(path, prefix + "/lib") ? kCode : kElsewhere;
}

std::vector<LoadedFile> LoadedFiles() {
  const std::vector<fs::path> paths = LoadedPaths();
  const fs::path prefix = paths[0].parent_path().parent_path();
  std::string libtorch;
  for (const fs::path& path : paths)
    if (path.filename() == kLibTorch) libtorch = path;
  std::vector<LoadedFile> files;
  for (const fs::path& path : paths) {
    std::error_code error;
    const uint64_t bytes = fs::file_size(path, error);
    files.push_back({path.filename(), error ? 0 : bytes, files.empty() ? LoadedFile::From::kCode : FromWhere(path, prefix, libtorch)});
  }
  return files;
}

std::string_view NameOf(LoadedFile::From from) {
  constexpr std::string_view kNames[] = {"code", "libtorch", "system", "elsewhere"};
  return kNames[static_cast<size_t>(from)];
}

}  // namespace fairway
