#include "common/calibrate/calibrate.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_cholesky.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <random>

#include "common/base/error.h"
#include "common/base/text.h"
#include "common/evaluate/generate.h"
#include "common/evaluate/memory.h"
#include "common/model/flat.h"
#include "common/model/ops/team.h"
#include "common/optim/flat_kernels.h"
#include "common/optim/partition.h"
#include "common/plan/plan.h"
#include "common/runtime/runtime.h"

namespace fairway {
namespace {

std::vector<double> Doubles(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.to(at::kDouble).contiguous();
  return {whole.const_data_ptr<double>(), whole.const_data_ptr<double>() + whole.numel()};
}

bool HasGrid(const std::string& name, const at::Tensor& weight, const Settings& settings) {
  return weight.dim() == 2 && ExportGrid(name, weight.size(0), weight.size(1), settings);
}

// Calls round(window, count) for each round of `windows`, of which every rank has one: `window` is this rank's, null where the last
// round has none for it, and count says how many ranks have one. What ranks add to a sum is added in the order of the windows, so
// that any number of ranks comes to the bits that one comes to.
template <typename Round>
void InRounds(const std::vector<std::vector<uint16_t>>& windows, const Communicator& communicator, const std::function<void()>& done,
              Round round) {
  const size_t ranks = communicator.world_size(), rank = communicator.rank();
  for (size_t first = 0; first < windows.size(); first += ranks) {
    const size_t count = std::min(ranks, windows.size() - first);
    round(rank < count ? &windows[first + rank] : nullptr, static_cast<int64_t>(count));
    for (size_t i = 0; i < count; ++i) done();
  }
}

// Squared gradients of matrices, summed by row and by column in one pass over each. What is added to what does not depend on the
// number of threads: rows are taken a few at a time, and the sums of these are added in their order.
class SquareSums {
 public:
  SquareSums(const NamedTensors& gradients, int threads) : threads_(threads) {
    int64_t place = 0, partial = 0;
    for (const auto& [name, gradient] : gradients) {
      const int64_t rows = gradient.size(0), columns = gradient.size(1);
      for (int64_t row = 0; row < rows; row += kRows) {
        parts_.push_back({gradient.mutable_data_ptr<float>(), columns, {row, std::min(row + kRows, rows)}, place, place + rows, partial});
        partial += columns;
      }
      place += rows + columns;
    }
    partial_.resize(partial);
  }

  // squares: of each matrix the sums by row and then by column. The gradients are 0 afterwards.
  void Take(std::vector<double>& squares) {
    RunTeam(threads_, [&](const Team& team) {
      const Rows share = team.Share(static_cast<int64_t>(parts_.size()));
      for (int64_t i = share.first; i < share.last; ++i) {
        const Part& part = parts_[i];
        TakeSquares(part.gradient, part.columns, squares.data() + part.by_row, partial_.data() + part.partial, part.rows);
      }
    });
    for (const Part& part : parts_) {
      double* const sums = squares.data() + part.by_column;
      if (part.rows.first == 0) std::fill_n(sums, part.columns, 0.0);
      for (int64_t j = 0; j < part.columns; ++j) sums[j] += partial_[part.partial + j];
    }
  }

