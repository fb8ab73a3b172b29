#include "common/quantise/artifact.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zstd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/base/text.h"
#include "tests/common/checkpoint/temporary_folder.h"

namespace fairway {
namespace {

using testing::HasSubstr;

constexpr int kLevels[] = {1, 19};
constexpr size_t kDigestFrameBytes = 8 + 32;

std::string Compressed(std::string_view content) {
  std::string bytes(ZSTD_compressBound(content.size()), '\0');
  bytes.resize(ZSTD_compress(bytes.data(), bytes.size(), content.data(), content.size(), 3));
  return bytes;
}

// `compressed` with a digest that is right.
std::string Sealed(std::string compressed) {
  Sha256 sha;
  sha.Update(compressed);
  return compressed + std::string("\x50\x2a\x4d\x18\x20\x00\x00\x00", 8) + sha.Finish();
}

class ArtifactTest : public testing::TestWithParam<Coder> {
 protected:
  // The bytes of a small quantised checkpoint.
  static std::string Content(Kind kind = Kind::kQuantised, const Counters& counters = {}, const Lineage& lineage = {}) {
    std::mt19937 random(1);
    std::vector<int8_t> codes(8 * 16);
    for (int8_t& code : codes) code = static_cast<int8_t>(random() % 32) - 16;
    std::string bytes;
    CheckpointWriter writer(&bytes, kind, {{"num_layers", "2"}});
    writer.Add({"w.q", DType::kInt8, {8, 16}, Quantisation{"int5", -16, 15, "w.scale"}}, codes);
    writer.Add({.name = "w.scale", .dtype = DType::kFloat16, .shape = {8}},
               std::vector<uint16_t>(8, FloatToHalf(0.5f)));
    writer.Finish(counters, lineage);
    return bytes;
  }

  std::string File(std::string_view bytes) {
    std::ofstream(folder_ / "a.zst", std::ios::binary) << bytes;
    return folder_ / "a.zst";
  }

  std::string ErrorOf(std::string_view bytes) {
    try {
      OpenWeights(File(bytes)).Verify();
    } catch (const InputError& error) {
      return error.what();
    }
    return "no error";
  }

  static bool Refuses(const std::string& path) {
    try {
      OpenWeights(path);
      return false;
    } catch (const InputError&) {
      return true;
    }
  }

