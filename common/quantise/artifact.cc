#include "common/quantise/artifact.h"

#include <zstd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"
#include "common/base/threads.h"
#include "common/quantise/quantiser.h"

namespace fairway {
namespace {

constexpr std::string_view kZstdMagic = "\x28\xb5\x2f\xfd";
// The header of a skippable frame of 32 bytes.
constexpr std::string_view kDigestHeader("\x50\x2a\x4d\x18\x20\x00\x00\x00", 8);
constexpr size_t kDigestFrameBytes = kDigestHeader.size() + 32;

std::string RawSha256(std::string_view bytes) {
  Sha256 sha;
  sha.Update(bytes);
  return sha.Finish();
}

// What an artifact holds, and where in it the compressor begins new blocks: each block has frequencies of its own.
struct Content {
  std::string bytes;
  std::vector<size_t> block_ends;  // ascending; the last is the end of the first frame
};

// One frame of `bytes`.
std::string Compress(std::string_view bytes, std::span<const size_t> block_ends, int level) {
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  // Neighbouring codes are independent: repeats of six or fewer are chance, and cost more than coding by frequency.
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_minMatch, 7);
  ZSTD_CCtx_setPledgedSrcSize(context.get(), bytes.size());
  std::string compressed(ZSTD_compressBound(bytes.size()) + 16 * block_ends.size(), '\0');
  ZSTD_outBuffer out = {compressed.data(), compressed.size(), 0};
  ZSTD_inBuffer in = {bytes.data(), 0, 0};
  for (const size_t end : block_ends) {
    in.size = end;
    const ZSTD_EndDirective how = end == bytes.size() ? ZSTD_e_end : ZSTD_e_flush;
    while (const size_t left = ZSTD_compressStream2(context.get(), &out, &in, how)) {
      if (ZSTD_isError(left)) throw std::runtime_error(std::string("zstd: ") + ZSTD_getErrorName(left));
      if (out.pos == out.size) throw std::runtime_error("zstd: more bytes than its bound");
    }
  }
  compressed.resize(out.pos);
  return compressed;
}

// The frames of an artifact before its digest: the smallest over `levels`, the first one on ties, and that level.
std::pair<std::string, int> CompressAt(const Content& content, std::span<const int> levels, int threads) {
  const size_t end = content.block_ends.back();
  std::vector<std::string> frames(levels.size());
  ParallelFor(static_cast<int64_t>(levels.size()), 1, threads, [&](int64_t i, int64_t) {
    frames[i] = Compress(std::string_view(content.bytes).substr(0, end), content.block_ends, levels[i]);
  });
  const auto smallest = std::ranges::min_element(frames, {}, &std::string::size);
  std::string bytes = std::move(*smallest);
  // Nothing is left to gain in streams of codes; the fastest level stores them.
  const std::string_view streams = std::string_view(content.bytes).substr(end);
  if (!streams.empty()) bytes += Compress(streams, std::vector{streams.size()}, 1);
  return {std::move(bytes), levels[smallest - frames.begin()]};
}

// The content of an artifact. Throws InputError.
std::string Unpack(std::string_view bytes, const std::string& path) {
  // The first zstd frame, and a second one where streams of codes follow.
  size_t frame = 0;
  uint64_t declared = 0;
  const uint64_t limit = MaxContentBytes(bytes.size());
  do {
    const std::string_view rest = bytes.substr(frame);
    const size_t size = ZSTD_findFrameCompressedSize(rest.data(), rest.size());
    if (ZSTD_isError(size))
      throw InputError(path, StringPrintf("artifact is truncated or damaged (zstd: %s)", ZSTD_getErrorName(size)));
    const uint64_t content_size = ZSTD_getFrameContentSize(rest.data(), rest.size());
    if (content_size == ZSTD_CONTENTSIZE_UNKNOWN || content_size == ZSTD_CONTENTSIZE_ERROR)
      throw InputError(path, "artifact does not declare its content size");
    if (content_size > limit - declared)
      throw InputError(path, StringPrintf("artifact declares %ju bytes of content; %zu bytes may hold %ju at most", declared + content_size,
                                          bytes.size(), limit));
    declared += content_size;
    frame += size;
  } while (bytes.substr(frame).starts_with(kZstdMagic));
  if (frame + kDigestFrameBytes > bytes.size()) throw InputError(path, "artifact ends before its digest");
  if (frame + kDigestFrameBytes < bytes.size()) {
    throw InputError(
        path, StringPrintf("artifact has %zu bytes too many at its end", bytes.size() - frame - kDigestFrameBytes));
  }
  const std::string_view compressed = bytes.substr(0, frame);
  const std::string_view tail = bytes.substr(frame);
  if (!tail.starts_with(kDigestHeader)) throw InputError(path, "artifact has no digest at its end");
  if (tail.substr(kDigestHeader.size()) != RawSha256(compressed)) {
    throw InputError(path, "artifact is damaged: its bytes do not have the SHA-256 that it states");
  }
  // zstd compares the sizes again: neither more nor less comes out than was declared.
  std::string content(declared, '\0');
  const size_t size = ZSTD_decompress(content.data(), content.size(), compressed.data(), compressed.size());
  if (ZSTD_isError(size))
    throw InputError(path, StringPrintf("artifact is damaged (zstd: %s)", ZSTD_getErrorName(size)));
  return content;
}

CheckpointReader OpenArtifact(std::string_view bytes, const std::string& path) {
  CheckpointReader checkpoint(Unpack(bytes, path), path, MaxContentBytes(bytes.size()));
  checkpoint.Expect({Kind::kQuantised});
  return checkpoint;
}

// Bytes of entropy.
double Entropy(std::string_view codes) {
  const std::span<const int8_t> values(reinterpret_cast<const int8_t*>(codes.data()), codes.size());
  return EntropyBits(values) * static_cast<double>(codes.size()) / 8;
}

// The same where frequencies may change from one stretch to the next.
double EntropyOfStretches(std::string_view codes) {
  constexpr size_t kStretch = 4096;
  double bytes = 0;
  for (size_t at = 0; at < codes.size(); at += kStretch) bytes += Entropy(codes.substr(at, kStretch));
  return bytes;
}

// Of the orders of a matrix of codes the one that takes the fewest bytes; row-major where they cannot be ordered.
CodeOrder BestOrder(const TensorSource& quantised, const TensorInfo& info) {
  CodeOrder best = CodeOrder::kAsTheyStand;
  double least = INFINITY;
  for (const CodeOrder order : {CodeOrder::kAsTheyStand, CodeOrder::kRowsByScale, CodeOrder::kColumnsByScale}) {
    const std::optional<std::string> codes = OrderedCodes(quantised, info, order);
    const double bytes = codes ? EntropyOfStretches(*codes) : INFINITY;
    if (bytes < least) least = bytes, best = order;
  }
  return best;
}

// Which matrices share a stream: those whose names differ in numbers only.
std::string StreamKey(std::string name) {
  std::erase_if(name, [](unsigned char c) { return std::isdigit(c) != 0; });
  return name;
}

// Codes first, matrices of most bits first, then scales, factors of columns, and what was kept, float16 before all else. Codes in
// streams come last.
Content MakeContent(const TensorSource& quantised, Coder coder, int threads) {
  constexpr double kBlock = 8192;  // bytes of entropy: enough to pay for frequencies of their own

  std::set<std::string> scales, factors;
  for (const TensorInfo& info : quantised.tensors()) {
    if (!info.quantisation) continue;
    scales.insert(info.quantisation->scale);
    factors.insert(info.quantisation->column_scale);
  }
  struct Placed {
    double place;
    PackedTensor tensor;
    uint64_t bytes;
    double entropy;  // of codes
  };
  std::vector<Placed> all(quantised.tensors().size());
  std::vector<std::string> keys;
  constexpr double kInStream = 100;
  const auto place = [&](const TensorInfo& info) -> Placed {
    if (coder == Coder::kArithmetic && CanBeCoded(quantised, info)) return {kInStream, {info.name, CodeOrder::kCoded}, 0, 0};
    if (info.quantisation && info.dtype == DType::kInt8) {
      const std::span<const std::byte> codes = quantised.Data(info.name);
      const double entropy = Entropy({reinterpret_cast<const char*>(codes.data()), codes.size()});
      const double share = codes.empty() ? 0 : entropy / static_cast<double>(codes.size());
      return {-share, {info.name, BestOrder(quantised, info)}, info.bytes(), entropy};
    }
    const double kept = info.dtype == DType::kFloat16 ? 3 : 4 + static_cast<double>(info.dtype);
    return {scales.contains(info.name) ? 1 : factors.contains(info.name) ? 2 : kept, {info.name}, info.bytes(), 0};
  };
  ParallelFor(static_cast<int64_t>(all.size()), 1, threads, [&](int64_t tensor, int64_t) { all[tensor] = place(quantised.tensors()[tensor]); });
  for (Placed& placed : all) {
    if (placed.place != kInStream) continue;
    const std::string key = StreamKey(placed.tensor.name);
    if (std::ranges::find(keys, key) == keys.end() && keys.size() < kMostStreams) keys.push_back(key);
    placed.tensor.stream = std::min<int>(std::ranges::find(keys, key) - keys.begin(), kMostStreams - 1);
    placed.place += placed.tensor.stream;
  }
  uint64_t data_bytes = 0;
  for (const Placed& placed : all) data_bytes += placed.bytes;
  std::ranges::stable_sort(all, {}, &Placed::place);

  std::vector<PackedTensor> tensors;
  for (const Placed& placed : all) tensors.push_back(placed.tensor);
  size_t data_end;
  Content content{PackCheckpoint(quantised, tensors, threads, &data_end), {}};
  // Long matrices fall into blocks of like size, short ones share one.
  size_t begin = data_end - data_bytes;
  content.block_ends.push_back(begin);
  double entropy = 0;
  for (const Placed& placed : all) {
    if (placed.place > 0) break;
    const auto parts = std::max<size_t>(std::llround(placed.entropy / kBlock), 1);
    for (size_t i = 1; i < parts; ++i) content.block_ends.push_back(begin + placed.bytes * i / parts);
    begin += placed.bytes;
    entropy += placed.entropy;
    if (entropy < kBlock / 2) continue;
    content.block_ends.push_back(begin);
    entropy = 0;
  }
  content.block_ends.push_back(tensors.empty() || tensors.back().order != CodeOrder::kCoded ? content.bytes.size() : data_end);
  return content;
}

}  // namespace

