// The optimisers on the CPU's threads: each thread takes one matrix after the other.
#pragma once

#include <vector>

#include "common/optim/muon.h"
#include "common/optim/optimizer.h"

namespace fairway {

class CpuOptimizer : public Optimizer {
 public:
  // As Optimizer's, in the CPU's memory.
  CpuOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients,
               Communicator& communicator = Communicator::Single());

  void Step(double scale, double momentum, double gradient_factor = 1) override;

 private:
  struct Muon {
    at::Tensor parameter, gradient, momentum, update;
  };

  double Squares(FlatRange range) const override;
  void StepAdam(const Adam& adam, double scale, double gradient_factor);
  MuonStep StepOf(const Muon& muon, double scale, double momentum, double gradient_factor) const;

  std::vector<Muon> muons_, own_;  // all; those that this rank steps, the most work first
  std::vector<std::vector<char>> scratch_;  // of each thread
};

}  // namespace fairway
