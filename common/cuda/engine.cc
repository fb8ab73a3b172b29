#include "common/cuda/engine.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <stdexcept>

#include "common/cuda/backend.h"

namespace fairway::cuda {
namespace {

// Whether memory of the shape `reserved` serves rows of the shape `asked`: of packed documents, where there are no more.
bool Serves(const BatchShape& reserved, const BatchShape& asked) {
  if (asked.segments == 0) return reserved == asked;
  return reserved.B == asked.B && reserved.T == asked.T && reserved.segments >= asked.segments && reserved.longest >= asked.longest &&
         reserved.positions >= asked.positions;
}

class DeviceEngine : public Engine {
 public:
  DeviceEngine(const Settings& settings, const NamedTensors& parameters, const NamedTensors& gradients, Device& device)
      : settings_(settings),
        parameters_(parameters),
        gradients_(gradients),
        device_(device),
        loss_(at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(device.torch_device()))) {
    Prepare(/*fake_quantise=*/false);
  }

  int64_t Prepare(bool fake_quantise) override {
    losses_.clear();
    fake_quantise_ = fake_quantise;
    training_.prepared = scoring_.prepared = false;
    return Prepared(gradients_.empty() ? scoring_ : training_);
  }
  void FixSteps(const FixedSteps& steps) override {
    steps_ = steps;
    for (Passes* passes : {&training_, &scoring_})
      if (passes->backend) passes->backend->FixSteps(steps);
  }
  void FinishGradients() override { training_.backend->FinishGradients(); }
  void SetLooped(bool looped) override {
    if (looped_ == looped) return;
    looped_ = looped;
    for (Passes* passes : {&training_, &scoring_}) {
      if (passes->backend) passes->backend->SetLooped(looped);
      passes->shape = {};
    }
  }

  using Engine::AccumulateGradients;
  using Engine::TokenLosses;
  void AccumulateGradients(std::span<const Segment> segments, double share) override {
    const auto positions = static_cast<double>(PositionsIn(segments));
    const float share_of_one = static_cast<float>(share / positions);
    EachChunk(segments, [&](std::span<const Segment> chunk) { MicroStep(Begin(training_, chunk), share_of_one); });
    losses_.push_back(loss_ / positions);
    loss_.zero_();
  }

  std::vector<float> Losses() const override {
    std::vector<float> losses;
    if (losses_.empty()) return losses;
    const at::Tensor all = at::cat(losses_).to(at::kFloat).cpu();
    losses.assign(all.const_data_ptr<float>(), all.const_data_ptr<float>() + all.numel());
    return losses;
  }

  void TokenLosses(std::span<const Segment> segments, int64_t first, float* losses) override {
    EachChunk(segments, [&](std::span<const Segment> chunk) {
      const Inputs inputs = Begin(scoring_, chunk);
      const bool sequences = inputs.shape.segments == 0;
      const at::Tensor scored = scoring_.backend->TokenLosses(inputs, sequences ? first : 0).cpu();
      const float* own = scored.const_data_ptr<float>();
      if (sequences) {
        losses = std::copy_n(own, scored.numel(), losses);
        return;
      }
      for (const Segment& segment : chunk) {
        losses = std::copy(own + first, own + segment.length, losses);
        own += segment.length;
      }
    });
  }

  void ContinueLosses(const uint16_t*, int64_t, int64_t, float*) override {
    throw std::logic_error("no keys and values are kept on a device");
  }

 private:
  // Where the host puts a micro-batch together: page-locked memory, so that its copy to the device waits for nothing.
  class Stage {
   public:
    void Reserve(int64_t size, at::Device device) {
      Wait();
      const bool gpu = device.is_cuda();
      memory_ = at::empty({size}, at::TensorOptions().dtype(at::kInt).pinned_memory(gpu));
      if (gpu && !copied_) copied_.emplace(device.type());
    }
    // The memory, once the last copy out of it is done.
    int32_t* Wait() {
      if (copied_) copied_->synchronize();
      return memory_.defined() ? memory_.mutable_data_ptr<int32_t>() : nullptr;
    }
    void CopyTo(const at::Tensor& device) {
      device.copy_(memory_, /*non_blocking=*/true);
      if (copied_) copied_->record(c10::impl::VirtualGuardImpl(device.device().type()).getStream(device.device()));
    }