Coder CoderNamed(std::string_view name) { return name == "zstd" ? Coder::kZstd : Coder::kArithmetic; }

Artifact PackArtifact(const CheckpointReader& quantised, std::span<const int> levels, int threads, Coder coder) {
  quantised.Expect({Kind::kQuantised});
  const Content content = MakeContent(quantised, coder, threads);
  Artifact artifact;
  artifact.content_bytes = content.bytes.size();
  std::tie(artifact.bytes, artifact.level) = CompressAt(content, levels, threads);
  const std::string digest = RawSha256(artifact.bytes);
  artifact.bytes += kDigestHeader;
  artifact.bytes += digest;
  artifact.digest = Sha256Hex(artifact.bytes);
  const CheckpointReader unpacked = OpenArtifact(artifact.bytes, "artifact of " + quantised.path());
  artifact.identity = unpacked.identity();
  if (artifact.identity != quantised.identity()) {
    throw InputError(quantised.path(), "what was packed has another identity than the file states");
  }
  return artifact;
}

uint64_t ArtifactBytes(const TensorSource& quantised, std::span<const int> levels, int threads, Coder coder) {
  return CompressAt(MakeContent(quantised, coder, threads), levels, threads).first.size() + kDigestFrameBytes;
}

CheckpointReader OpenWeights(InputFile file) {
  if (file.text().starts_with(kZstdMagic)) return OpenArtifact(file.text(), file.path());
  return CheckpointReader(std::move(file));
}

