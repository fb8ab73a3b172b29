// check_gpu: what a GPU's first day needs, in one run of a few minutes and one report file. Each item is tried whatever became of the
// others (docs/gpu.md says what they are).
//
// check_gpu [--rehearse] [--report FILE] [--ranks N] [--item NAME | --defect NAME | --defects]
//   --rehearse      the CPU plays the GPU; what only a GPU has is said to be left out
//   --report FILE   where the report goes besides standard output (check-gpu.txt)
//   --ranks N       processes of the ranks' items: one GPU each (1)
//   --item NAME     this item alone, at the end of the report. Without it each is a process of its own: an error of CUDA leaves nothing in its
//                   process that could go on, and one that hangs is ended. An item that fails by such an error is tried once more, each launch
//                   waited for, so that the report has its place.
//   --defect NAME   with a deliberate defect (defects.h)
//   --defects       every defect in turn, until a check finds it; those that none finds are the failures
//
// Status 0: every item as it should be, or no GPU: skipped. 5: not, or there is a GPU that this build or its driver cannot use.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_flash_attention.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
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

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <thread>

#include "common/base/error.h"
#include "common/base/file.h"
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

// Programs and plug-ins are where this one is: in the build's folder, or in one that scripts/bundle-check-gpu has made, which has the little that
// is read of the source besides.
const std::string kRoot = fs::read_symlink("/proc/self/exe").parent_path().parent_path();
const std::string kSource = fs::exists(kRoot + "/source") ? kRoot + "/source" : SOURCE_DIR;

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
    outcome = "FAILED: " + FirstLine(error.what());
  }
  Say("%s: %s\n", name.c_str(), outcome.c_str());
  items.push_back({name, outcome, SecondsSince(begin)});
}

void Expect(bool holds, const std::string& what) {
  failures += !holds;
  if (!holds) Say("  %-44s NO\n", what.c_str());
}

double Norm(const at::Tensor& x) { return x.to(at::kDouble).norm().item<double>(); }

// ‖a - b‖ as a share of ‖b‖: of an update, how far it is from another one of its length, so that none at all is 1 and one the other
// way 2.
double Apart(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor expected = b.cpu().to(at::kDouble).flatten();
  return Norm(a.cpu().to(at::kDouble).flatten() - expected) / std::max(Norm(expected), 1e-12);
}

// What a machine has computed, against the CPU. In bfloat16 two right computations differ by what roundings do to this model, which
// is as much as the CPU's own figures differ from its figures in float32, the worst of them: that is measured, and three times as
// much allowed.
class Comparison {
 public:
  // least, most: the tolerance whatever the CPU's own figures say.
  Comparison(double least, double most) : least_(least), most_(most) {}

  // exact: the CPU's in float32; undefined where these are.
  void Add(const std::string& what, const at::Tensor& ours, const at::Tensor& theirs, const at::Tensor& exact) {
    if (theirs.numel() == 0) return;
    // Of a few numbers, sums that all but cancel, the error has no scale of its own: all of these are one.
    constexpr int64_t kFew = 16;
    if (exact.defined() && theirs.numel() <= kFew) {
      for (const auto& [to, from] : {std::pair{&few_.ours, &ours}, {&few_.theirs, &theirs}, {&few_.exact, &exact}}) {
        const at::Tensor own = from->cpu().to(at::kDouble).flatten();
        *to = to->defined() ? at::cat({*to, own}) : own;
      }
      return;
    }
    all_.push_back({what, Apart(ours, theirs), exact.defined() ? Apart(theirs, exact) : 0});
  }

  // Counts what is farther apart than it may be; "within … of … (…)".
  std::string Judge() {
    if (few_.ours.defined()) all_.push_back({"all of few numbers", Apart(few_.ours, few_.theirs), Apart(few_.theirs, few_.exact)});
    double own = 0;
    const One* worst = &all_.front();
    for (const One& one : all_) {
      own = std::max(own, one.own);
      if (!(one.apart <= worst->apart)) worst = &one;
    }
    const double tolerance = std::clamp(3 * own, least_, most_);
    for (const One& one : all_) {
      failures += !(one.apart <= tolerance);
      if (!(one.apart <= tolerance)) Say("  %-44s apart by %.3e of its norm: MORE THAN %.0e\n", one.what.c_str(), one.apart, tolerance);
    }
    return StringPrintf("within %.1e of %.0e (%s)", worst->apart, tolerance, worst->what.c_str());
  }

