// Where a run computes, on a machine with or without a GPU, in a build with or without CUDA.
#include "common/runtime/runtime.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/base/hardware.h"
#include "tests/common/cuda/host_device.h"

namespace fairway {
namespace {

Settings On(const char* device) {
  Settings settings;
  settings.Set("device", device, Origin::kCommandLine, "test");
  return settings;
}

bool HasLoadedCuda() { return dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD) != nullptr; }

// The status and the line that a user gets.
std::pair<ExitStatus, std::string> Refusal(const Settings& settings) {
  try {
    ChooseDevice(settings);
  } catch (const Error& error) {
    return {error.status(), error.what()};
  }
  return {ExitStatus::kDone, ""};
}

TEST(ChooseDevice, TakesTheCpuWhereItIsAskedForOrThereIsNoGpu) {
  EXPECT_EQ(ChooseDevice(On("cpu")), nullptr);
  if (GpuCount() > 0) GTEST_SKIP() << "skipped: there is a GPU";
  EXPECT_EQ(ChooseDevice(On("auto")), nullptr);
  EXPECT_FALSE(HasLoadedCuda());
}

TEST(ChooseDevice, RefusesCudaWhereThereIsNone) {
  if (GpuCount() > 0) GTEST_SKIP() << "skipped: there is a GPU";
  const auto [status, line] = Refusal(On("cuda"));
  if (BuiltWithCuda()) {
    EXPECT_EQ(status, ExitStatus::kIo);
    EXPECT_EQ(line, "DEVICE=cuda: no GPU: the CUDA driver is missing or offers none");
  } else {
    EXPECT_EQ(status, ExitStatus::kUsage);
    EXPECT_EQ(line, "DEVICE=cuda: this build is for CPUs only; it was made without nvcc");
  }
  EXPECT_FALSE(HasLoadedCuda());
}

// A GPU of which a gigabyte is free.
TEST(Runtime, RefusesWhatNeitherTheLimitNorTheGpuHasRoomFor) {
  struct : cuda::HostDevice {
    std::string name() const override { return "Little GPU"; }
    double free_bytes() const override { return 1e9; }
  } little;
  Settings settings = On("cpu");
  Runtime runtime(settings);
  const auto refusal = [&](double bytes) -> std::string {
    try {
      runtime.CheckMemory(settings, bytes);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal(2e9), "");
  runtime.device = &little;
  EXPECT_EQ(refusal(0.9e9), "");
  EXPECT_EQ(refusal(2e9), "Little GPU has 1.00 GB free, and about 2.00 GB would be taken: MICRO_BATCH_SEQS=N computes N sequences at a time");
  settings.memory_limit = "800M";
  EXPECT_EQ(refusal(0.9e9), "memory_limit = 800M: about 0.90 GB would be taken");
}

// Run with a driver that does not start (CMakeLists.txt): the CPU is taken where that is allowed, and the reason is said.
TEST(ChooseDevice, DISABLED_SaysWhyTheDriverDoesNotStart) {
  const std::string trouble = "the CUDA driver does not start: error 802, system not yet initialized";
  EXPECT_EQ(GpuTrouble(), trouble);
  testing::internal::CaptureStderr();
  EXPECT_EQ(ChooseDevice(On("auto")), nullptr);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "device: the CPU, because " + trouble + "\n");
  const auto [status, line] = Refusal(On("cuda"));
  EXPECT_EQ(status, ExitStatus::kIo);
  EXPECT_EQ(line, "DEVICE=cuda: no GPU: " + trouble);
}

// Run with a driver that offers a GPU and then does nothing (CMakeLists.txt): the library is found and loaded with all that it
// needs, and the message says why CUDA does not start.
TEST(ChooseDevice, DISABLED_SaysWhyCudaDoesNotStart) {
  ASSERT_EQ(GpuCount(), 1);
  for (const char* device : {"auto", "cuda"}) {
    const auto [status, line] = Refusal(On(device));
    EXPECT_EQ(status, ExitStatus::kIo);
    EXPECT_TRUE(line.starts_with(std::string("DEVICE=") + device + ": CUDA does not start: ")) << line;
    EXPECT_EQ(line.find('\n'), std::string::npos);
    EXPECT_TRUE(HasLoadedCuda());
  }
}

}  // namespace
}  // namespace fairway
