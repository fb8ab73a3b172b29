#include "common/quantise/artifact.h"

#include <zstd.h>

#include <algorithm>
#include <cmath>
#include <future>
#include <memory>
#include <stdexcept>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/file.h"
#include "common/base/text.h"

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

std::string Compress(std::string_view content, int level) {
  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level);
  std::string compressed(ZSTD_compressBound(content.size()), '\0');
  const size_t size =
      ZSTD_compress2(context.get(), compressed.data(), compressed.size(), content.data(), content.size());
  if (ZSTD_isError(size)) throw std::runtime_error(std::string("zstd: ") + ZSTD_getErrorName(size));
  compressed.resize(size);
  return compressed;
}

// The content of an artifact. Throws InputError.
std::string Unpack(std::string_view bytes, const std::string& path) {
  const size_t frame = ZSTD_findFrameCompressedSize(bytes.data(), bytes.size());
  if (ZSTD_isError(frame)) {
    throw InputError(path, StringPrintf("artifact is truncated or damaged (zstd: %s)", ZSTD_getErrorName(frame)));
  }
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
  const unsigned long long declared = ZSTD_getFrameContentSize(compressed.data(), compressed.size());
  if (declared == ZSTD_CONTENTSIZE_UNKNOWN || declared == ZSTD_CONTENTSIZE_ERROR) {
    throw InputError(path, "artifact does not declare its content size");
  }
  const uint64_t limit = MaxContentBytes(bytes.size());
  if (declared > limit) {
    throw InputError(path, StringPrintf("artifact declares %llu bytes of content; %zu bytes may hold %llu at most",
                                        declared, bytes.size(), static_cast<unsigned long long>(limit)));
  }
  // zstd compares the sizes again: neither more nor less comes out than was declared.
  std::string content(declared, '\0');
  const size_t size = ZSTD_decompress(content.data(), content.size(), compressed.data(), compressed.size());
  if (ZSTD_isError(size))
    throw InputError(path, StringPrintf("artifact is damaged (zstd: %s)", ZSTD_getErrorName(size)));
  return content;
}

CheckpointReader OpenArtifact(std::string_view bytes, const std::string& path) {
  CheckpointReader checkpoint(Unpack(bytes, path), path);
  checkpoint.Expect({Kind::kQuantised});
  return checkpoint;
}

}  // namespace

Artifact PackArtifact(const CheckpointReader& quantised, std::span<const int> levels) {
  quantised.Expect({Kind::kQuantised});
  std::string content;
  CheckpointWriter writer(&content, Kind::kQuantised, quantised.settings());
  for (const TensorInfo& info : quantised.tensors()) CopyTensor(quantised, info.name, writer);
  Artifact artifact;
  artifact.identity = writer.Finish({}, {});
  artifact.content_bytes = content.size();
  std::vector<std::future<std::string>> results;
  for (const int level : levels)
    results.push_back(std::async(std::launch::async, [&, level] { return Compress(content, level); }));
  for (size_t i = 0; i < levels.size(); ++i) {
    std::string compressed = results[i].get();
    if (i > 0 && compressed.size() >= artifact.bytes.size()) continue;
    artifact.bytes = std::move(compressed);
    artifact.level = levels[i];
  }
  const std::string digest = RawSha256(artifact.bytes);
  artifact.bytes += kDigestHeader;
  artifact.bytes += digest;
  artifact.digest = Sha256Hex(artifact.bytes);
  const CheckpointReader unpacked = OpenArtifact(artifact.bytes, "artifact of " + quantised.path());
  unpacked.Verify();
  if (unpacked.identity() != quantised.identity()) {
    throw InputError(quantised.path(), "what was packed has another identity than the file states");
  }
  return artifact;
}

uint64_t FastArtifactBytes(std::string_view content) {
  return Compress(content, 1).size() + kDigestFrameBytes;
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
  if (scale_info.shape != std::vector<int64_t>{rows}) refuse("its scales " + scale_info.name + " are not one a row");
  const std::vector<float> scales = checkpoint.Floats(quantisation.scale);
  std::vector<float> factors(columns, 1.0f);
  if (!quantisation.column_scale.empty()) {
    const TensorInfo& factor_info = checkpoint.Find(quantisation.column_scale);
    if (factor_info.shape != std::vector<int64_t>{columns}) refuse("its factors " + factor_info.name + " are not one a column");
    factors = checkpoint.Floats(quantisation.column_scale);
    for (int64_t j = 0; j < columns; ++j)
      if (!std::isfinite(factors[j])) refuse(StringPrintf("the factor of column %ld is not a finite number", j));
  }
  const std::span<const std::byte> data = checkpoint.Data(codes.name);
  std::vector<float> weights(data.size());
  for (int64_t row = 0; row < rows; ++row) {
    if (!std::isfinite(scales[row])) refuse(StringPrintf("the scale of row %ld is not a finite number", row));
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t i = row * columns + j;
      const int code = static_cast<int8_t>(data[i]);
      if (code < quantisation.code_min || code > quantisation.code_max) {
        refuse(StringPrintf("code %d is outside %s, %d to %d", code, quantisation.grid.c_str(), quantisation.code_min,
                            quantisation.code_max));
      }
      weights[i] = code * (scales[row] * factors[j]);
    }
  }
  return weights;
}

}  // namespace fairway
