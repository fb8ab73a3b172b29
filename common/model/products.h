// Who computes the CPU engine's matrix products: our tile kernels (ops/product.h), or oneDNN's through LibTorch, on the same packed
// operands. oneDNN's multiply in the tiles of a processor that has them (AMX), which ours do not.
#pragma once

#include <string>

#include "common/settings/settings.h"

namespace fairway {

// By settings.products, for this process: own; library; or auto, which goes by what the processor has and by the products' shapes, and
// never by a measurement, so that runs repeat. Throws UsageError for library where LibTorch has no such kernel for this processor.
// REQUIRES: nothing is being multiplied.
void ChooseProducts(const Settings& settings);

// The processor's best instructions for products: "AMX bfloat16", "AVX-512 bfloat16", "AVX-512", "AVX2", "NEON bfloat16", "NEON"
// or "none".
std::string ProductCapability();
// Whether LibTorch has a kernel for products of this precision on this processor.
bool LibraryMultiplies(const std::string& precision);

}  // namespace fairway
