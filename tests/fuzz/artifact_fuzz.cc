// An artifact, or a plain checkpoint in its place, as eval-sliding reads it.
#include "common/quantise/artifact.h"
#include "tests/fuzz/fuzz.h"

using namespace fairway;

FUZZ(input) {
  static fuzz::MemoryFile file;
  fuzz::Takes([&] {
    const CheckpointReader weights = OpenWeights(file.With(input));
    weights.Verify();
    for (const TensorInfo& info : weights.tensors())
      if (info.quantisation) fuzz::Takes([&] { Dequantise(weights, info); });
  });
}
