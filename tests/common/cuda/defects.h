// Deliberate defects of a device (common/cuda/device.h) for check_gpu --defects: each must be found by a check. They change what is
// launched, on a GPU and on the CPU in its place alike.
#pragma once

#include <string>
#include <vector>

#include "common/cuda/device.h"

namespace fairway::cuda {

struct Defect {
  const char *name, *what;
};
// In the order of docs/gpu.md.
inline constexpr Defect kDefects[] = {
    {"update-missing", "Muon's update never reaches the weights"},
    {"update-reversed", "Muon's update goes the other way"},
    {"update-half", "Muon's update is half as long"},
    {"clip-ignored", "gradients reach the momentum unclipped"},
    {"sum-missing", "partial sums of vectors' gradients are not added up"},
    {"rotation-reversed", "queries and keys are rotated the other way in the forward pass"},
    {"norm-biased", "an RMS norm's backward pass forgets the residual path"},
    {"gate-open", "attention gates do not read their input"},
    {"lanes-swapped", "what attention and MLP add to the lanes is mistaken for each other"},
    {"smear-constant", "the smear gate does not read its token"},
    {"cap-wrong", "the losses have another softcap"},
    {"table-rows", "embedding gradients of rows in several pieces are lost"},
    {"replay-lost", "every third replay of a captured graph does nothing"},
    {"bits-differ", "a matrix is 1% larger, in some calls"},
    {"resume-forgets", "a resumed run begins with empty momentum"},
    {"estimate-short", "the engine takes more memory than is said"},
};

// Whether an operation is of a kind, whatever types it has.
template <class Operation, template <class...> class Kind>
inline constexpr bool kIsA = false;
template <template <class...> class Kind, class... Types>
inline constexpr bool kIsA<Kind<Types...>, Kind> = true;

class DefectiveDevice : public Device {
 public:
  DefectiveDevice(Device& own, std::string defect) : own_(own), defect_(std::move(defect)) {}

  at::Device torch_device() const override { return own_.torch_device(); }
  std::string name() const override { return own_.name(); }
  std::unique_ptr<Graph> Capture(const std::function<void()>& work) override {
    struct Losing : Graph {
      void Replay() override {
        if (++replays % 3 != 0) graph->Replay();
      }
      std::unique_ptr<Graph> graph;
      int replays = 0;
    };
    if (defect_ != "replay-lost") return own_.Capture(work);
    auto losing = std::make_unique<Losing>();
    losing->graph = own_.Capture(work);
    return losing;
  }

 private:
  bool Is(const char* defect) const { return defect_ == defect; }

  // Launches the operation as it is, changed, or not at all.
  template <class Operation>
  void Damaged(Operation operation) {
    using std::is_same_v;
    if constexpr (is_same_v<Operation, MuonUpdate>) {
      if (Is("update-missing")) return;
      if (Is("update-reversed")) operation.learning_rate = -operation.learning_rate, operation.decay = -operation.decay;
      if (Is("update-half")) operation.learning_rate /= 2, operation.decay *= 2;
    }
    if constexpr (is_same_v<Operation, MuonMomentum>) {
      if (Is("clip-ignored")) operation.factor = 1;
    }
    if constexpr (is_same_v<Operation, AddColumns>) {
      if (Is("sum-missing")) return;
    }
    if constexpr (kIsA<Operation, QkForward>) {
      // The sine's argument reversed is its neighbour on the other side of 0; cos and sin change places instead, which needs no
      // memory.
      if (Is("rotation-reversed")) std::swap(operation.heads.cos, operation.heads.sin);
    }
    if constexpr (kIsA<Operation, NormBackward>) {
      if (Is("norm-biased")) operation.dresidual = nullptr;
    }
    if constexpr (kIsA<Operation, AttentionGates>) {
      if (Is("gate-open")) operation.gate.scale = 0;
    }
    if constexpr (kIsA<Operation, LanesForward>) {
      if (Is("lanes-swapped")) std::swap(operation.in.a, operation.in.m);
    }
    if constexpr (kIsA<Operation, SmearGateForward>) {
      if (Is("smear-constant")) operation.in.window = 0;
    }
    if constexpr (kIsA<Operation, CrossEntropy>) {
      if (Is("cap-wrong")) operation.cap *= 1.1f;
    }
    if constexpr (is_same_v<Operation, JoinPieces>) {
      if (Is("table-rows")) return;
    }
    if constexpr (kIsA<Operation, PrepareRows>) {
      if (Is("bits-differ") && ++launches_ % 97 == 0) operation.matrix.constant *= 1.01f;
    }
    own_.Launch(operation);
  }
  void LaunchNumber(int number, const void* operation) override {
    Operations::At(number, operation, [&](const auto& own) { Damaged(own); });
  }

  Device& own_;
  const std::string defect_;
  int64_t launches_ = 0;
};

}  // namespace fairway::cuda