   private:
    at::Tensor memory_;
    std::optional<c10::Event> copied_;  // none where host and device are one
  };

  // Calls work(chunk) for as many segments at a time as micro_batch_seqs says, or for as many short ones as have the rows of these.
  template <class Work>
  void EachChunk(std::span<const Segment> segments, Work work) {
    int64_t most = PositionsIn(segments);
    if (settings_.micro_batch_seqs > 0) {
      int64_t longest = 0;
      for (const Segment& segment : segments) longest = std::max(longest, segment.length);
      most = settings_.micro_batch_seqs * longest;
    }
    for (size_t first = 0, count = 0; first < segments.size(); first += count) {
      count = 0;
      for (int64_t rows = 0; first + count < segments.size() && rows + segments[first + count].length <= most; ++count)
        rows += segments[first + count].length;
      work(segments.subspan(first, count));
    }
  }

  // Training's passes or scoring's: each has its memory, so that scores between steps take none from a captured micro-step.
  struct Passes {
    std::unique_ptr<Backend> backend;  // made where it is first used
    bool prepared = false;             // of the parameters as they are
    BatchShape shape;
    at::Tensor inputs;
    std::array<Stage, 2> stages;
    size_t turn = 0;
  };

  // Prepares the parameters for these passes, unless they are; returns how many matrices were rounded.
  int64_t Prepared(Passes& passes) {
    if (!passes.backend) {
      passes.backend = MakeBackend(settings_, parameters_, gradients_, device_);
      if (steps_) passes.backend->FixSteps(*steps_);
      if (looped_) passes.backend->SetLooped(*looped_);
    }
    if (passes.prepared) return 0;
    passes.prepared = true;
    return passes.backend->Prepare(fake_quantise_);
  }

  // Reserves memory for passes of this shape and starts to copy the tokens to the device.
  Inputs Begin(Passes& passes, std::span<const Segment> segments) {
    Prepared(passes);
    const bool training = &passes == &training_;
    if (const BatchShape shape = BatchShapeOf(settings_, segments); !Serves(passes.shape, shape)) {
      if (training) {
        graph_.reset();  // it works on memory that goes now
        warm_ = false;
      }
      passes.backend->Reserve(shape, training);
      const int64_t size = Inputs::Size(settings_, shape);
      passes.inputs = at::empty({size}, at::TensorOptions().dtype(at::kInt).device(device_.torch_device()));
      for (Stage& stage : passes.stages) stage.Reserve(size, device_.torch_device());
      passes.shape = shape;
    }
    Stage& stage = passes.stages[passes.turn++ % passes.stages.size()];
    Inputs(settings_, passes.shape, stage.Wait()).Fill(settings_, segments);
    stage.CopyTo(passes.inputs);
    return Inputs(settings_, passes.shape, passes.inputs.mutable_data_ptr<int32_t>());
  }

  // The first micro-step of a shape runs as it is, and lets the libraries take what memory they want; the second is captured.
  void MicroStep(const Inputs& inputs, float share) {
    const auto work = [this, inputs, share] { training_.backend->AccumulateGradients(inputs, share, loss_); };
    if (!warm_) {
      work();
      warm_ = true;
      return;
    }
    if (graph_ == nullptr || share != captured_share_) {
      graph_.reset();  // its memory serves the next one
      graph_ = device_.Capture(work);
      captured_share_ = share;
    }
    graph_->Replay();
  }

  const Settings settings_;
  const NamedTensors parameters_, gradients_;
  Device& device_;
  const at::Tensor loss_;            // float64 [1], where a replayed micro-step adds its losses
  std::vector<at::Tensor> losses_;  // float64 [1] each: what Losses brings to the host
  // What the passes are to know when they are made.
  bool fake_quantise_ = false;
  std::optional<FixedSteps> steps_;
  std::optional<bool> looped_;
  Passes training_, scoring_;
  bool warm_ = false;
  std::unique_ptr<Graph> graph_;
  float captured_share_ = 0;
};

}  // namespace

std::unique_ptr<Engine> MakeEngine(const Settings& settings, NamedTensors parameters, NamedTensors gradients, Device& device) {
  return std::make_unique<DeviceEngine>(settings, parameters, gradients, device);
}

}  // namespace fairway::cuda
