// bench-products: the products of a model's layers by our kernels and by the library's (PRODUCTS=own|library), on one thread. Rounds
// alternate between both; medians, of the thread's processor time, so that a busy machine changes little.
//
// bench-products [ROUNDS]
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <type_traits>
#include <vector>

#include "bench/run_bench.h"
#include "common/base/hardware.h"
#include "common/model/ops/library_product.h"
#include "common/model/ops/product.h"
#include "common/model/products.h"

namespace fairway {
namespace {

struct Shape {
  const char* what;
  int64_t M, N, K;
};
// Rows as a chunk of one thread has them: of the record's width, of the demo's, of a step of decoding.
constexpr Shape kShapes[] = {{"qkv", 512, 1024, 512},       {"mlp up", 512, 1536, 512},    {"mlp down", 512, 512, 1536}, {"logits", 512, 1024, 512},
                             {"narrow qkv", 512, 256, 128}, {"narrow mlp", 512, 384, 128}, {"few rows", 16, 1024, 512},  {"one row", 1, 1024, 512}};

struct Kernels {
  const char* name;
  std::remove_const_t<decltype(MultiplyTo)> multiply;
  std::remove_const_t<decltype(MultiplyPackedAddTo)> packed;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double ProcessorSeconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

void Compare(const Kernels& kernels, const Shape& shape, const std::string& precision, int rounds) {
  const Precision elements = precision == "bfloat16" ? Precision::kBFloat16 : Precision::kFloat32;
  const auto [what, M, N, K] = shape;
  std::vector<Word> a(M * K + 16, 0x3f803f80u), out(M * N + 16), panels(Panels::Words(elements, K, N) + 16, 0x3f803f80u);
  std::vector<Word> left(Panels::Words(elements, M, K) + 16, 0x3f803f80u), right(Panels::Words(elements, M, N) + 16, 0x3f803f80u);
  std::vector<float> gradient(K * N + 16);
  std::vector<float*> rows;
  for (int64_t k = 0; k < K; ++k) rows.push_back(gradient.data() + k * N);
  const Product product{{a.data(), elements}, K, {panels.data(), K, N, elements}};
  const Panels packed_a{left.data(), M, K, elements}, packed_b{right.data(), M, N, elements};
  std::vector<double> rates[2][2];
  for (int round = 0; round < rounds; ++round)
    for (int library = 0; library < 2; ++library) {
      Settings settings;
      settings.precision = precision;
      settings.products = library ? "library" : "own";
      ChooseProducts(settings);
      for (int back = 0; back < 2; ++back) {
        const double begin = ProcessorSeconds();
        if (back) kernels.packed(packed_a, packed_b, rows.data(), {0, packed_a.count()}, {0, packed_b.count()});
        else kernels.multiply(product, {out.data(), elements}, N, {0, M}, {0, N});
        rates[back][library].push_back(2e-9 * static_cast<double>(M * N * K) / (ProcessorSeconds() - begin));
      }
    }
  for (int back = 0; back < 2; ++back) {
    const double own = Median(rates[back][0]), library = Median(rates[back][1]);
    std::printf("| %s | %s | %s%s | %jd x %jd x %jd | %.0f | %.0f | %.2f |\n", kernels.name, precision.c_str(), what,
                back ? ", weight" : "", M, N, K, own, library, own / library);
  }
}

int Main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 31;
  at::set_num_threads(1);
  std::printf("processor: %s; for products: %s\n\n| kernels | precision | product | M x N x K | own GFLOP/s | library GFLOP/s | own / library |\n"
              "|---|---|---|---|---:|---:|---:|\n",
              CpuName().c_str(), ProductCapability().c_str());
  // The library takes the instructions that ONEDNN_MAX_CPU_ISA allows it; ours are compared at the same.
  std::vector<Kernels> all = {{"this processor's", MultiplyTo, MultiplyPackedAddTo}};
#if defined(__x86_64__)
  const char* isa = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (isa != nullptr && std::string(isa) == "AVX512_CORE") all = {{"AVX-512", x86_64_v4::MultiplyTo, x86_64_v4::MultiplyPackedAddTo}};
  if (isa != nullptr && std::string(isa) == "AVX2") all = {{"AVX2", x86_64_v3::MultiplyTo, x86_64_v3::MultiplyPackedAddTo}};
#endif
  for (const Kernels& kernels : all)
    for (const char* precision : {"bfloat16", "float32"}) {
      if (!LibraryMultiplies(precision)) {
        std::printf("| %s | %s | LibTorch has no kernel | | | | |\n", kernels.name, precision);
        continue;
      }
      for (const Shape& shape : kShapes) Compare(kernels, shape, precision, rounds);
    }
  return 0;
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) { return fairway::RunBench("bench-products", fairway::Main, argc, argv); }
