#include "common/optim/muon.h"

#include <algorithm>

#include "common/model/ops/product.h"

namespace fairway {

int64_t MuonScratchBytes(int64_t rows, int64_t columns) {
  const auto [m, n] = std::minmax(rows, columns);
  const auto elements = [](int64_t height, int64_t width) { return height * (width + 1) * ElementBytes(Precision::kBFloat16) + 64; };
  const auto panels = [](int64_t K, int64_t N) {
    return Panels::Words(Precision::kBFloat16, K, N) * static_cast<int64_t>(sizeof(Word)) + 64;
  };
  return 2 * elements(m, n) + 3 * elements(m, m) + panels(n, m) + panels(m, n) + panels(m, m);
}

}  // namespace fairway