std::set<std::string> ScaleNames(const CheckpointReader& checkpoint) {
  std::set<std::string> names;
  for (const TensorInfo& info : checkpoint.tensors()) {
    if (!info.quantisation) continue;
    names.insert(info.quantisation->scale);
    if (!info.quantisation->column_scale.empty()) names.insert(info.quantisation->column_scale);
  }
  return names;
}

std::set<std::string> PartNames(const CheckpointReader& checkpoint) {
  std::set<std::string> names = ScaleNames(checkpoint);
  for (const TensorInfo& info : checkpoint.tensors())
    if (info.quantisation && !info.quantisation->low_rank_left.empty())
      names.insert({info.quantisation->low_rank_left, info.quantisation->low_rank_right});
  return names;
}

namespace {

// What is added to the matrix of `codes`.
void AddCorrection(const CheckpointReader& checkpoint, const TensorInfo& codes, std::vector<float>& weights) {
  const Quantisation& quantisation = *codes.quantisation;
  const auto refuse = [&](const TensorInfo& factor, const std::string& cause) {
    throw InputError(checkpoint.path(), "tensor " + factor.name + ": as a factor of the correction of " + codes.name + " it " + cause);
  };
  const TensorInfo &left = checkpoint.Find(quantisation.low_rank_left), &right = checkpoint.Find(quantisation.low_rank_right);
  for (const TensorInfo* factor : {&left, &right})
    if (factor->quantisation && !factor->quantisation->low_rank_left.empty()) refuse(*factor, "must have no correction of its own");
  const int64_t rows = codes.shape[0], columns = codes.shape[1];
  const std::vector<float> a = Dequantise(checkpoint, left), b = Dequantise(checkpoint, right);
  const int64_t rank = left.shape[1];
  if (left.shape[0] != rows) refuse(left, "must have as many rows");
  if (right.shape != std::vector<int64_t>{rank, columns}) refuse(right, "must have as many columns, and as many rows as the other has columns");
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      float sum = 0;
      for (int64_t k = 0; k < rank; ++k) sum += a[i * rank + k] * b[k * columns + j];
      weights[i * columns + j] += sum;
    }
  }
}

}  // namespace

