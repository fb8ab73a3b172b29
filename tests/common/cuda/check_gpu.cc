// check_gpu: what a GPU's first day needs, in one run of a few minutes and one report file. Each item is tried whatever became of the
// others (docs/gpu.md says what they are).
//
// check_gpu [--rehearse] [--report FILE] [--ranks N] [--defect NAME | --defects]
//   --rehearse      the CPU plays the GPU; what only a GPU has is said to be left out
//   --report FILE   where the report goes besides standard output (check-gpu.txt)
//   --ranks N       processes of the ranks' test: one GPU each (1)
//   --defect NAME   with a deliberate defect (defects.h)
//   --defects       every defect in turn, until a check finds it; those that none finds are the failures
//
// Status 0: every item as it should be, or no GPU: skipped. 5: not.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/core/Allocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <torch/version.h>
#include <unistd.h>

#include <chrono>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <map>
#include <thread>

#include "common/base/error.h"
#include "common/base/hardware.h"
#include "common/base/text.h"
#include "common/cuda/engine.h"
#include "common/cuda/memory.h"
#include "common/cuda/optimizer.h"
#include "common/runtime/runtime.h"
#include "tests/common/cuda/defects.h"
#include "tests/common/cuda/host_device.h"
#include "tests/common/model/shapes.h"

extern char** environ;

