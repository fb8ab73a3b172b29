// bench-bytes: the bytes that a micro-step on a GPU moves through its memory, as its operations (common/cuda/operations.h) say of
// themselves and its backend of the library's products and attention; bytes per token, without and with loops. Each
// operand counts once per operation. Nothing is computed on a GPU: one launches nothing, and counts. bench/scaling.py reads it.
#include <cxxabi.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <map>
#include <typeinfo>

#include <ATen/ops/zeros.h>

#include "common/cuda/backend.h"
#include "common/model/flat.h"
#include "common/tool/tool.h"

namespace fairway {
namespace {

constexpr int64_t kTokens = 256;

std::string NameOf(const std::type_info& type) {
  int status = 0;
  char* name = abi::__cxa_demangle(type.name(), nullptr, nullptr, &status);
  std::string text = status == 0 ? name : type.name();
  std::free(name);
  text = text.substr(text.rfind("cuda::") + 6);
  return text.substr(0, text.find('<'));
}

class CountingDevice : public cuda::Device {
 public:
  at::Device torch_device() const override { return at::kCPU; }
  std::string name() const override { return "none"; }
  std::unique_ptr<cuda::Graph> Capture(const std::function<void()>&) override { throw std::logic_error("nothing is captured"); }
  void Passed(const char* what, double bytes) override { bytes_[what] += bytes; }
  // What was counted since the last call.
  std::map<std::string, double> Take() { return std::exchange(bytes_, {}); }

 private:
  void LaunchNumber(int number, const void* operation) override {
    cuda::Operations::At(number, operation, [&](const auto& own) { bytes_[NameOf(typeid(own))] += own.bytes(); });
  }
  std::map<std::string, double> bytes_;
};

Json PerToken(const Settings& settings, bool looped) {
  const FlatLayout layout(settings);
  FlatTensors parameters(layout, layout.embeddings_dtype()), gradients(layout, at::kFloat);
  CountingDevice device;
  const auto backend = cuda::MakeBackend(settings, parameters.tensors(), gradients.tensors(), device);
  backend->SetLooped(looped);
  const cuda::BatchShape shape{.B = 1, .T = kTokens};
  backend->Reserve(shape, /*training=*/true);
  std::vector<int32_t> memory(cuda::Inputs::Size(settings, shape));
  cuda::Inputs inputs(settings, shape, memory.data());
  const std::vector<uint16_t> tokens(kTokens + 1, 2);
  const uint16_t* const sequence = tokens.data();
  inputs.Fill(settings, SegmentsOf({&sequence, 1}, kTokens));
  device.Take();
  backend->AccumulateGradients(inputs, 1, at::zeros({1}, at::kDouble));
  Json all;
  double sum = 0;
  for (const auto& [name, bytes] : device.Take()) {
    if (name == "AddColumns" || name == "ScatterPieces" || name == "JoinPieces") continue;  // of slabs and tables, not of tokens
    all[name] = bytes / kTokens;
    sum += bytes / kTokens;
  }
  return {{"operations", all}, {"sum", sum}};
}

int Main(int argc, char** argv) {
  Settings settings;
  CommandLine line("bench-bytes", "Counts the bytes per token that a micro-step on a GPU moves through its memory.", "bench-bytes --profile record-h100x8");
  line.Use(settings, scope::kModel | scope::kTrain);
  return RunTool(line, argc, argv, [&]() -> Json {
    settings.CheckTraining(1);
    return {{"unlooped", PerToken(settings, false)}, {"looped", PerToken(settings, true)}};
  });
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) { return fairway::Main(argc, argv); }