std::vector<float> Dequantise(const CheckpointReader& checkpoint, const TensorInfo& codes) {
  const auto refuse = [&](const std::string& cause) {
    throw InputError(checkpoint.path(), "tensor " + codes.name + ": " + cause);
  };
  if (!codes.quantisation || codes.dtype != DType::kInt8 || codes.shape.size() != 2) {
    refuse("is no int8 matrix of codes");
  }
  const Quantisation& quantisation = *codes.quantisation;
  const TensorInfo& scale_info = checkpoint.Find(quantisation.scale);
  const int64_t rows = codes.shape[0], columns = codes.shape[1];
  const int64_t group = quantisation.group, numel = rows * columns;
  if (quantisation.low_rank_left.empty() != quantisation.low_rank_right.empty()) refuse("its correction has one factor of two");
  if (group > 0 && (numel % group != 0 || scale_info.shape != std::vector<int64_t>{numel / group} || !quantisation.column_scale.empty()))
    refuse(StringPrintf("its scales %s are not one for every %jd codes", scale_info.name.c_str(), group));
  if (group == 0 && scale_info.shape != std::vector<int64_t>{rows}) refuse("its scales " + scale_info.name + " are not one per row");
  const std::vector<float> scales = checkpoint.Floats(quantisation.scale);
  std::vector<float> factors(columns, 1.0f);
  if (!quantisation.column_scale.empty()) {
    const TensorInfo& factor_info = checkpoint.Find(quantisation.column_scale);
    if (factor_info.shape != std::vector<int64_t>{columns}) refuse("its factors " + factor_info.name + " are not one per column");
    factors = checkpoint.Floats(quantisation.column_scale);
    for (int64_t j = 0; j < columns; ++j)
      if (!std::isfinite(factors[j])) refuse(StringPrintf("the factor of column %jd is not a finite number", j));
  }
  const std::span<const std::byte> data = checkpoint.Data(codes.name);
  std::vector<float> weights(data.size());
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t i = row * columns + j, place = group > 0 ? i / group : row;
      if (!std::isfinite(scales[place])) refuse(StringPrintf("the scale of row %jd is not a finite number", row));
      const int code = static_cast<int8_t>(data[i]);
      if (code < quantisation.code_min || code > quantisation.code_max) {
        refuse(StringPrintf("code %d is outside %s, %d to %d", code, quantisation.grid.c_str(), quantisation.code_min,
                            quantisation.code_max));
      }
      weights[i] = code * (scales[place] * factors[j]);
    }
  }
  if (!quantisation.low_rank_left.empty()) AddCorrection(checkpoint, codes, weights);
  return weights;
}

}  // namespace fairway
