// bench-coder: the arithmetic coder on the codes of a quantised checkpoint, or on 36 million made-up ones: what they take, what
// they would at least take by the probabilities that the coder gave them, and what packing and unpacking the whole artifact takes
// on all processors: seconds, and seconds of processor time, which a busy machine changes little. Prints one line of JSON;
// bench/coders.py sets the other coders beside it.
//
// bench-coder [quantised.ckpt]
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include <unistd.h>

#include "bench/run_bench.h"
#include "common/base/clock.h"
#include "common/base/hardware.h"
#include "common/base/text.h"
#include "common/base/threads.h"
#include "common/checkpoint/coder_model.h"
#include "common/quantise/artifact.h"

namespace fairway {
namespace {

// Bits of a rounded normal variable.
double NormalBits(double deviation) {
  const auto below = [&](double x) { return 0.5 * std::erfc(-x / deviation / std::sqrt(2)); };
  double bits = 0;
  for (int code = 0; code <= 127; ++code) {
    const double p = below(code + 0.5) - below(code - 0.5);
    if (p > 0) bits -= (code == 0 ? 1 : 2) * p * std::log2(p);
  }
  return bits;
}

// The published matrices at width 512, 11 layers, a hidden width of 2,048 and 8,192 pieces. Codes of normal weights of one step per
// matrix; deviations of rows differ by a factor of about 1.5 and are 2.4 steps in the middle, which gives 3.3 bits per code.
// `entropy` receives the bytes that they take for who knows the deviations.
std::string MadeUp(double* entropy) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::string bytes;
  CheckpointWriter writer(&bytes, Kind::kQuantised, {});
  double bits = 0;
  const auto add = [&](const std::string& name, int64_t rows, int64_t columns) {
    std::vector<int8_t> codes;
    codes.reserve(rows * columns);
    for (int64_t row = 0; row < rows; ++row) {
      const float deviation = 2.4f * std::exp2(0.6f * normal(random));
      bits += static_cast<double>(columns) * NormalBits(deviation);
      for (int64_t i = 0; i < columns; ++i) codes.push_back(static_cast<int8_t>(std::clamp(std::round(deviation * normal(random)), -127.0f, 127.0f)));
    }
    const std::string scale = name + ".scale";
    writer.Add({name + ".q", DType::kInt8, {rows, columns}, Quantisation{"int8", -127, 127, scale, ""}}, std::as_bytes(std::span<const int8_t>(codes)));
    writer.Add({scale, DType::kFloat16, {rows}, {}}, std::as_bytes(std::span<const uint16_t>(std::vector<uint16_t>(rows, 0x2000))));
  };
  add("tok_emb.weight", 8192, 512);
  for (int layer = 0; layer < 11; ++layer) {
    const std::string block = StringPrintf("blocks.%d.", layer);
    for (const auto& [name, rows] : {std::pair{"attn.c_q.weight", 512}, {"attn.c_k.weight", 256}, {"attn.c_v.weight", 256}, {"attn.proj.weight", 512}})
      add(block + name, rows, 512);
    add(block + "mlp.fc.weight", 2048, 512);
    add(block + "mlp.proj.weight", 512, 2048);
  }
  writer.Finish({}, {});
  *entropy = bits / 8;
  return bytes;
}

struct Timer {
  Clock::time_point start = Clock::now();
  std::clock_t used = std::clock();
  double seconds() const { return SecondsSince(start); }
  double of_processors() const { return static_cast<double>(std::clock() - used) / CLOCKS_PER_SEC; }
};

struct Ideal {
  bool Code(bool bit, int p) {
    bits -= std::log2((bit ? p : 65536 - p) / 65536.0);
    return bit;
  }
  double bits = 0;
};

// Matrices whose names differ in numbers only share a stream, as pack-zstd has them.
struct Stream {
  std::vector<std::vector<uint16_t>> scales, factors;
  std::vector<std::vector<int8_t>> codes;
  std::vector<CodeMatrix> matrices;
};

std::map<std::string, Stream> StreamsOf(const CheckpointReader& quantised) {
  std::map<std::string, Stream> streams;
  const auto copy = [&](const std::string& name, auto& to) {
    const std::span<const std::byte> data = quantised.Data(name);
    to.emplace_back(data.size() / sizeof(to[0][0]));
    std::memcpy(to.back().data(), data.data(), data.size());
  };
  for (const TensorInfo& info : quantised.tensors()) {
    if (!CanBeCoded(quantised, info)) continue;
    std::string role = info.name;
    std::erase_if(role, [](unsigned char c) { return std::isdigit(c) != 0; });
    Stream& stream = streams[role];
    copy(info.name, stream.codes);
    copy(info.quantisation->scale, stream.scales);
    if (info.quantisation->column_scale.empty()) stream.factors.emplace_back();
    else copy(info.quantisation->column_scale, stream.factors);
    stream.matrices.push_back({info.shape[0], info.shape[1], stream.scales.back(), stream.factors.back(), stream.codes.back().data()});
  }
  return streams;
}

int Main(int argc, char** argv) {
  double entropy = 0;
  const CheckpointReader quantised = argc > 1 ? CheckpointReader(argv[1]) : CheckpointReader(MadeUp(&entropy), "made-up codes");
  int64_t codes = 0;
  uint64_t bytes = 0;
  double ideal = 0;
  for (auto& [role, stream] : StreamsOf(quantised)) {
    Ideal counted;
    coder_model::Model model(counted);
    for (const CodeMatrix& matrix : stream.matrices) {
      codes += matrix.rows * matrix.columns;
      model.Code(matrix);
    }
    ideal += counted.bits / 8;
    bytes += EncodeCodes(stream.matrices).size();
  }
  const int threads = ThreadsFor(0);
  const Timer packing;
  const Artifact artifact = PackArtifact(quantised, kShippedLevels, threads);
  const double pack = packing.seconds(), pack_used = packing.of_processors();
  const std::string path = std::filesystem::temp_directory_path() / ("bench-coder." + std::to_string(getpid()));
  {
    OutputFile file(path);
    file.Write(artifact.bytes);
    file.Commit();
  }
  const Timer unpacking;
  { const CheckpointReader unpacked = OpenWeights(path); }
  const double unpack = unpacking.seconds(), unpack_used = unpacking.of_processors();
  std::filesystem::remove(path);
  nlohmann::ordered_json result = {{"codes", codes}, {"bytes", bytes}, {"ideal_bytes", std::llround(ideal)}};
  if (entropy > 0) result["entropy_bytes"] = std::llround(entropy);
  for (const auto& [name, value] : {std::pair{"pack_seconds", pack}, {"pack_processor_seconds", pack_used}, {"unpack_seconds", unpack}, {"unpack_processor_seconds", unpack_used}})
    result[name] = std::round(100 * value) / 100;
  result.update({{"artifact_bytes", artifact.bytes.size()}, {"threads", threads}, {"processor", CpuName()}});
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace fairway

int main(int argc, char** argv) { return fairway::RunBench("bench-coder", fairway::Main, argc, argv); }
