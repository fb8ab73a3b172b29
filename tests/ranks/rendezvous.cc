// rendezvous [SECONDS]: joins NCCL's ranks as a rank that computes on a GPU would, also where there is none: as far as CUDA then
// lets it. Status 3 with the cause, which is printed before the launcher ends this rank because another one ended.
#include <csignal>
#include <cstdio>

#include "common/base/error.h"
#include "common/parallel/communicator.h"

int main(int argc, char** argv) {
  using namespace fairway;
  std::signal(SIGTERM, SIG_IGN);
  try {
    Settings settings;
    settings.Set("backend", "nccl", Origin::kCommandLine, "test");
    if (argc > 1) settings.Set("comm_timeout_seconds", argv[1], Origin::kCommandLine, "test");
    const auto communicator = MakeCommunicator(settings, /*on_gpu=*/true);
    std::printf("rank %jd: met\n", communicator->rank());
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %jd: %s\n", ReadLaunch().rank, error.what());
    return static_cast<int>(error.status());
  }
}