namespace fairway::cuda {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// What is said goes to standard output and to the report.
std::FILE* report = nullptr;
bool quiet = false;
void Say(const char* format, ...) __attribute__((format(printf, 1, 2)));
void Say(const char* format, ...) {
  if (quiet) return;
  for (std::FILE* to : {stdout, report}) {
    if (to == nullptr) continue;
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(to, format, arguments);
    va_end(arguments);
    std::fflush(to);  // a machine may be taken away
  }
}

struct Item {
  std::string name, outcome;
  double seconds;
};
std::vector<Item> items;
int64_t failures = 0;  // of the item that is running
struct LeftOut {
  std::string why;
};

// Runs one item, whatever becomes of it, and notes how it ended.
template <class Work>
void Try(const std::string& name, Work work) {
  Say("\n=== %s\n", name.c_str());
  const auto begin = Clock::now();
  failures = 0;
  std::string outcome;
  try {
    work();
    outcome = failures == 0 ? "passed" : StringPrintf("FAILED: %d checks", static_cast<int>(failures));
  } catch (const LeftOut& left_out) {
    outcome = "left out: " + left_out.why;
  } catch (const std::exception& error) {
    const std::string cause = error.what();
    outcome = "FAILED: " + cause.substr(0, cause.find('\n'));
  }
  Say("%s: %s\n", name.c_str(), outcome.c_str());
  items.push_back({name, outcome, SecondsSince(begin)});
}

void Expect(bool holds, const std::string& what) {
  failures += !holds;
  if (!holds) Say("  %-44s NO\n", what.c_str());
}

double Norm(const at::Tensor& x) { return x.to(at::kDouble).norm().item<double>(); }

// ‖ours - theirs‖ as a share of `way`: of an update its own length, so that none at all is 1 and one the other way 2.
struct Worst {
  double share = 0;
  std::string what;
};
void Compare(Worst* worst, const std::string& what, const at::Tensor& ours, const at::Tensor& theirs, double tolerance) {
  if (theirs.numel() == 0) return;
  const at::Tensor expected = theirs.cpu().to(at::kDouble);
  const double share = Norm(ours.cpu().to(at::kDouble) - expected) / std::max(Norm(expected), 1e-12);
  if (!(share <= worst->share)) *worst = {share, what};
  failures += !(share <= tolerance);
  if (!(share <= tolerance)) Say("  %-44s apart by %.3e of its norm: MORE THAN %.0e\n", what.c_str(), share, tolerance);
}

std::vector<uint16_t> RandomTokens(const Settings& settings, int64_t count) {
  const at::Tensor ids = RandomIds(settings, 1, count);
  const int64_t* from = ids.const_data_ptr<int64_t>();
  return {from, from + count};
}

std::vector<const uint16_t*> Sequences(const std::vector<uint16_t>& tokens, int64_t B, int64_t T) {
  std::vector<const uint16_t*> sequences;
  for (int64_t b = 0; b < B; ++b) sequences.push_back(tokens.data() + b * T);
  return sequences;
}

// B sequences of T tokens, or one row of documents where the settings pack them.
std::vector<Segment> SegmentsIn(const Settings& settings, const std::vector<uint16_t>& tokens, int64_t B, int64_t T) {
  return settings.packed_documents ? PackedSegments(tokens.data(), B * T, T) : SegmentsOf(Sequences(tokens, B, T), T);
}

NamedTensors Copies(const NamedTensors& tensors) {
  NamedTensors copies;
  for (const auto& [name, tensor] : tensors) copies.emplace_back(name, tensor.cpu().to(at::kDouble));
  return copies;
}

// A model with its optimiser on one machine.
struct Training {
  Training(const Settings& settings, Device& device)
      : layout(settings),
        parameters(layout, layout.embeddings_dtype(), Group::kEmbeddings, Group::kMatrices, device.torch_device()),
        gradients(layout, at::kFloat, Group::kEmbeddings, Group::kMatrices, device.torch_device()) {
    const NamedTensors initial = RandomParameters(settings);
    for (size_t i = 0; i < initial.size(); ++i) parameters.tensors()[i].second.copy_(initial[i].second);
    engine = MakeEngine(settings, parameters.tensors(), gradients.tensors(), device);
    optimizer = std::make_unique<DeviceOptimizer>(settings, layout, parameters, gradients, device);
  }
  void Accumulate(std::span<const Segment> segments, int64_t micro_steps, bool fake_quantise) {
    engine->Prepare(fake_quantise);
    for (int64_t i = 0; i < micro_steps; ++i) engine->AccumulateGradients(segments, 1 / static_cast<double>(micro_steps));
    engine->FinishGradients();
  }
  void Step(double momentum) {
    const double norm = optimizer->GradientNorm();
    optimizer->Step(1, momentum, optimizer->ClipFactor(norm));
  }
  const FlatLayout layout;
  const FlatTensors parameters, gradients;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<DeviceOptimizer> optimizer;
};

std::string Named(const Options& options) {
  std::string name;
  for (const auto& [key, value] : options) name += " " + key + "=" + value;
  return name;
}

// Several lanes' sums differ from one's in their last bits, products in bfloat16 in theirs.
constexpr double kFloat32 = 1e-4, kBFloat16 = 0.05;

// One model on the machine and on the CPU: losses, gradients, and what two steps add to each parameter.
void CheckModel(Device& gpu, const Options& options, bool small) {
  Options all = {{"model_dim", small ? "32" : "64"}, {"vocab_size", "300"}, {"num_layers", small ? "4" : "5"}, {"xsa_last_n", "2"},
                 {"bigram_vocab_size", "200"}, {"grad_clip_norm", "0.05"}};
  for (const auto& [name, value] : options) all[name] = value;
  const Settings settings = Shape(all);
  const double tolerance = settings.precision == "float32" ? kFloat32 : kBFloat16;
  const int64_t B = small ? 2 : 6, T = small ? 60 : 150, first = settings.packed_documents ? 0 : T - T / 2;
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const std::vector<Segment> segments = SegmentsIn(settings, tokens, B, T);
  HostDevice host;
  Training ours(settings, gpu), theirs(settings, host), again(settings, gpu);
  Worst values, updates;

  std::vector<float> our_losses(B * (T - first)), their_losses(B * (T - first));
  for (Training* training : {&ours, &theirs}) training->engine->Prepare(false);
  ours.engine->TokenLosses(segments, first, our_losses.data());
  theirs.engine->TokenLosses(segments, first, their_losses.data());
  const auto as_tensor = [&](std::vector<float>& numbers) { return at::from_blob(numbers.data(), {B * (T - first)}, at::kFloat); };
  Compare(&values, "losses", as_tensor(our_losses), as_tensor(their_losses), tolerance);

  for (const bool fake_quantise : {false, true}) {
    // Once as it is, once captured, twice replayed.
    for (Training* training : {&ours, &theirs, &again}) training->Accumulate(segments, 4, fake_quantise);
    const std::vector<float> loss = ours.engine->Losses(), their_loss = theirs.engine->Losses();
    for (size_t i = 0; i < loss.size(); ++i)
      Compare(&values, "loss of a micro-step", at::scalar_tensor(loss[i], at::kFloat), at::scalar_tensor(their_loss[i], at::kFloat), tolerance);
    bool same = again.engine->Losses() == loss;
    for (size_t i = 0; i < ours.gradients.tensors().size(); ++i) {
      const auto& [name, gradient] = ours.gradients.tensors()[i];
      Compare(&values, "gradient of " + name, gradient, theirs.gradients.tensors()[i].second, tolerance);
      same = same && gradient.equal(again.gradients.tensors()[i].second);
    }
    Compare(&values, "gradient norm", at::scalar_tensor(ours.optimizer->GradientNorm(), at::kDouble),
            at::scalar_tensor(theirs.optimizer->GradientNorm(), at::kDouble), tolerance);
    const NamedTensors our_start = Copies(ours.parameters.tensors()), their_start = Copies(theirs.parameters.tensors());
    for (Training* training : {&ours, &theirs, &again}) training->Step(0.9);
    const NamedTensors our_end = Copies(ours.parameters.tensors()), their_end = Copies(theirs.parameters.tensors());
    const NamedTensors again_end = Copies(again.parameters.tensors());
    for (size_t i = 0; i < our_end.size(); ++i) {
      const bool muons = ours.layout.entries()[i].spec.group == Group::kMatrices;
      same = same && our_end[i].second.equal(again_end[i].second);
      // Newton-Schulz is bfloat16 in any case. AdamW's first steps are little but the signs of gradients: where these are all but 0, a
      // rounding turns them.
      Compare(&updates, "what a step adds to " + our_end[i].first, our_end[i].second - our_start[i].second,
              their_end[i].second - their_start[i].second, muons ? std::max(4 * tolerance, 0.1) : std::max(6 * tolerance, 0.05));
    }
    Expect(same, "the same bits twice");
    // Momentum holds what the clip left of the gradients.
    const NamedTensors our_state = ours.optimizer->State(), their_state = theirs.optimizer->State();
    for (size_t i = 0; i < our_state.size(); ++i)
      Compare(&values, our_state[i].first, our_state[i].second, their_state[i].second, 4 * tolerance);
  }
  Say("  %-66s values within %.1e (%s), updates within %.1e (%s)\n", Named(options).c_str(), values.share, values.what.c_str(), updates.share,
      updates.what.c_str());
}

// Everything of pull request 1855 at once.
const Options k1855{{"num_loops", "2"},  {"loop_start", "1"},           {"loop_end", "2"},           {"skip_gates_enabled", "1"},
                    {"parallel_start_layer", "3"}, {"sparse_attn_gate_enabled", "1"}, {"gate_window", "12"}, {"smear_gate_enabled", "1"},
                    {"packed_documents", "1"},     {"smear", "0"},                    {"bigram_vocab_size", "0"}, {"rope_dims", "4"},
                    {"ln_scale", "1"},             {"mlp_negative_slope", "0.5"}};

// What products and the residual stream may be held in.
const std::vector<Options> kPrecisions{
    {{"precision", "float32"}}, {{"precision", "bfloat16"}}, {{"precision", "bfloat16"}, {"residual_precision", "bfloat16"}}};

// Every option of the model, in every precision.
std::vector<Options> EveryOption(bool few) {
  std::vector<Options> all;
  for (const Options& precision : kPrecisions) {
    const std::vector<Options> options = {// Rows that are looked up so often that they come in pieces.
                                          {{"bigram_vocab_size", "2"}, {"value_embed_every", "2"}},
                                          {{"tie_embeddings", "0"}, {"num_kv_heads", "4"}},
                                          k1855,
                                          {{"reset_at_bos", "1"}, {"bigram_dim", "64"}},
                                          {{"bigram_vocab_size", "0"}, {"smear", "0"}},
                                          {{"xsa_last_n", "0"}, {"rope_dims", "4"}},
                                          {{"ln_scale", "1"}, {"mlp_negative_slope", "0.5"}},
                                          {{"num_loops", "2"}, {"loop_start", "1"}, {"loop_end", "2"}, {"skip_gates_enabled", "1"}},
                                          {{"parallel_start_layer", "3"}, {"sparse_attn_gate_enabled", "1"}, {"gate_window", "12"}}};
    for (size_t i = 0; i < options.size() && (!few || i < 3); ++i) {
      all.push_back(options[i]);
      all.back().insert(precision.begin(), precision.end());
    }
  }
  return all;
}

// The first micro-step runs as it is, the second is captured, later ones are replayed: each must add the same to the gradients, also
// after the weights have changed and after another shape has come between.
void CheckReplay(Device& gpu) {
  const Settings settings = Shape({{"model_dim", "32"}, {"vocab_size", "100"}, {"precision", "float32"}});
  constexpr int64_t B = 2, T = 40;
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const auto sequences = Sequences(tokens, B, T), fewer = Sequences(tokens, 1, T);
  Training training(settings, gpu);
  const auto added = [&] {
    for (const at::Tensor& buffer : training.gradients.buffers()) buffer.zero_();
    training.engine->AccumulateGradients(sequences, T, 1);
    return Copies(training.gradients.tensors());
  };
  for (const char* when : {"at first", "after a step"}) {
    training.engine->Prepare(false);
    const NamedTensors first = added();
    for (int i = 2; i <= 8; ++i) {
      const NamedTensors next = added();
      bool same = true;
      for (size_t k = 0; k < first.size(); ++k) same = same && first[k].second.equal(next[k].second);
      Expect(same, StringPrintf("micro-step %d %s adds what the first one did", i, when));
    }
    training.engine->FinishGradients();
    training.Step(0.9);
    training.engine->AccumulateGradients(fewer, T, 1);  // captured anew afterwards
  }
  Say("  micro-steps that ran, were captured and were replayed are the same, bit for bit\n");
}

// A run that stops in the middle and continues from its parts, in this process.
void CheckResume(Device& gpu, const std::string& defect) {
  const Settings settings =
      Shape({{"model_dim", "32"}, {"vocab_size", "100"}, {"precision", "bfloat16"}, {"residual_precision", "bfloat16"}});
  constexpr int64_t B = 2, T = 40;
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const auto sequences = Sequences(tokens, B, T);
  const auto step = [&](Training& training) {
    training.Accumulate(SegmentsOf(sequences, T), 2, false);
    training.Step(0.9);
  };
  Training straight(settings, gpu), before(settings, gpu), after(settings, gpu);
  for (int i = 0; i < 6; ++i) step(straight);
  for (int i = 0; i < 3; ++i) step(before);
  const auto carry = [&](const NamedTensors& from, const NamedTensors& to) {
    for (size_t i = 0; i < from.size(); ++i)
      if (!(defect == "resume-forgets" && from[i].first.starts_with("muon/"))) to[i].second.copy_(from[i].second.cpu());
  };
  carry(before.parameters.tensors(), after.parameters.tensors());
  carry(before.optimizer->State(), after.optimizer->State());
  after.optimizer->set_adam_steps(before.optimizer->adam_steps());
  for (int i = 0; i < 3; ++i) step(after);
  for (size_t i = 0; i < straight.parameters.tensors().size(); ++i)
    Expect(straight.parameters.tensors()[i].second.equal(after.parameters.tensors()[i].second),
           "resumed, the same bits: " + straight.parameters.tensors()[i].first);
}

// --- programs

struct Ran {
  int status;
  std::string output;  // of both streams
};
Ran Run(const std::string& folder, const std::vector<std::string>& command, const std::map<std::string, std::string>& more = {},
        const std::string& kill_at = "") {
  const std::string log = folder + "/output";
  std::map<std::string, std::string> variables = more;
  std::vector<std::string> environment;
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (const std::string text = *variable; !variables.contains(text.substr(0, text.find('=')))) environment.push_back(text);
  for (const auto& [name, value] : variables) environment.push_back(name + "=" + value);
  std::vector<char*> argv, envp;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  for (const std::string& word : environment) envp.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr), envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child;
  const int failed = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return {127, "cannot be started: " + command[0]};
  int status = 0;
  const auto begin = Clock::now();
  while (waitpid(child, &status, WNOHANG) == 0) {
    bool due = SecondsSince(begin) > 300;
    if (!kill_at.empty())
      for (const auto& entry : fs::directory_iterator(folder)) due = due || entry.path().filename().string().starts_with(kill_at);
    if (due) kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  std::string output;
  if (std::FILE* file = std::fopen(log.c_str(), "r"); file != nullptr) {
    char text[4096];
    for (size_t count; (count = std::fread(text, 1, sizeof text, file)) > 0;) output.append(text, count);
    std::fclose(file);
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), output};
}

