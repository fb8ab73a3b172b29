#include "common/base/loaded.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>

namespace fairway {
namespace {

using From = LoadedFile::From;

TEST(Loaded, ThisProgramAndItsLibraries) {
  const std::vector<LoadedFile> files = LoadedFiles();
  ASSERT_GT(files.size(), 2u);
  EXPECT_EQ(files[0].name, "base_test");
  EXPECT_EQ(files[0].bytes, std::filesystem::file_size(std::filesystem::read_symlink("/proc/self/exe")));
  EXPECT_EQ(files[0].from, From::kCode);
  std::set<std::string> names;
  for (const LoadedFile& file : files) {
    EXPECT_GT(file.bytes, 0u) << file.name;
    EXPECT_TRUE(names.insert(file.name).second) << file.name;
  }
  EXPECT_TRUE(names.contains("libc.so.6") || names.contains("libc.so"));
}

TEST(Loaded, WhereALibraryIsFrom) {
  const auto from = [](const std::string& path, const std::string& libtorch = "/home/u/p/.venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so") {
    return NameOf(FromWhere(path, "/home/u/p/build", libtorch));
  };
  EXPECT_EQ(from("/home/u/p/build/lib/plug-in.so"), "code");
  EXPECT_EQ(from("/home/u/p/build/library/plug-in.so"), "elsewhere");
  EXPECT_EQ(from("/home/u/p/.venv/lib/python3.11/site-packages/torch/lib/libc10.so"), "libtorch");
  EXPECT_EQ(from("/home/u/p/.venv/lib/python3.11/site-packages/nvidia/cu13/lib/libcudart.so.13"), "libtorch");
  EXPECT_EQ(from("/usr/lib/x86_64-linux-gnu/libzstd.so.1"), "system");
  EXPECT_EQ(from("/lib64/ld-linux-x86-64.so.2"), "system");
  EXPECT_EQ(from("/home/u/libpacker.so"), "elsewhere");
  EXPECT_EQ(from("/tmp/usr/libpacker.so"), "elsewhere");
  // LibTorch unpacked by itself: what is beside its folder is not of it.
  EXPECT_EQ(from("/home/u/libtorch/lib/libc10.so", "/home/u/libtorch/lib/libtorch_cpu.so"), "libtorch");
  EXPECT_EQ(from("/home/u/libpacker.so", "/home/u/libtorch/lib/libtorch_cpu.so"), "elsewhere");
  EXPECT_EQ(from("/home/u/libpacker.so", ""), "elsewhere");
}

}  // namespace
}  // namespace fairway