 private:
  struct One {
    std::string what;
    double apart, own;
  };
  struct {
    at::Tensor ours, theirs, exact;
  } few_;
  const double least_, most_;
  std::vector<One> all_;
};

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
  // Takes over what another one has come to.
  void Take(const Training& other, bool all = true) const {
    for (size_t i = 0; i < parameters.tensors().size(); ++i) parameters.tensors()[i].second.copy_(other.parameters.tensors()[i].second);
    const NamedTensors to = optimizer->State(), from = other.optimizer->State();
    for (size_t i = 0; i < to.size(); ++i)
      if (all || !from[i].first.starts_with("muon/")) to[i].second.copy_(from[i].second);
    optimizer->set_adam_steps(other.optimizer->adam_steps());
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

// One model on the machine and on the CPU: losses, gradients, and what two steps add to each parameter.
void CheckModel(Device& gpu, const Options& options, bool small) {
  Options all = {{"model_dim", small ? "32" : "64"}, {"vocab_size", "300"}, {"num_layers", small ? "4" : "5"}, {"xsa_last_n", "2"},
                 {"bigram_vocab_size", "200"}, {"grad_clip_norm", "0.05"}};
  for (const auto& [name, value] : options) all[name] = value;
  const Settings settings = Shape(all);
  const bool rounds = settings.precision != "float32";
  const int64_t B = small ? 2 : 4, T = small ? 60 : 100, first = settings.packed_documents ? 0 : T - T / 2;
  const std::vector<uint16_t> tokens = RandomTokens(settings, B * T + 1);
  const std::vector<Segment> segments = SegmentsIn(settings, tokens, B, T);
  HostDevice host;
  Training ours(settings, gpu), theirs(settings, host), again(settings, gpu);
  Settings in_float32 = settings;
  in_float32.precision = in_float32.residual_precision = "float32";
  std::optional<Training> exact;
  if (rounds) exact.emplace(in_float32, host);
  std::vector<Training*> trainings{&ours, &theirs, &again};
  if (exact) trainings.push_back(&*exact);
  // In float32, several lanes' sums differ from one's in their last bits; but Newton-Schulz is bfloat16 in any case, and AdamW's
  // first steps are little but the signs of gradients: where these are all but 0, a rounding turns them.
  Comparison scores(rounds ? 2e-3 : 1e-4, rounds ? 0.05 : 1e-4), values(rounds ? 0.02 : 1e-4, rounds ? 0.3 : 1e-4), state(rounds ? 0.05 : 4e-4, rounds ? 0.4 : 4e-4),
      updates(0.1, rounds ? 0.45 : 0.1);

  std::vector<at::Tensor> losses;
  for (Training* training : trainings) {
    losses.push_back(at::empty({B * (T - first)}, at::kFloat));
    training->engine->Prepare(false);
    training->engine->TokenLosses(segments, first, losses.back().mutable_data_ptr<float>());
  }
  scores.Add("losses", losses[0], losses[1], exact ? losses[3] : at::Tensor());

  for (const bool fake_quantise : {false, true}) {
    // Each pass begins alike on all sides: what the one before has made differ would fall on other steps of the grid.
    for (Training* training : trainings)
      if (training != &ours) training->Take(ours);
    // Once as it is, once captured, twice replayed.
    for (Training* training : trainings) training->Accumulate(segments, 4, fake_quantise);
    bool same = again.engine->Losses() == ours.engine->Losses();
    const auto compare = [&](Comparison& to, const std::string& what, const auto& get) {
      to.Add(what, get(ours), get(theirs), exact ? get(*exact) : at::Tensor());
    };
    compare(scores, "losses of micro-steps", [](const Training& training) { return at::tensor(training.engine->Losses()); });
    for (size_t i = 0; i < ours.gradients.tensors().size(); ++i) {
      compare(values, "gradient of " + ours.gradients.tensors()[i].first, [i](const Training& training) { return training.gradients.tensors()[i].second; });
      same = same && ours.gradients.tensors()[i].second.equal(again.gradients.tensors()[i].second);
    }
    compare(scores, "gradient norm", [](const Training& training) { return at::scalar_tensor(training.optimizer->GradientNorm(), at::kDouble); });
    std::map<const Training*, NamedTensors> start;
    for (Training* training : trainings) {
      start[training] = Copies(training->parameters.tensors());
      training->Step(0.9);
    }
    for (size_t i = 0; i < ours.parameters.tensors().size(); ++i) {
      const std::string& name = ours.parameters.tensors()[i].first;
      compare(updates, "what a step adds to " + name,
              [&](const Training& training) { return training.parameters.tensors()[i].second.cpu().to(at::kDouble) - start[&training][i].second; });
      same = same && ours.parameters.tensors()[i].second.equal(again.parameters.tensors()[i].second);
    }
    Expect(same, "the same bits twice");
    // Momentum holds what the clip left of the gradients.
    for (size_t i = 0; i < ours.optimizer->State().size(); ++i)
      compare(state, ours.optimizer->State()[i].first, [i](const Training& training) { return training.optimizer->State()[i].second; });
  }
  Say(" %s\n", Named(options).c_str());
  for (const auto& [what, comparison] : {std::pair{"losses", &scores}, {"gradients", &values}, {"moments", &state}, {"updates", &updates}})
    Say("    %-9s %s\n", what, comparison->Judge().c_str());
}

// Everything of pull request 1855 at once.
const Options k1855{{"num_loops", "2"},  {"loop_start", "1"},           {"loop_end", "2"},           {"skip_gates_enabled", "1"},
                    {"parallel_start_layer", "3"}, {"sparse_attn_gate_enabled", "1"}, {"gate_window", "12"}, {"smear_gate_enabled", "1"},
                    {"packed_documents", "1"},     {"smear", "0"},                    {"bigram_vocab_size", "0"}, {"rope_dims", "4"},
                    {"ln_scale", "1"},             {"mlp_negative_slope", "0.5"}};

// What products and the residual stream may be held in.
struct Precision {
  const char* name;
  Options options;
};
const std::vector<Precision> kPrecisions{{"models in float32", {{"precision", "float32"}}},
                                         {"models in bfloat16", {{"precision", "bfloat16"}}},
                                         {"models with a bfloat16 stream", {{"precision", "bfloat16"}, {"residual_precision", "bfloat16"}}}};

// Every option of the model; few: one model of each kind.
std::vector<Options> EveryOption(bool few) {
  std::vector<Options> options = {// Rows that are looked up so often that they come in pieces.
                                  {{"bigram_vocab_size", "2"}, {"value_embed_every", "2"}},
                                  {{"tie_embeddings", "0"}, {"num_kv_heads", "4"}},
                                  k1855,
                                  {{"reset_at_bos", "1"}, {"bigram_dim", "64"}},
                                  {{"bigram_vocab_size", "0"}, {"smear", "0"}},
                                  {{"xsa_last_n", "0"}, {"rope_dims", "4"}},
                                  {{"ln_scale", "1"}, {"mlp_negative_slope", "0.5"}},
                                  {{"num_loops", "2"}, {"loop_start", "1"}, {"loop_end", "2"}, {"skip_gates_enabled", "1"}},
                                  {{"parallel_start_layer", "3"}, {"sparse_attn_gate_enabled", "1"}, {"gate_window", "12"}}};
  if (few) options.resize(3);
  return options;
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
  after.Take(before, /*all=*/defect != "resume-forgets");
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
// shown: its standard output is ours, and the output that is returned that of standard error alone. After `limit` seconds it is
// killed.
Ran Run(const std::string& folder, const std::vector<std::string>& command, const std::map<std::string, std::string>& more = {},
        const std::string& kill_at = "", double limit = 300, bool shown = false) {
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
  posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (!shown) posix_spawn_file_actions_adddup2(&actions, 2, 1);
  pid_t child;
  const int failed = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return {127, "cannot be started: " + command[0]};
  int status = 0;
  const auto begin = Clock::now();
  while (waitpid(child, &status, WNOHANG) == 0) {
    bool due = SecondsSince(begin) > limit;
    if (!kill_at.empty())
      for (const auto& entry : fs::directory_iterator(folder)) due = due || entry.path().filename().string().starts_with(kill_at);
    if (due) kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), std::string(InputFile(log).text())};
}

std::string LastLine(const std::string& text) {
  const size_t end = text.find_last_not_of('\n');
  const size_t begin = end == std::string::npos ? end : text.rfind('\n', end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end == std::string::npos ? 0 : end - (begin == std::string::npos ? 0 : begin));
}

// What a program said at last, for the report.
void SayTail(const std::string& output) {
  constexpr int kLines = 40;
  size_t begin = output.size();
  for (int line = 0; line <= kLines && begin != std::string::npos && begin > 0; ++line) begin = output.rfind('\n', begin - 1);
  const std::string tail = output.substr(begin == std::string::npos || begin == 0 ? 0 : begin + 1);
  for (size_t at = 0; at < tail.size();) {
    const size_t end = std::min(tail.find('\n', at), tail.size());
    Say("  | %s\n", tail.substr(at, end - at).c_str());
    at = end + 1;
  }
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
  const Ran inspected = Run(folder, {kRoot + "/bin/ckpt-inspect", "--json", folder + "/" + checkpoint});
  const size_t at = inspected.output.find("\"identity\"");
  return at == std::string::npos ? "none: " + LastLine(inspected.output) : inspected.output.substr(at, 80);
}

// bin/train on the device, on a little corpus.
class Programs {
 public:
  explicit Programs(bool rehearse) : device_(rehearse ? "cpu" : "cuda"), data_(folder_.path + "/data") {
    if (const Ran made = Run(folder_.path, {kSource + "/tests/cli/make-shards", data_}); made.status != 0)
      throw std::runtime_error("make-shards: " + LastLine(made.output));
  }
  std::vector<std::string> Train(const std::string& out) const {
    return {kRoot + "/bin/train", "--profile", kSource + "/tests/cli/small.profile", "--data-path", data_, "--tokenizer-path", data_ + "/tokenizer.model",
            "--device", device_, "--threads", "1", "--iterations", "60", "--checkpoint-every", "5", "--train-batch-tokens", "256", "--grad-micro-steps", "8",
            "--out", folder_.path + "/" + out, "--resume", "newest"};
  }
  const std::string& folder() const { return folder_.path; }

 private:
  const Folder folder_;
  const std::string device_, data_;
};

// The command as so many ranks: by NCCL on GPUs, one each; in rehearsal by MPI. What each of them said and ended with.
std::vector<Ran> RunRanks(bool rehearse, int64_t count, const std::vector<std::string>& command) {
  const std::string number = std::to_string(count);
  if (rehearse) {
    std::vector<std::string> words{"mpirun", "--oversubscribe", "--bind-to", "none", "-n", number};
    words.insert(words.end(), command.begin(), command.end());
    const Folder folder;
    return {Run(folder.path, words, {{"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}, {"OMP_WAIT_POLICY", "PASSIVE"}})};
  }
  std::vector<std::thread> ranks;
  std::vector<Ran> ran(count);
  const std::vector<Folder> folders(count);
  for (int64_t rank = 0; rank < count; ++rank)
    ranks.emplace_back([&, rank] {
      ran[rank] = Run(folders[rank].path, command,
                      {{"RANK", std::to_string(rank)}, {"WORLD_SIZE", number}, {"LOCAL_RANK", std::to_string(rank)}, {"LOCAL_WORLD_SIZE", number},
                       {"MASTER_ADDR", "127.0.0.1"}, {"MASTER_PORT", "29671"}});
    });
  for (std::thread& rank : ranks) rank.join();
  return ran;
}

void ExpectAll(const std::vector<Ran>& ran, const std::string& what) {
  for (size_t rank = 0; rank < ran.size(); ++rank) {
    Expect(ran[rank].status == 0, StringPrintf("%s: status %d", what.c_str(), ran[rank].status));
    if (ran[rank].status != 0) SayTail(ran[rank].output);
  }
}

// Two checkpoints of a folder.
void ExpectSame(const std::string& folder, const std::string& one, const std::string& other, const std::string& what) {
  const std::string expected = Identity(folder, one), found = Identity(folder, other);
  Expect(expected == found && !expected.starts_with("none"), what + ": " + expected + " " + found);
}

// A run, and the same killed at its first checkpoint and resumed.
void CheckProgram(bool rehearse) {
  const Programs programs(rehearse);
  const Ran straight = Run(programs.folder(), programs.Train("straight.ckpt"));
  ExpectAll({straight}, "train");
  Say("  %s\n", LastLine(straight.output).c_str());
  const Ran killed = Run(programs.folder(), programs.Train("killed.ckpt"), {}, "killed.partial-000005");
  Expect(killed.status == 128 + SIGKILL, "it was killed before its end");
  const Ran resumed = Run(programs.folder(), programs.Train("killed.ckpt"));
  ExpectAll({resumed}, "train --resume");
  Expect(resumed.output.find("resume: from step") != std::string::npos, "it went on from a checkpoint");
  ExpectSame(programs.folder(), "straight.ckpt", "killed.ckpt", "killed and resumed, the same checkpoint");
}

// The ranks' test.
void CheckRanks(bool rehearse, int64_t count) {
  const std::string test = kRoot + "/tests/ranks_test";
  if (!fs::exists(test)) throw LeftOut{"no ranks_test in this build (MPI)"};
  std::vector<std::string> command{test};
  if (!rehearse) command.insert(command.end(), {"--device", "cuda"});
  const std::vector<Ran> ran = RunRanks(rehearse, count, command);
  for (const Ran& rank : ran) Say("  %s\n", LastLine(rank.output).c_str());
  ExpectAll(ran, "ranks_test");
}

// bin/train as several ranks, whose gradients and updates go from device to device: twice the same.
void CheckTrainingRanks(bool rehearse, int64_t count) {
  if (rehearse) count = 2;
  if (count == 1) throw LeftOut{"one rank moves nothing; RANKS=2 or more"};
  const Programs programs(rehearse);
  for (const char* out : {"one.ckpt", "again.ckpt"}) ExpectAll(RunRanks(rehearse, count, programs.Train(out)), StringPrintf("train, a rank of %d", static_cast<int>(count)));
  ExpectSame(programs.folder(), "one.ckpt", "again.ckpt", "the same checkpoint twice");
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
  explicit TimingDevice(Device& own) : own_(own), nothing_(Nothing()) {}
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
      const double seconds = SecondsOf(own);
      std::string name = typeid(own).name();  // mangled: N7fairway4cuda12EmbedForwardI…
      if (const size_t at = name.find("cuda"); at != std::string::npos) {
        const size_t digits = name.find_first_not_of("0123456789", at + 4);
        name = name.substr(digits, static_cast<size_t>(std::atoi(name.c_str() + at + 4)));
      }
      Kind& kind = kinds[name];
      kind.seconds += std::max(seconds - nothing_, 1e-9);
      kind.bytes += own.bytes();
      ++kind.launches;
    });
  }
  template <class Operation>
  double SecondsOf(const Operation& operation) {
    Synchronise(own_);
    const auto begin = Clock::now();
    own_.Launch(operation);
    Synchronise(own_);
    return SecondsSince(begin);
  }
  // To launch and to wait for an operation that adds nothing to nothing, at least: some 10 us, as long as a small operation takes.
  double Nothing() {
    const at::Tensor sums = at::zeros({1}, at::TensorOptions().dtype(at::kFloat).device(own_.torch_device()));
    double least = 1;
    for (int i = 0; i < 20; ++i)
      least = std::min(least, SecondsOf(AddColumns{.rows = 0, .stride = 1, .columns = 1, .values = nullptr, .sums = sums.mutable_data_ptr<float>()}));
    return least;
  }
  Device& own_;
  const double nothing_;
};

Settings OfProfile(const std::string& profile) {
  Settings settings;
  settings.LoadProfile(profile);
  return settings;
}

// A micro-step of a record's shape: whole, and by operation.
void TimeSteps(Device& gpu, const std::string& profile, const std::string& residual_precision, bool rehearse) {
  Settings settings = OfProfile(kSource + "/pipelines/" + profile + ".profile");
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
    Say("  %s, %s, residual stream in %s, %d x %d tokens: %.2f ms a micro-step, %.2f ms for the update of all matrices, which 8 ranks share; so 8 ranks' step is less than %.2f ms, and the wire\n", profile.c_str(),
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
    const auto engine = MakeEngine(settings, parameters.tensors(), training ? gradients.tensors() : NamedTensors(), gpu);
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
    for (const Precision& precision : kPrecisions)
      for (const bool training : {true, false}) {
        Options options = all_of_1855 ? k1855 : Options{};
        options.insert(precision.options.begin(), precision.options.end());
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
      Say("  %s: not to be had: %s\n", name, FirstLine(error.what()).c_str());
    }
  };
  time("flash, forward", [&] { flash = std::get<0>(at::_scaled_dot_product_flash_attention(q, k, v, 0.0, /*is_causal=*/true)); });
  time("cuDNN, forward", [&] { cudnn = std::get<0>(at::_scaled_dot_product_cudnn_attention(q, k, v, {}, true, 0.0, /*is_causal=*/true)); });
  if (flash.defined() && cudnn.defined()) Expect(Apart(cudnn, flash) <= 0.02, StringPrintf("cuDNN's attention is flash's, %.1e apart", Apart(cudnn, flash)));
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
  for (const char* name : {"NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "CUDA_LAUNCH_BLOCKING"})  // change what is checked
    if (const char* value = std::getenv(name)) Say("  %s=%s\n", name, value);
  if (std::FILE* driver = std::fopen("/proc/driver/nvidia/version", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, driver) != nullptr) Say("  %s", line);
    std::fclose(driver);
  }
  Say("  bfloat16 sums of products: %s\n", at::globalContext().allowBF16ReductionCuBLAS() == at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK
                                                 ? "may be reduced"
                                                 : "float32");
}

struct Arguments {
  bool rehearse = false, defects = false;
  std::string report = "check-gpu.txt", item, defect;
  int64_t ranks = 1;
};

void CheckModels(Device& gpu, const Precision& precision, bool small, bool few) {
  for (Options options : EveryOption(few)) {
    options.insert(precision.options.begin(), precision.options.end());
    CheckModel(gpu, options, small);
  }
}

struct Task {
  std::string name;
  double limit;  // seconds
  std::function<void(Device&)> work;
};

// What decides first, what only measures last.
std::vector<Task> Tasks(const Arguments& arguments) {
  const bool rehearse = arguments.rehearse;
  std::vector<Task> tasks{{"versions", 60, Versions}};
  for (const Precision& precision : kPrecisions)
    tasks.push_back({precision.name, 120, [&precision, rehearse](Device& gpu) {
      // Lanes that are threads are slow; cuda_test has all options in every precision.
      CheckModels(gpu, precision, /*small=*/rehearse, /*few=*/rehearse && &precision != &kPrecisions.front());
    }});
  tasks.insert(tasks.end(), {{"capture and replay", 60, CheckReplay},
                             {"stopped and resumed", 60, [](Device& gpu) { CheckResume(gpu, ""); }},
                             {"memory", 60, [](Device& gpu) { CheckMemory(gpu, ""); }},
                             {"a run, killed and resumed", 120, [rehearse](Device&) { CheckProgram(rehearse); }},
                             {"step of record-h100x8", 120,
                              [rehearse](Device& gpu) {
                                for (const char* residual_precision : {"bfloat16", "float32"}) TimeSteps(gpu, "record-h100x8", residual_precision, rehearse);
                              }},
                             {"attention", 60, TimeAttention},
                             {"ranks", 180, [&arguments](Device&) { CheckRanks(arguments.rehearse, arguments.ranks); }},
                             {"a run of several ranks", 120, [&arguments](Device&) { CheckTrainingRanks(arguments.rehearse, arguments.ranks); }}});
  return tasks;
}

bool Failed(const Item& item) { return item.outcome.starts_with("FAILED"); }
bool AnyFailed() { return std::any_of(items.begin(), items.end(), Failed); }

// In a process of its own, which says its outcome in the report's last line.
Item InProcess(const Task& task, const Arguments& arguments, const std::map<std::string, std::string>& more = {}) {
  const Folder folder;
  std::vector<std::string> command{"/proc/self/exe", "--report", arguments.report, "--ranks", std::to_string(arguments.ranks), "--item", task.name};
  if (arguments.rehearse) command.push_back("--rehearse");
  const auto begin = Clock::now();
  const double limit = arguments.rehearse ? 30 * task.limit : task.limit;  // a rehearsal proves nothing by its time
  const Ran ran = Run(folder.path, command, more, "", limit, /*shown=*/true);
  Item item{task.name, "", SecondsSince(begin)};
  const bool ended = ran.status == static_cast<int>(ExitStatus::kDone) || ran.status == static_cast<int>(ExitStatus::kGate);
  if (const std::string last = LastLine(std::string(InputFile(arguments.report).text())), mark = task.name + ": "; ended && last.starts_with(mark)) item.outcome = last.substr(mark.size());
  if (!item.outcome.empty()) return item;
  item.outcome = "FAILED: " + (item.seconds > limit ? StringPrintf("did not end in %.0f s", limit) : StringPrintf("its process ended with status %d", ran.status));
  SayTail(ran.output);
  Say("%s: %s\n", task.name.c_str(), item.outcome.c_str());
  return item;
}

// What can find defects, until something does. An update that goes wrong is to be found in every precision.
void CheckWithDefect(Device& gpu, const std::string& defect) {
  DefectiveDevice device(gpu, defect);
  const bool everywhere = defect.starts_with("update-");
  for (const Precision& precision : kPrecisions)
    if (everywhere || !AnyFailed()) Try(precision.name, [&] { CheckModels(device, precision, /*small=*/true, /*few=*/true); });
  if (AnyFailed()) return;
  Try("capture and replay", [&] { CheckReplay(device); });
  if (!AnyFailed()) Try("stopped and resumed", [&] { CheckResume(device, defect); });
  if (!AnyFailed()) Try("memory", [&] { CheckMemory(device, defect); });
}

int Defects(Device& gpu) {
  int missed = 0;
  for (const auto& [name, what] : kDefects) {
    items.clear();
    quiet = true;
    CheckWithDefect(gpu, name);
    quiet = false;
    const bool found = std::string(name).starts_with("update-") ? std::all_of(items.begin(), items.end(), Failed) : AnyFailed();
    missed += !found;
    Say("%-18s %-72s %s\n", name, what, found ? ("found by: " + items.back().name).c_str() : "NOT FOUND");
  }
  Say("check-gpu --defects: %s\n", missed == 0 ? "every defect is found" : "some are NOT FOUND");
  return static_cast<int>(missed == 0 ? ExitStatus::kDone : ExitStatus::kGate);
}

// In rehearsal the CPU, whose two lanes add up in another order than the one lane that it is compared with.
Device& DeviceToCheck(const Arguments& arguments) {
  static HostDevice one_lane(1), two_lanes(2);
  at::set_num_threads(1);
  if (arguments.rehearse) return arguments.item.starts_with("models") ? two_lanes : one_lane;
  Settings settings;
  settings.Set("device", "cuda", Origin::kCommandLine, "check-gpu");
  Device& gpu = *ChooseDevice(settings);
  UseThreads(settings);
  return gpu;
}

int Main(const Arguments& arguments) {
  const auto begin = Clock::now();
  if (!arguments.rehearse) {
    if (GpuCount() == 0 && GpuTrouble().empty()) {
      std::printf("check-gpu: %s; no GPU: skipped\n", BuiltWithCuda() ? "this build has CUDA" : "this build is for CPUs only");
      return 0;
    }
    if (GpuCount() == 0) throw GateError(GpuTrouble());
    if (!BuiltWithCuda()) throw GateError("there is a GPU, and this build is for CPUs only: it found no nvcc of the torch wheel's CUDA release (PATH, CUDA_HOME)");
  }
  if (arguments.item.empty()) std::remove(arguments.report.c_str());
  report = std::fopen(arguments.report.c_str(), "a");
  if (report == nullptr) throw IoError(arguments.report, "cannot be written");
  if (arguments.defects) return Defects(DeviceToCheck(arguments));
  if (!arguments.defect.empty()) {
    CheckWithDefect(DeviceToCheck(arguments), arguments.defect);
  } else if (!arguments.item.empty()) {
    for (const Task& task : Tasks(arguments))
      if (task.name == arguments.item) Try(task.name, [&] { task.work(DeviceToCheck(arguments)); });
    if (items.empty()) throw UsageError("--item " + arguments.item + ": there is no such item");
    return static_cast<int>(AnyFailed() ? ExitStatus::kGate : ExitStatus::kDone);
  } else {
    for (const Task& task : Tasks(arguments)) {
      items.push_back(InProcess(task, arguments));
      const std::string& outcome = items.back().outcome;
      if (arguments.rehearse || !Failed(items.back()) || (outcome.find("CUDA") == std::string::npos && outcome.find("status") == std::string::npos)) continue;
      Say("once more, each launch waited for:\n");
      InProcess(task, arguments, {{"CUDA_LAUNCH_BLOCKING", "1"}});
    }
  }
  Say("\n=== in short\n");
  for (const Item& item : items) Say("%7.1f s  %-30s %s\n", item.seconds, item.name.c_str(), item.outcome.c_str());
  Say("check-gpu: %s, %.0f s; the report is %s\n", AnyFailed() ? "NOT as it should be" : "all as it should be", SecondsSince(begin), arguments.report.c_str());
  return static_cast<int>(AnyFailed() ? ExitStatus::kGate : ExitStatus::kDone);
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
    else if (word == "--item" && more) arguments.item = argv[++i];
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