 private:
  static constexpr int64_t kRows = 64;  // so few that float32 holds their sums well, and so many that sums of parts are few
  struct Part {
    float* gradient;
    int64_t columns;
    Rows rows;
    int64_t by_row, by_column;  // where the matrix's sums lie
    int64_t partial;            // where these rows' sums by column lie
  };
  const int threads_;
  std::vector<Part> parts_;
  std::vector<float> partial_;
};

std::map<std::string, Cost> MeasureCosts(const NamedTensors& weights, const Settings& settings,
                                         const std::vector<std::vector<uint16_t>>& windows, Communicator& communicator,
                                         const std::function<void()>& done) {
  const FlatLayout layout(settings);
  FlatTensors parameters(layout, layout.embeddings_dtype()), gradients(layout, at::kFloat);
  for (size_t i = 0; i < weights.size(); ++i) parameters.tensors()[i].second.copy_(weights[i].second);
  NamedTensors matrices, others;  // their gradients
  int64_t numbers = 0;
  for (const auto& [name, gradient] : gradients.tensors()) {
    const bool has_grid = HasGrid(name, gradient, settings);
    (has_grid ? matrices : others).emplace_back(name, gradient);
    if (has_grid) numbers += gradient.size(0) + gradient.size(1);
  }
  SquareSums square_sums(matrices, settings.ThreadCount());
  const std::unique_ptr<Engine> engine = MakeEngine(settings, parameters.tensors(), gradients.tensors(), nullptr);
  engine->Prepare(/*fake_quantise=*/false);
  const int64_t T = settings.calibration_tokens;
  // Sums of squared gradients, of each matrix by row and then by column.
  at::Tensor sums = at::zeros({numbers}, at::kDouble);
  std::vector<double> squares(numbers);
  InRounds(windows, communicator, done, [&](const std::vector<uint16_t>* window, int64_t count) {
    if (window != nullptr) {
      const uint16_t* const sequence = window->data();
      engine->AccumulateGradients({&sequence, 1}, T, /*share=*/1);
      engine->FinishGradients();
      square_sums.Take(squares);
      for (const auto& [name, gradient] : others) gradient.zero_();
    }
    std::vector<double> all = communicator.Gather(squares);
    for (int64_t rank = 0; rank < count; ++rank) sums.add_(at::from_blob(all.data() + rank * numbers, {numbers}, at::kDouble));
  });
  // The gradient of a window's mean loss squares to 1 / T of what a single token's does.
  const double scale = static_cast<double>(T) / static_cast<double>(windows.size());
  std::map<std::string, Cost> costs;
  double largest = 0;
  int64_t first = 0;
  for (const auto& [name, gradient] : matrices) {
    const int64_t rows = gradient.size(0), columns = gradient.size(1);
    const at::Tensor by_row = sums.narrow(0, first, rows), by_column = sums.narrow(0, first + rows, columns);
    first += rows + columns;
    costs[name] = {by_row.sum().item<double>() * scale / static_cast<double>(rows * columns),
                   Doubles(by_row * (scale / static_cast<double>(columns))), Doubles(by_column * (scale / static_cast<double>(rows)))};
    largest = std::max(largest, costs[name].mean);
  }
  // A matrix that gradients do not reach costs nothing as far as these windows say; a step must be finite.
  for (auto& [name, cost] : costs) cost.mean = std::max({cost.mean, 1e-8 * largest, 1e-30});
  return costs;
}

// A linear layer's matrix: one rank sums the moments of its inputs, and inverts them for all.
struct Layer {
  int64_t columns, rank;
  at::Tensor product;  // of the inputs of this rank's window, float32 [columns, columns]
  at::Tensor moments;  // where the rank is this one: their sum over all windows, float64
};

// Of the CPU's memory what the communicator can move: NCCL moves that of GPUs.
at::Tensor ForTransfer(const at::Tensor& tensor, const Communicator& communicator) {
  return communicator.name() == "nccl" ? tensor.to(at::kCUDA) : tensor;
}

// Adds the products of a round, of which the first `count` ranks have one, to the moments.
void AddProducts(std::map<std::string, Layer>& layers, int64_t count, Communicator& communicator) {
  const int64_t me = communicator.rank();
  std::vector<at::Tensor> received, sent;  // received: of each layer of this rank's, from each other rank in turn
  std::vector<Message> sends, receives;
  for (auto& [name, layer] : layers) {
    const int64_t bytes = layer.columns * layer.columns * static_cast<int64_t>(sizeof(float));
    if (layer.rank != me && me < count) {
      sent.push_back(ForTransfer(layer.product, communicator));
      sends.push_back({sent.back().mutable_data_ptr(), bytes, layer.rank});
    }
    for (int64_t rank = 0; layer.rank == me && rank < count; ++rank) {
      if (rank == me) continue;
      received.push_back(ForTransfer(at::empty({layer.columns, layer.columns}, at::kFloat), communicator));
      receives.push_back({received.back().mutable_data_ptr(), bytes, rank});
    }
  }
  communicator.Wait(communicator.Exchange(sends, receives));
  auto from_others = received.begin();
  for (auto& [name, layer] : layers)
    for (int64_t rank = 0; layer.rank == me && rank < count; ++rank)
      layer.moments.add_((rank == me ? layer.product : *from_others++).cpu().to(at::kDouble));
}

std::map<std::string, Feedback> MeasureFeedback(const NamedTensors& weights, const Settings& settings,
                                                const std::vector<std::vector<uint16_t>>& windows, Communicator& communicator,
                                                const std::function<void()>& done) {
  const at::NoGradGuard no_gradients;
  std::map<std::string, Layer> layers;
  for (const auto& [name, weight] : weights)
    if (HasGrid(name, weight, settings) && !IsTable(RoleOf(name))) layers[name].columns = weight.size(1);
  std::vector<int64_t> work;
  for (const auto& [name, layer] : layers) work.push_back(layer.columns * layer.columns * layer.columns);
  const std::vector<int64_t> ranks = Balance(work, communicator.world_size());
  auto rank = ranks.begin();
  for (auto& [name, layer] : layers) {
    layer.rank = *rank++;
    if (layer.rank == communicator.rank()) layer.moments = at::zeros({layer.columns, layer.columns}, at::kDouble);
  }

  Transformer model(settings, weights);
  model.Observe([&](const std::string& name, const at::Tensor& weight, const at::Tensor& x) {
    if (!HasGrid(name, weight, settings) || IsTable(RoleOf(name))) return;
    const at::Tensor rows = x.reshape({-1, x.size(-1)}).to(at::kFloat), product = rows.t().mm(rows);
    at::Tensor& sum = layers.at(name).product;  // over the visits of a looped layer
    sum = sum.defined() ? sum + product : product;
  });
  const int64_t T = settings.calibration_tokens;
  InRounds(windows, communicator, done, [&](const std::vector<uint16_t>* window, int64_t count) {
    if (window != nullptr) {
      const std::vector<int64_t> ids(window->begin(), window->begin() + T);
      for (auto& [name, layer] : layers) layer.product.reset();
      model.Logits(at::from_blob(const_cast<int64_t*>(ids.data()), {1, T}, at::kLong));
    }
    AddProducts(layers, count, communicator);
  });

  std::map<std::string, Feedback> all;
  std::vector<at::Tensor> moved;  // order and triangle of each
  std::vector<Message> messages;
  for (auto& [name, layer] : layers) {
    layer.product.reset();
    Feedback& feedback = all[name];
    if (layer.rank == communicator.rank()) {
      feedback = MakeFeedback(layer.moments, static_cast<int64_t>(windows.size()) * T, settings.gptq_damping,
                              settings.gptq_order == "descending");
      layer.moments.reset();
    } else {
      feedback.order.resize(layer.columns);
      feedback.upper.resize(layer.columns * layer.columns);
    }
    for (const at::Tensor& part : {at::from_blob(feedback.order.data(), {layer.columns}, at::kInt),
                                   at::from_blob(feedback.upper.data(), {layer.columns, layer.columns}, at::kFloat)}) {
      moved.push_back(ForTransfer(part, communicator));
      messages.push_back({moved.back().mutable_data_ptr(), static_cast<int64_t>(part.nbytes()), layer.rank});
    }
    done();
  }
  communicator.Wait(communicator.Broadcast(messages));
  auto part = moved.begin();
  for (auto& [name, feedback] : all) {
    const auto columns = static_cast<int64_t>(feedback.order.size());
    at::from_blob(feedback.order.data(), {columns}, at::kInt).copy_(*part++);
    at::from_blob(feedback.upper.data(), {columns, columns}, at::kFloat).copy_(*part++);
  }
  return all;
}

}  // namespace

Feedback MakeFeedback(const at::Tensor& moments, int64_t count, double damping, bool descending) {
  const int64_t n = moments.size(0);
  at::Tensor h = moments / static_cast<double>(count);
  // Inputs that are all zero leave nothing to take a share of.
  const double added = std::max(damping * h.diagonal().mean().item<double>(), 1e-12);
  h.diagonal().add_(added);
  at::Tensor order = at::arange(n, at::kLong);
  if (descending) {
    order = h.diagonal().argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
    h = h.index_select(0, order).index_select(1, order);
  }
  // One after the other: of a wide layer each takes as much as all other memory (EstimateCalibration).
  h = at::linalg_cholesky(h);
  h = at::cholesky_inverse(h);
  h = at::linalg_cholesky(h, /*upper=*/true);
  const at::Tensor upper = h.to(at::kFloat).contiguous();
  Feedback feedback;
  feedback.order.assign(order.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>() + n);
  feedback.upper.assign(upper.const_data_ptr<float>(), upper.const_data_ptr<float>() + n * n);
  return feedback;
}

void CheckWindows(const Settings& settings, const ShardSet& train) {
  if (train.tokens() > settings.calibration_tokens) return;
  throw InputError(train.files().front(), StringPrintf("the training split holds %jd tokens where a calibration window needs %jd",
                                                       train.tokens(), settings.calibration_tokens + 1));
}

CalibrationWindows DrawWindows(const Settings& settings, const ShardSet& train) {
  CheckWindows(settings, train);
  const int64_t T = settings.calibration_tokens, places = train.tokens() - T;
  std::mt19937_64 random(static_cast<uint64_t>(settings.calibration_seed));
  CalibrationWindows windows(settings.calibration_windows, std::vector<uint16_t>(T + 1));
  for (std::vector<uint16_t>& window : windows)
    train.Read(static_cast<int64_t>(random() % static_cast<uint64_t>(places)), T + 1, window.data());
  return windows;
}

CalibrationWindows GenerateWindows(const NamedTensors& weights, const Settings& settings, Communicator& communicator,
                                   const std::function<void(int64_t, int64_t)>& progress) {
  const Transformer model(settings, weights);
  CalibrationWindows windows;
  while (static_cast<int64_t>(windows.size()) < settings.calibration_windows) {
    // Of each round every rank generates one, the last round's surplus for nothing.
    const auto number = static_cast<int64_t>(windows.size()) + communicator.rank();
    std::seed_seq seed{static_cast<uint32_t>(settings.calibration_seed), static_cast<uint32_t>(settings.calibration_seed >> 32),
                       static_cast<uint32_t>(number)};
    Sampling sampling;
    sampling.tokens = settings.calibration_tokens;
    sampling.temperature = 1;
    sampling.seed = std::mt19937_64(seed)();
    const std::vector<int64_t> ids = Generate(model, settings, {kBos}, sampling);
    const std::vector<double> all = communicator.Gather(std::vector<double>(ids.begin(), ids.end()));
    for (auto id = all.begin(); id != all.end() && static_cast<int64_t>(windows.size()) < settings.calibration_windows;
         id += settings.calibration_tokens) {
      windows.emplace_back(1, kBos);
      windows.back().insert(windows.back().end(), id, id + settings.calibration_tokens);
      progress(static_cast<int64_t>(windows.size()), settings.calibration_windows);
    }
  }
  return windows;
}

Calibration Calibrate(const NamedTensors& weights, const Settings& settings, const ShardSet& train,
                      const std::function<void(int64_t, int64_t)>& progress, Communicator& communicator) {
  return Calibrate(weights, settings, DrawWindows(settings, train), progress, communicator);
}

Calibration Calibrate(const NamedTensors& weights, const Settings& settings, const CalibrationWindows& windows,
                      const std::function<void(int64_t, int64_t)>& progress, Communicator& communicator) {
  const bool gptq = settings.quantiser == "gptq";
  int64_t all = static_cast<int64_t>(windows.size()), so_far = 0;
  if (gptq) {
    all *= 2;
    for (const auto& [name, weight] : weights) all += HasGrid(name, weight, settings) && !IsTable(RoleOf(name));
  }
  const auto done = [&] { progress(++so_far, all); };
  Calibration calibration;
  calibration.costs = MeasureCosts(weights, settings, windows, communicator, done);
  if (gptq) calibration.feedback = MeasureFeedback(weights, settings, windows, communicator, done);
  return calibration;
}

double EstimateCalibration(const Settings& settings) {
  const Plan plan(settings);
  double moments = 0, widest = 0;
  for (const Weight& weight : plan.weights) {
    if (weight.shape.size() != 2) continue;
    const double square = static_cast<double>(weight.shape[1]) * static_cast<double>(weight.shape[1]);
    moments += square;
    widest = std::max(widest, square);
  }
  Settings window = settings;
  window.train_seq_len = settings.calibration_tokens;
  // Parameters and gradients, and memory for intermediate values; for gptq the plain model's activations are fewer than the
  // engine's, and there are a window's products in float32 beside their sums in float64, and what inverts one of these: up to five
  // matrices of its size. Several ranks have products of others instead of sums.
  const double costs = 12 * static_cast<double>(plan.parameters()) + EngineBytes(window, 1, /*training=*/true);
  return kLibTorchBytes + costs + (settings.quantiser == "gptq" ? 12 * moments + 40 * widest + 64e6 : 0);
}

}  // namespace fairway
