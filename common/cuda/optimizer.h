// The optimisers of pull request 531, on a device: Newton-Schulz on all matrices of one shape at once, the library's fused
// AdamW. A step waits for nothing; the norm does, which the host decides by.
#pragma once

#include <vector>

#include "common/cuda/device.h"
#include "common/optim/muon.h"
#include "common/optim/optimizer.h"

namespace fairway::cuda {

class DeviceOptimizer : public Optimizer {
 public:
  // As Optimizer's, on a device.
  DeviceOptimizer(const Settings& settings, const FlatLayout& layout, FlatTensors parameters, FlatTensors gradients,
                  Device& device, Communicator& communicator = Communicator::Single());

  void Step(double scale, double momentum, double gradient_factor = 1) override;

 private:
  // Matrices of one shape that this rank steps.
  struct MuonBatch {
    std::vector<at::Tensor> updates;  // what is orthogonalised, and what comes of it
    double scale;
  };

  // Waits for the device.
  double Squares(FlatRange range) const override;

  Device& device_;
  std::vector<MuonBatch> muons_;
  at::Tensor inverse_factor_, learning_rate_, steps_;  // float32 scalars
};

// Polar Express, with the first `steps` of its coefficients, on x in place of Newton-Schulz.
at::Tensor PolarExpressOf(at::Tensor x, int64_t steps);

// Each row of x, bfloat16 [matrices, rows, columns], over its norm.
at::Tensor RowsNormalised(const at::Tensor& x);

// `steps` Newton-Schulz iterations on x, bfloat16 [matrices, rows, columns], without the last scaling.
at::Tensor NewtonSchulzOf(at::Tensor x, int64_t steps);

}  // namespace fairway::cuda