  const CheckpointReader quantised_{Content(), "quantised.ckpt"};
  const Artifact artifact_ = PackArtifact(quantised_, kLevels, 1, GetParam());
  TemporaryFolder folder_;
};
INSTANTIATE_TEST_SUITE_P(, ArtifactTest, testing::Values(Coder::kZstd, Coder::kArithmetic),
                         [](const auto& info) { return info.param == Coder::kZstd ? "Zstd" : "Arithmetic"; });

TEST_P(ArtifactTest, GivesBackWhatWasPacked) {
  const CheckpointReader opened = OpenWeights(File(artifact_.bytes));
  opened.Verify();
  EXPECT_EQ(opened.identity(), quantised_.identity());
  EXPECT_EQ(opened.identity(), artifact_.identity);
  EXPECT_EQ(opened.settings(), quantised_.settings());
  EXPECT_EQ(opened.Find("w.q").quantisation, quantised_.Find("w.q").quantisation);
  EXPECT_EQ(Dequantise(opened, opened.Find("w.q")), Dequantise(quantised_, quantised_.Find("w.q")));
  EXPECT_EQ(artifact_.digest, Sha256Hex(artifact_.bytes));
}

TEST_P(ArtifactTest, HasTheBytesThatWereForetold) {
  EXPECT_EQ(ArtifactBytes(quantised_, kLevels, 1, GetParam()), artifact_.bytes.size());
}

// The search sizes what was never a file: the same tensors in memory take the same bytes.
TEST_P(ArtifactTest, SizesTensorsInMemoryLikeThoseOfACheckpoint) {
  TensorsInMemory copies("memory", Kind::kQuantised, quantised_.settings()), views = copies;
  for (const TensorInfo& info : quantised_.tensors()) {
    copies.Add(info, quantised_.Data(info.name));
    views.AddView(info, quantised_.Data(info.name));
  }
  EXPECT_EQ(ArtifactBytes(copies, kLevels, 1, GetParam()), artifact_.bytes.size());
  EXPECT_EQ(ArtifactBytes(views, kLevels, 2, GetParam()), artifact_.bytes.size());
}

// Streams of one role in one, of others in others; more roles than streams share the last one.
TEST_P(ArtifactTest, GivesBackManyMatrices) {
  std::mt19937 random(2);
  std::string bytes;
  CheckpointWriter writer(&bytes, Kind::kQuantised, {});
  for (int i = 0; i < 200; ++i) {
    const std::string name = (i % 2 == 0 ? "blocks." + std::to_string(i) + ".w" : "w" + std::string(i % 100, 'x')) + (i < 100 ? "" : "y");
    std::vector<int8_t> codes(3 * 5);
    for (int8_t& code : codes) code = static_cast<int8_t>(random() % 16);
    // Some have no scales: no stream takes these.
    writer.Add({name + ".q", DType::kInt8, {3, 5}, Quantisation{"int8", -127, 127, name + ".scale"}}, codes);
    if (i % 10 > 0) writer.Add({.name = name + ".scale", .dtype = DType::kFloat16, .shape = {3}}, std::vector<uint16_t>(3, 0x3c00));
  }
  writer.Finish({}, {});
  const CheckpointReader quantised(bytes, "many.ckpt");
  for (const int threads : {2, 8})
    EXPECT_EQ(PackArtifact(quantised, kLevels, threads, GetParam()).bytes, PackArtifact(quantised, kLevels, 1, GetParam()).bytes) << threads;
  const CheckpointReader opened = OpenWeights(File(PackArtifact(quantised, kLevels, 1, GetParam()).bytes));
  opened.Verify();
  EXPECT_EQ(opened.identity(), quantised.identity());
}

// The limit counts what comes out of streams: a small file that holds many codes that are all alike is not taken.
TEST_P(ArtifactTest, RefusesMatricesOfZerosBeyondTheLimit) {
  std::string bytes;
  CheckpointWriter writer(&bytes, Kind::kQuantised, {});
  writer.Add({"w.q", DType::kInt8, {1 << 10, 1 << 12}, Quantisation{"int8", -127, 127, "w.scale"}}, std::vector<int8_t>(1 << 22));
  writer.Add({.name = "w.scale", .dtype = DType::kFloat16, .shape = {1 << 10}}, std::vector<uint16_t>(1 << 10, 0x3c00));
  writer.Finish({}, {});
  EXPECT_THROW(PackArtifact(CheckpointReader(bytes, "zeros.ckpt"), kLevels, 1, GetParam()), InputError);
}

TEST_P(ArtifactTest, LeavesOutCountersAndLineage) {
  Counters counters;
  counters.Set("train.seconds", 12.5);
  Lineage lineage;
  lineage.tool = "gptq-lite";
  const CheckpointReader other(Content(Kind::kQuantised, counters, lineage), "other.ckpt");
  EXPECT_EQ(PackArtifact(other, kLevels, 1, GetParam()).bytes, artifact_.bytes);
  const CheckpointReader opened = OpenWeights(File(artifact_.bytes));
  EXPECT_TRUE(opened.counters().all().empty());
  EXPECT_TRUE(opened.lineage().tool.empty());
}

TEST_P(ArtifactTest, KeepsTheSmallestLevel) {
  size_t smallest = SIZE_MAX;
  for (const int level : {1, 19, 22})
    smallest = std::min(smallest, PackArtifact(quantised_, std::vector{level}, 1, GetParam()).bytes.size());
  const Artifact best = PackArtifact(quantised_, std::vector{1, 19, 22}, 1, GetParam());
  EXPECT_EQ(best.bytes.size(), smallest);
  EXPECT_EQ(best.bytes, PackArtifact(quantised_, std::vector{best.level}, 1, GetParam()).bytes);
}

TEST_P(ArtifactTest, TheZstdProgramReadsIt) {
  if (std::system("command -v zstd > /dev/null") != 0) GTEST_SKIP() << "skipped: no program zstd";
  const std::string out = folder_ / "out.ckpt";
  ASSERT_EQ(std::system(("zstd -dcq " + ShellQuote(File(artifact_.bytes)) + " > " + ShellQuote(out)).c_str()), 0);
  const CheckpointReader plain = OpenWeights(out);  // a checkpoint, if a packed one, opens as it is
  plain.Verify();
  EXPECT_EQ(plain.identity(), quantised_.identity());
}

// Damages one file in place: creating thousands takes long on some file systems.
TEST_P(ArtifactTest, NoticesEveryFlippedBit) {
  const std::string path = File(artifact_.bytes);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&](size_t place, char byte) { file.seekp(place).put(byte).flush(); };
  const size_t bits = artifact_.bytes.size() * 8;
  size_t noticed = 0;
  for (size_t bit = 0; bit < bits; ++bit) {
    const char byte = artifact_.bytes[bit / 8];
    put(bit / 8, static_cast<char>(byte ^ 1 << bit % 8));
    const bool found = Refuses(path);
    noticed += found;
    EXPECT_TRUE(found) << "bit " << bit;
    put(bit / 8, byte);
  }
  EXPECT_FALSE(Refuses(path));
  std::printf("summary: artifact: %zu bits flipped, %zu noticed\n", bits, noticed);
}

TEST_P(ArtifactTest, NoticesEveryTruncation) {
  const std::string path = File(artifact_.bytes);
  size_t noticed = 0;
  for (size_t size = artifact_.bytes.size(); size-- > 0;) {
    std::filesystem::resize_file(path, size);
    const bool found = Refuses(path);
    noticed += found;
    EXPECT_TRUE(found) << size << " bytes";
  }
  std::printf("summary: artifact: cut at %zu lengths, %zu noticed\n", artifact_.bytes.size(), noticed);
}

// With a digest that somebody made right again, what zstd and the checkpoint inside check is left. zstd has bits that mean nothing:
// then the content is the very same.
TEST_P(ArtifactTest, NoDamageBehindARightDigestChangesTheContent) {
  const std::string frame = artifact_.bytes.substr(0, artifact_.bytes.size() - kDigestFrameBytes);
  size_t noticed = 0, harmless = 0;
  const auto open = [&](const std::string& damaged) {
    const std::string path = File(Sealed(damaged));
    try {
      const CheckpointReader opened = OpenWeights(path);
      opened.Verify();
      EXPECT_EQ(opened.identity(), artifact_.identity);
      ++harmless;
    } catch (const InputError&) {
      ++noticed;
    }
  };
  for (size_t bit = 0; bit < 8 * frame.size(); ++bit) {
    std::string damaged = frame;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    open(damaged);
  }
  EXPECT_LE(harmless, GetParam() == Coder::kZstd ? 32u : 64u);  // in each frame
  std::printf("summary: artifact, digest made right again: %zu bits flipped, %zu noticed, %zu without effect\n", 8 * frame.size(), noticed,
              harmless);
  noticed = harmless = 0;
  for (size_t size = 0; size < frame.size(); ++size) open(frame.substr(0, size));
  EXPECT_EQ(harmless, 0u);
  std::printf("summary: artifact, digest made right again: cut at %zu lengths, %zu noticed\n", frame.size(), noticed);
}

TEST_P(ArtifactTest, SaysWhatIsWrong) {
  const size_t frame = artifact_.bytes.size() - kDigestFrameBytes;
  EXPECT_THAT(ErrorOf(""), HasSubstr("a.zst: is empty"));
  EXPECT_THAT(ErrorOf("neither"), HasSubstr("a.zst: is not a checkpoint"));
  EXPECT_THAT(ErrorOf(artifact_.bytes.substr(0, frame / 2)), HasSubstr("a.zst: artifact is truncated or damaged"));
  EXPECT_THAT(ErrorOf(artifact_.bytes.substr(0, frame)), HasSubstr("a.zst: artifact ends before its digest"));
  EXPECT_THAT(ErrorOf(artifact_.bytes + "x"), HasSubstr("a.zst: artifact has 1 bytes too many at its end"));
  EXPECT_THAT(ErrorOf(artifact_.bytes + artifact_.bytes), HasSubstr("bytes too many at its end"));
  std::string damaged = artifact_.bytes;
  damaged[frame] ^= 1;
  EXPECT_THAT(ErrorOf(damaged), HasSubstr("artifact has no digest at its end"));
  damaged = artifact_.bytes;
  damaged.back() ^= 1;
  EXPECT_THAT(ErrorOf(damaged), HasSubstr("its bytes do not have the SHA-256 that it states"));
}

TEST_P(ArtifactTest, ADigestThatIsRightDoesNotMakeItAnArtifact) {
  EXPECT_THAT(ErrorOf(Sealed(Compressed("neither"))), HasSubstr("is not a checkpoint"));
  EXPECT_THAT(ErrorOf(Sealed(Compressed(Content(Kind::kWeights)))),
              HasSubstr("is a weights checkpoint; expected quantised"));
  EXPECT_EQ(ErrorOf(Sealed(Compressed(Content()))), "no error");
}

TEST_P(ArtifactTest, RefusesABombByWhatItDeclares) {
  const std::string zeros(100 << 20, '\0');
  const std::string bomb = Sealed(Compressed(zeros));
  ASSERT_GT(zeros.size(), MaxContentBytes(bomb.size()));
  EXPECT_THAT(ErrorOf(bomb), HasSubstr("artifact declares 104857600 bytes of content"));
}

TEST_P(ArtifactTest, RefusesABombThatDeclaresLess) {
  const std::string content(1 << 20, '\0');
  std::string compressed = Compressed(content);
  const auto declare = [&](const char(&size)[5]) {
    compressed.replace(5, 4, size, 4);  // behind the magic number and the descriptor of a frame in one segment
    return ZSTD_getFrameContentSize(compressed.data(), compressed.size());
  };
  ASSERT_EQ(declare("\x00\x10\x00\x00"), 4096u);
  EXPECT_THAT(ErrorOf(Sealed(compressed)), HasSubstr("artifact is damaged (zstd: "));
  // One byte more than there is.
  ASSERT_EQ(declare("\x01\x00\x10\x00"), content.size() + 1);
  EXPECT_THAT(ErrorOf(Sealed(compressed)), HasSubstr("artifact is damaged (zstd: "));
}

TEST_P(ArtifactTest, RefusesContentOfUndeclaredSize) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0);
  const std::string content = Content();
  std::string compressed(ZSTD_compressBound(content.size()), '\0');
  compressed.resize(ZSTD_compress2(context, compressed.data(), compressed.size(), content.data(), content.size()));
  ZSTD_freeCCtx(context);
  EXPECT_THAT(ErrorOf(Sealed(compressed)), HasSubstr("does not declare its content size"));
}

TEST_P(ArtifactTest, PacksOnlyQuantisedCheckpoints) {
  const CheckpointReader weights(Content(Kind::kWeights), "weights.ckpt");
  EXPECT_THROW(PackArtifact(weights, kLevels, 1, GetParam()), InputError);
}

// A model of zeros would unpack to more than OpenWeights takes: it is better to refuse it when packing.
TEST_P(ArtifactTest, DoesNotPackWhatCouldNotBeOpened) {
  std::string bytes;
  CheckpointWriter writer(&bytes, Kind::kQuantised, {});
  writer.Add({.name = "zeros", .dtype = DType::kInt8, .shape = {4 << 20}}, std::vector<int8_t>(4 << 20));
  writer.Finish({}, {});
  EXPECT_THROW(PackArtifact(CheckpointReader(bytes, "zeros.ckpt"), kLevels, 1, GetParam()), InputError);
}

}  // namespace
}  // namespace fairway