std::string LastLine(const std::string& text) {
  const size_t end = text.find_last_not_of('\n');
  const size_t begin = end == std::string::npos ? end : text.rfind('\n', end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end == std::string::npos ? 0 : end - (begin == std::string::npos ? 0 : begin));
}

struct Folder {
  Folder() {
    char name[] = "/tmp/check-gpu-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path); }
  std::string path;
};

std::string Identity(const std::string& folder, const std::string& checkpoint) {
  const Ran inspected = Run(folder, {BINARY_DIR "/ckpt-inspect", "--json", folder + "/" + checkpoint});
  const size_t at = inspected.output.find("\"identity\"");
  return at == std::string::npos ? "none: " + LastLine(inspected.output) : inspected.output.substr(at, 80);
}

// bin/train on the device: a run, and the same killed at its first checkpoint and resumed.
void CheckProgram(bool rehearse) {
  const Folder folder;
  const std::string data = folder.path + "/data";
  if (const Ran made = Run(folder.path, {SOURCE_DIR "/tests/cli/make-shards", data}); made.status != 0)
    throw std::runtime_error("make-shards: " + LastLine(made.output));
  const auto train = [&](const std::string& out, const std::string& kill_at) {
    return Run(folder.path,
               {BINARY_DIR "/train", "--profile", SOURCE_DIR "/tests/cli/small.profile", "--data-path", data, "--tokenizer-path",
                data + "/tokenizer.model", "--device", rehearse ? "cpu" : "cuda", "--threads", "1", "--iterations", "60", "--checkpoint-every", "5",
                "--out", folder.path + "/" + out, "--resume", "newest"},
               {}, kill_at);
  };
  const Ran straight = train("straight.ckpt", "");
  if (straight.status != 0) throw std::runtime_error("train: status " + std::to_string(straight.status) + ": " + LastLine(straight.output));
  Say("  %s\n", LastLine(straight.output).c_str());
  const Ran killed = train("killed.ckpt", "killed.partial-000005");
  Expect(killed.status == 128 + SIGKILL, "it was killed before its end");
  const Ran resumed = train("killed.ckpt", "");
  if (resumed.status != 0) throw std::runtime_error("train --resume: status " + std::to_string(resumed.status) + ": " + LastLine(resumed.output));
  Expect(resumed.output.find("resume: from step") != std::string::npos, "it went on from a checkpoint");
  const std::string expected = Identity(folder.path, "straight.ckpt"), found = Identity(folder.path, "killed.ckpt");
  Expect(expected == found && !expected.starts_with("none"), "killed and resumed, the same checkpoint: " + expected + " " + found);
}

// The ranks' test: by NCCL on GPUs, one each; in rehearsal by MPI.
void CheckRanks(bool rehearse, int64_t count) {
  const Folder folder;
  const std::string test = BINARY_DIR "/../tests/ranks_test", number = std::to_string(count);
  if (!fs::exists(test)) throw LeftOut{"no ranks_test in this build (MPI)"};
  if (rehearse) {
    const Ran ran = Run(folder.path, {"mpirun", "--oversubscribe", "--bind-to", "none", "-n", number, test},
                        {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}, {"OMP_WAIT_POLICY", "PASSIVE"}});
    Say("  %s\n", LastLine(ran.output).c_str());
    Expect(ran.status == 0, "status " + std::to_string(ran.status));
    return;
  }
  std::vector<std::thread> ranks;
  std::vector<Ran> ran(count);
  std::vector<std::unique_ptr<Folder>> folders;
  for (int64_t rank = 0; rank < count; ++rank) folders.push_back(std::make_unique<Folder>());
  for (int64_t rank = 0; rank < count; ++rank)
    ranks.emplace_back([&, rank] {
      ran[rank] = Run(folders[rank]->path, {test, "--device", "cuda"},
                      {{"RANK", std::to_string(rank)}, {"WORLD_SIZE", number}, {"LOCAL_RANK", std::to_string(rank)}, {"LOCAL_WORLD_SIZE", number},
                       {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29671"}, {"BACKEND", "nccl"}});
    });
  for (std::thread& rank : ranks) rank.join();
  for (int64_t rank = 0; rank < count; ++rank) {
    Say("  rank %d: %s\n", static_cast<int>(rank), LastLine(ran[rank].output).c_str());
    Expect(ran[rank].status == 0, StringPrintf("rank %d: status %d", static_cast<int>(rank), ran[rank].status));
  }
}

// --- times

// Waits for the device.
void Synchronise(const Device& device) {
  if (device.torch_device().is_cuda())
    c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(device.torch_device().index());
}

// A device that waits before and after each operation, and adds up their times and bytes by kind.
class TimingDevice : public Device {
 public:
  explicit TimingDevice(Device& own) : own_(own) {}
  at::Device torch_device() const override { return own_.torch_device(); }
  std::string name() const override { return own_.name(); }
  std::unique_ptr<Graph> Capture(const std::function<void()>& work) override {
    struct Again : Graph {
      void Replay() override { work(); }
      std::function<void()> work;
    };
    auto again = std::make_unique<Again>();
    again->work = work;
    return again;
  }
  struct Kind {
    double seconds = 0, bytes = 0;
    int64_t launches = 0;
  };
  std::map<std::string, Kind> kinds;

 private:
  void LaunchNumber(int number, const void* operation) override {
    Operations::At(number, operation, [&](const auto& own) {
      Synchronise(own_);
      const auto begin = Clock::now();
      own_.Launch(own);
      Synchronise(own_);
      std::string name = typeid(own).name();  // mangled: N7fairway4cuda12EmbedForwardI…
      if (const size_t at = name.find("cuda"); at != std::string::npos) {
        const size_t digits = name.find_first_not_of("0123456789", at + 4);
        name = name.substr(digits, static_cast<size_t>(std::atoi(name.c_str() + at + 4)));
      }
      Kind& kind = kinds[name];
      kind.seconds += SecondsSince(begin);
      kind.bytes += own.bytes();
      ++kind.launches;
    });
  }
  Device& own_;
};

Settings OfProfile(const std::string& profile) {
  Settings settings;
  settings.LoadProfile(profile);
  return settings;
}

// A micro-step of a record's shape: whole, and by operation.
void TimeSteps(Device& gpu, const std::string& profile, const std::string& residual_precision, bool rehearse) {
  Settings settings = OfProfile(SOURCE_DIR "/pipelines/" + profile + ".profile");
  settings.residual_precision = residual_precision;
  if (rehearse) {  // all layers, for loops and lanes have their places among them
    settings.model_dim = 128, settings.train_seq_len = 64;
    settings.bigram_vocab_size = std::min<int64_t>(settings.bigram_vocab_size, 64), settings.vocab_size = std::min<int64_t>(settings.vocab_size, 256);
  }
  const int64_t T = settings.train_seq_len, B = rehearse ? 2 : std::max<int64_t>(1, settings.train_batch_tokens / 8 / T);
  settings.CheckModel();
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const std::vector<Segment> segments = SegmentsIn(settings, tokens, B, T);
  {
    Training training(settings, gpu);
    const auto seconds_of = [&](int times, const auto& work) {
      training.optimizer->GradientNorm();  // waits
      const auto begin = Clock::now();
      for (int i = 0; i < times; ++i) work();
      training.optimizer->GradientNorm();
      return SecondsSince(begin) / times;
    };
    const auto micro_step = [&] { training.engine->AccumulateGradients(segments, 1); };
    const auto rest = [&] {
      training.engine->FinishGradients();
      training.Step(0.95);
      training.engine->Prepare(/*fake_quantise=*/false);
    };
    training.engine->Prepare(false);
    for (int i = 0; i < 3; ++i) micro_step();
    rest();
    const int times = rehearse ? 1 : 10;
    const double micro = seconds_of(times, micro_step), update = seconds_of(times, rest);
    Say("  %s, %s, residual stream in %s, %d x %d tokens: %.2f ms a micro-step, %.2f ms for the update; 8 ranks' step %.2f ms and the wire\n", profile.c_str(),
        settings.precision.c_str(), settings.residual_precision.c_str(), static_cast<int>(B), static_cast<int>(T), 1e3 * micro, 1e3 * update, 1e3 * (micro + update));
  }
  TimingDevice timing(gpu);
  Training training(settings, timing);
  training.engine->Prepare(false);
  training.engine->AccumulateGradients(segments, 1);
  timing.kinds.clear();
  const auto begin = Clock::now();
  training.engine->AccumulateGradients(segments, 1);
  Synchronise(gpu);
  double whole = SecondsSince(begin), ours = 0, bytes = 0;
  const Plan plan(settings);
  const double unit = static_cast<double>(B * T * settings.model_dim) * static_cast<double>(plan.visits(plan.loops()).size());
  Say("  | operation | launches | ms | bytes per token, visit and width | GB/s |\n  |---|---:|---:|---:|---:|\n");
  for (const auto& [name, kind] : timing.kinds) {
    Say("  | %s | %d | %.3f | %.1f | %.0f |\n", name.c_str(), static_cast<int>(kind.launches), 1e3 * kind.seconds, kind.bytes / unit,
        1e-9 * kind.bytes / kind.seconds);
    ours += kind.seconds, bytes += kind.bytes;
  }
  Say("  | all of these | | %.3f | %.1f | |\n  | products and attention | | %.3f | | |\n", 1e3 * ours, bytes / unit, 1e3 * (whole - ours));
}

// --- memory

// The most that has been allocated at a time on one kind of device, as LibTorch's allocators report it to this thread.
class PeakMemory : public c10::MemoryReportingInfoBase {
 public:
  explicit PeakMemory(at::DeviceType type) : type_(type) {}
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device device) override {
    if (device.type() != type_) return;
    now_ += bytes;
    peak_ = std::max(peak_, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  const at::DeviceType type_;
  int64_t now_ = 0, peak_ = 0;
};

// What an engine takes against what it is said to take.
void CheckMemoryOf(Device& gpu, const Options& options, bool training, const std::string& defect) {
  Options all = {{"model_dim", "64"}, {"vocab_size", "300"}, {"num_layers", "6"}, {"xsa_last_n", "2"}, {"train_seq_len", "200"}};
  for (const auto& [name, value] : options) all[name] = value;
  const Settings settings = Shape(all);
  constexpr int64_t B = 4, T = 200;
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const std::vector<Segment> segments = SegmentsIn(settings, tokens, B, T);
  const auto peak = std::make_shared<PeakMemory>(gpu.torch_device().type());
  {
    const FlatLayout layout(settings);
    const FlatTensors parameters(layout, layout.embeddings_dtype(), Group::kEmbeddings, Group::kMatrices, gpu.torch_device());
    const FlatTensors gradients(layout, at::kFloat, Group::kEmbeddings, Group::kMatrices, gpu.torch_device());
    for (const auto& [name, tensor] : RandomParameters(settings))
      for (const auto& [own, to] : parameters.tensors())
        if (own == name) to.copy_(tensor);
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, peak);  // what comes beside these
    const auto engine = MakeEngine(settings, parameters.tensors(), gradients.tensors(), gpu);
    engine->Prepare(false);
    std::vector<float> losses(B * T);
    for (int i = 0; i < 3; ++i) {
      if (training) engine->AccumulateGradients(segments, 1);
      else engine->TokenLosses(segments, 0, losses.data());
    }
  }
  const double estimate = DeviceEngineBytes(settings, B, T, training, gpu.torch_device()) * (defect == "estimate-short" ? 0.7 : 1);
  Say("  precision %s, residual stream %s%s, %s: %.1f MB estimated, %.1f MB at most\n", settings.precision.c_str(), settings.residual_precision.c_str(),
      settings.packed_documents ? ", pull request 1855" : "", training ? "training" : "scoring", 1e-6 * estimate, 1e-6 * static_cast<double>(peak->peak()));
  Expect(static_cast<double>(peak->peak()) <= estimate, "no more than the estimate");
  Expect(static_cast<double>(peak->peak()) >= 0.6 * estimate, "no less than 60% of the estimate");
}

void CheckMemory(Device& gpu, const std::string& defect) {
  for (const bool all_of_1855 : {false, true})
    for (const Options& precision : kPrecisions)
      for (const bool training : {true, false}) {
        Options options = all_of_1855 ? k1855 : Options{};
        options.insert(precision.begin(), precision.end());
        CheckMemoryOf(gpu, options, training, defect);
      }
}

// --- attention

void TimeAttention(const Device& gpu) {
  if (!gpu.torch_device().is_cuda()) throw LeftOut{"the library's kernels for GPUs"};
  constexpr int64_t B = 48, H = 8, T = 2048, d = 64;
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(gpu.torch_device());
  const at::Tensor q = at::randn({B, H, T, d}, options), k = at::randn({B, H, T, d}, options), v = at::randn({B, H, T, d}, options);
  at::Tensor flash, cudnn;
  const auto time = [&](const char* name, const auto& attend) {
    try {
      attend();
      Synchronise(gpu);
      const auto begin = Clock::now();
      for (int i = 0; i < 10; ++i) attend();
      Synchronise(gpu);
      const double seconds = SecondsSince(begin) / 10;
      Say("  %s: %.3f ms, %.0f TFLOP/s\n", name, 1e3 * seconds, 2e-12 * static_cast<double>(B * H * T * T * d) / seconds);
    } catch (const std::exception& error) {
      const std::string cause = error.what();
      Say("  %s: not to be had: %s\n", name, cause.substr(0, cause.find('\n')).c_str());
    }
  };
  time("flash, forward", [&] { flash = std::get<0>(at::_scaled_dot_product_flash_attention(q, k, v, 0.0, /*is_causal=*/true)); });
  time("cuDNN, forward", [&] { cudnn = std::get<0>(at::_scaled_dot_product_cudnn_attention(q, k, v, {}, true, 0.0, /*is_causal=*/true)); });
  Worst worst;
  if (flash.defined() && cudnn.defined()) Compare(&worst, "cuDNN's attention against flash", cudnn, flash, 0.02);
}

// --- versions

void Versions(const Device& gpu) {
  Say("  device: %s\n  processor: %s, %d threads\n  LibTorch: %s\n", gpu.name().c_str(), CpuName().c_str(),
      static_cast<int>(std::thread::hardware_concurrency()), TORCH_VERSION);
  // Of the libraries that are loaded; a build for CPUs has none.
  const auto version = [](const char* library, const char* function, bool returns) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    void* symbol = handle != nullptr ? dlsym(handle, function) : nullptr;
    int64_t number = 0;
    if (symbol != nullptr && returns) number = static_cast<int64_t>(reinterpret_cast<size_t (*)()>(symbol)());
    int value = 0;
    if (symbol != nullptr && !returns && reinterpret_cast<int (*)(int*)>(symbol)(&value) == 0) number = value;
    Say("  %s: %s\n", function, symbol == nullptr ? "not loaded" : std::to_string(number).c_str());
  };
  version("libcuda.so.1", "cuDriverGetVersion", false);
  version("libcudart.so.13", "cudaRuntimeGetVersion", false);
  version("libcudnn.so.9", "cudnnGetVersion", true);
  version("libnccl.so.2", "ncclGetVersion", false);
  Say("  bfloat16 sums of products: %s\n", at::globalContext().allowBF16ReductionCuBLAS() == at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK
                                                 ? "may be reduced"
                                                 : "float32");
}

struct Arguments {
  bool rehearse = false, defects = false;
  std::string report = "check-gpu.txt", defect;
  int64_t ranks = 1;
};

// What finds defects; all else only measures.
void CheckComputation(Device& gpu, const Arguments& arguments) {
  const bool small = arguments.rehearse || !arguments.defect.empty();
  DefectiveDevice device(gpu, arguments.defect);
  for (const Options& options : EveryOption(!arguments.defect.empty())) {
    if (!arguments.defect.empty() && failures > 0) return;  // found
    CheckModel(device, options, small);
  }
}

bool Found() {
  for (const Item& item : items)
    if (item.outcome.starts_with("FAILED")) return true;
  return false;
}

void CheckWithDefect(Device& gpu, const Arguments& arguments) {
  DefectiveDevice device(gpu, arguments.defect);
  Try("models against the CPU", [&] { CheckComputation(gpu, arguments); });
  if (!Found()) Try("capture and replay", [&] { CheckReplay(device); });
  if (!Found()) Try("stopped and resumed", [&] { CheckResume(device, arguments.defect); });
  if (!Found()) Try("memory", [&] { CheckMemory(device, arguments.defect); });
}

int Defects(Device& gpu, Arguments arguments) {
  int missed = 0;
  for (const auto& [name, what] : kDefects) {
    items.clear();
    arguments.defect = name;
    quiet = true;
    CheckWithDefect(gpu, arguments);
    quiet = false;
    missed += !Found();
    Say("%-18s %-72s %s\n", name, what, Found() ? ("found by: " + items.back().name).c_str() : "NOT FOUND");
  }
  Say("check-gpu --defects: %s\n", missed == 0 ? "every defect is found" : "some are NOT FOUND");
  return static_cast<int>(missed == 0 ? ExitStatus::kDone : ExitStatus::kGate);
}

int Main(const Arguments& arguments) {
  const auto begin = Clock::now();
  HostDevice host;
  Device* gpu = &host;
  at::set_num_threads(1);
  if (!arguments.rehearse) {
    if (!BuiltWithCuda() || GpuCount() == 0) {
      std::printf("check-gpu: %s; no GPU: skipped\n", BuiltWithCuda() ? "this build has CUDA" : "this build is for CPUs only");
      return 0;
    }
    Settings settings;
    settings.Set("device", "cuda", Origin::kCommandLine, "check-gpu");
    gpu = ChooseDevice(settings);
    UseThreads(settings);
  }
  report = std::fopen(arguments.report.c_str(), "w");
  if (report == nullptr) throw IoError(arguments.report, "cannot be written");
  Say("check-gpu on %s%s\n", gpu->name().c_str(), arguments.rehearse ? ", in a GPU's place" : "");
  if (arguments.defects) return Defects(*gpu, arguments);
  if (!arguments.defect.empty()) {
    CheckWithDefect(*gpu, arguments);
  } else {
    // What decides first, what only measures last.
    Try("versions", [&] { Versions(*gpu); });
    Try("models against the CPU", [&] { CheckComputation(*gpu, arguments); });
    Try("capture and replay", [&] { CheckReplay(*gpu); });
    Try("stopped and resumed", [&] { CheckResume(*gpu, ""); });
    Try("memory", [&] { CheckMemory(*gpu, ""); });
    Try("a run, killed and resumed", [&] { CheckProgram(arguments.rehearse); });
    Try("step of record-h100x8", [&] {
      for (const char* residual_precision : {"bfloat16", "float32"}) TimeSteps(*gpu, "record-h100x8", residual_precision, arguments.rehearse);
    });
    Try("attention", [&] { TimeAttention(*gpu); });
    Try("ranks", [&] { CheckRanks(arguments.rehearse, arguments.ranks); });
  }
  Say("\n=== in short\n");
  for (const Item& item : items) Say("%7.1f s  %-28s %s\n", item.seconds, item.name.c_str(), item.outcome.c_str());
  Say("check-gpu: %s, %.0f s; the report is %s\n", Found() ? "NOT as it should be" : "all as it should be", SecondsSince(begin), arguments.report.c_str());
  return static_cast<int>(Found() ? ExitStatus::kGate : ExitStatus::kDone);
}

}  // namespace
}  // namespace fairway::cuda

int main(int argc, char** argv) {
  fairway::cuda::Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool more = i + 1 < argc;
    if (word == "--rehearse") arguments.rehearse = true;
    else if (word == "--defects") arguments.defects = true;
    else if (word == "--report" && more) arguments.report = argv[++i];
    else if (word == "--defect" && more) arguments.defect = argv[++i];
    else if (word == "--ranks" && more && fairway::ParseInt(argv[i + 1], &arguments.ranks) && arguments.ranks > 0) ++i;
    else {
      std::fprintf(stderr, "check-gpu: %s: not understood\n", word.c_str());
      return static_cast<int>(fairway::ExitStatus::kUsage);
    }
  }
  try {
    return fairway::cuda::Main(arguments);
  } catch (const fairway::Error& error) {
    std::printf("check-gpu: %s\n", error.what());
    return static_cast<int>(error.status());
  }
}
