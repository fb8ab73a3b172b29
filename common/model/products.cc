#include "common/model/products.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <exception>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "common/base/error.h"
#include "common/model/ops/library_product.h"
#include "common/model/ops/product.h"

namespace fairway {
namespace {

// oneDNN's kernels for blocks of a product. Their bfloat16 operand is packed as a panel of ours is.
void Float32Tile(int64_t M, int64_t K, const void* a, int64_t a_stride, const Word* b, float* c, bool add) {
  at::native::cpublas::brgemm(M, kPanel, K, a_stride, kPanel, kPanel, add, static_cast<const float*>(a), reinterpret_cast<const float*>(b), c,
                              /*is_vnni=*/false);
}
void BFloat16Tile(int64_t M, int64_t K, const void* a, int64_t a_stride, const Word* b, float* c, bool add) {
  at::native::cpublas::brgemm(M, kPanel, K, a_stride, kPanel, kPanel, add, static_cast<const at::BFloat16*>(a),
                              reinterpret_cast<const at::BFloat16*>(b), c, /*is_vnni=*/true);
}

// Whether the library computes ones times ones: where it has no kernel for this processor it throws.
bool Works(TileProduct* tile, Word one, int64_t elements) {
  alignas(64) Word a[2], b[2 * kPanel];
  alignas(64) float c[kPanel];
  for (Word& word : a) word = one;
  for (Word& word : b) word = one;
  try {
    tile(1, 2 * elements, a, 2 * elements, b, c, false);
  } catch (const std::exception&) {
    return false;
  }
  for (const float sum : c)
    if (sum != static_cast<float>(2 * elements)) return false;
  return true;
}

bool HasFloat32() {
  static const bool works = Works(Float32Tile, 0x3f800000u, 1);
  return works;
}
bool HasBFloat16() {
  static const bool works = Works(BFloat16Tile, 0x3f803f80u, 2);
  return works;
}

}  // namespace

bool LibraryMultiplies(const std::string& precision) { return precision == "bfloat16" ? HasBFloat16() : HasFloat32(); }

std::string ProductCapability() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("amx-bf16")) return "AMX bfloat16";
  if (__builtin_cpu_supports("avx512bf16")) return "AVX-512 bfloat16";
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return "AVX-512";
  if (__builtin_cpu_supports("avx2")) return "AVX2";
#elif defined(__aarch64__)
  return (getauxval(AT_HWCAP2) & (1ul << 14)) != 0 ? "NEON bfloat16" : "NEON";
#endif
  return "none";
}

void ChooseProducts(const Settings& settings) {
  LibraryProducts &float32 = library_products[static_cast<int>(Precision::kFloat32)],
                  &bfloat16 = library_products[static_cast<int>(Precision::kBFloat16)];
  float32 = bfloat16 = {};
  if (settings.products == "own") return;
  if (settings.products == "library") {
    if (!LibraryMultiplies(settings.precision))
      throw UsageError("PRODUCTS=library: LibTorch has no kernel for products in " + settings.precision + " on this processor (" +
                       ProductCapability() + ")");
    if (HasFloat32()) float32 = {.rows = Float32Tile, .packed = Float32Tile};
    if (HasBFloat16()) bfloat16 = {.rows = BFloat16Tile, .packed = BFloat16Tile};
    return;
  }
  // auto. Why these: docs/lab-notebook.md, "Products: ours and oneDNN's".
  const std::string capability = ProductCapability();
  // Ours do not use AMX. A tile of it has 16 rows.
  if (capability == "AMX bfloat16" && HasBFloat16()) bfloat16 = {.rows = BFloat16Tile, .packed = BFloat16Tile, .least_rows = 16};
  if (capability == "AVX2" && HasFloat32()) float32 = {.packed = Float32Tile};
}

}  // namespace fairway
