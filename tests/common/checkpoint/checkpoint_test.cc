#include "common/checkpoint/checkpoint.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "common/base/error.h"
#include "temporary_folder.h"

namespace fairway {
namespace {

using testing::HasSubstr;

const SettingValues kSettings = {{"num_layers", "2"}, {"source", "ema:0.5,swa:0.5"}};
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16,
                             DType::kInt8,    DType::kInt32,   DType::kInt64};

std::vector<std::byte> RandomBytes(size_t size, std::mt19937& random) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

std::string ErrorOf(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(TensorsInMemory, AreReadLikeACheckpoint) {
  TensorsInMemory tensors("some weights", Kind::kQuantised, kSettings);
  const std::vector<uint16_t> halves = {0x3c00, 0xc000};
  std::vector<float> floats = {1.5f, -2.0f, 0.25f};
  tensors.Add({.name = "half", .dtype = DType::kFloat16, .shape = {2}}, halves);
  tensors.AddView({.name = "float", .shape = {3}}, std::as_bytes(std::span<const float>(floats)));
  tensors.Add({.name = "empty", .shape = {0, 2}}, std::vector<float>());
  EXPECT_EQ(tensors.path(), "some weights");
  EXPECT_EQ(tensors.kind(), Kind::kQuantised);
  EXPECT_EQ(tensors.settings(), kSettings);
  ASSERT_EQ(tensors.tensors().size(), 3u);
  EXPECT_EQ(tensors.tensors()[1].name, "float");
  EXPECT_TRUE(tensors.Has("half"));
  EXPECT_FALSE(tensors.Has("none"));
  EXPECT_EQ(tensors.Floats("half"), (std::vector<float>{1, -2}));
  EXPECT_EQ(tensors.Floats("float"), floats);
  EXPECT_EQ(tensors.Data("float").data(), reinterpret_cast<const std::byte*>(floats.data()));  // a view
  EXPECT_NE(tensors.Data("half").data(), reinterpret_cast<const std::byte*>(halves.data()));   // a copy
  EXPECT_TRUE(tensors.Data("empty").empty());
  EXPECT_THAT(ErrorOf([&] { tensors.Find("none"); }), HasSubstr("some weights: misses tensor none"));
  EXPECT_THROW(tensors.Add({.name = "half", .shape = {1}}, std::vector<float>(1)), std::logic_error);
  EXPECT_THROW(tensors.Add({.name = "short", .shape = {2}}, std::vector<float>(1)), std::logic_error);
}

TEST(Checkpoint, GivesBackEveryTypeAndShape) {
  const TemporaryFolder folder;
  std::mt19937 random(1);
  std::vector<TensorInfo> infos;
  for (const DType dtype : kDTypes)
    for (const std::vector<int64_t>& shape :
         std::vector<std::vector<int64_t>>{{}, {1}, {7}, {0}, {3, 0, 5}, {3, 5}, {2, 3, 4, 5}, {64, 33}})
      infos.push_back({std::string(DTypeName(dtype)) + "." + std::to_string(infos.size()), dtype, shape, {}});
  infos.push_back({"codes", DType::kInt8, {2, 3}, Quantisation{"int6", -32, 31, "codes.scale"}});

  std::vector<std::vector<std::byte>> data;
  std::string identity;
  {
    CheckpointWriter writer(folder / "a.ckpt", Kind::kQuantised, kSettings);
    for (const TensorInfo& info : infos) {
      data.push_back(RandomBytes(info.bytes(), random));
      writer.Add(info, data.back());
    }
    Counters counters;
    counters.Set("train.seconds", 12.25);
    counters.Set("train.step", 7);
    counters.Set("train.seconds", 13.5);
    const Lineage corpus{"tokenize-shard", "0.1.0", "ab", {{"seed", "1"}}, {{"text", "cd", {}}}};
    identity =
        writer.Finish(counters, {"train", "0.1.0", "ef", {{"num_layers", "2"}}, {{"train shards", "01", corpus}}});
  }

  const CheckpointReader reader(folder / "a.ckpt");
  reader.Verify();
  EXPECT_EQ(reader.kind(), Kind::kQuantised);
  EXPECT_EQ(reader.settings(), kSettings);
  EXPECT_EQ(reader.identity(), identity);
  EXPECT_EQ(identity.size(), 64u);
  ASSERT_EQ(reader.tensors().size(), infos.size());
  for (size_t i = 0; i < infos.size(); ++i) {
    const TensorInfo& info = reader.tensors()[i];
    SCOPED_TRACE(info.name);
    EXPECT_EQ(info.name, infos[i].name);
    EXPECT_EQ(info.dtype, infos[i].dtype);
    EXPECT_EQ(info.shape, infos[i].shape);
    EXPECT_EQ(info.quantisation, infos[i].quantisation);
    const auto bytes = reader.Data(info.name);
    EXPECT_EQ(std::vector(bytes.begin(), bytes.end()), data[i]);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 64, 0u);
  }
  EXPECT_EQ(reader.counters().all(),
            (std::vector<std::pair<std::string, double>>{{"train.seconds", 13.5}, {"train.step", 7}}));
  EXPECT_EQ(reader.counters().Get("absent"), 0);
  EXPECT_FALSE(reader.counters().Has("absent"));
  const Lineage& lineage = reader.lineage();
  EXPECT_EQ(lineage.tool, "train");
  EXPECT_EQ(lineage.source_digest, "ef");
  ASSERT_EQ(lineage.inputs.size(), 1u);
  EXPECT_EQ(lineage.inputs[0].role, "train shards");
  EXPECT_EQ(lineage.inputs[0].identity, "01");
  EXPECT_EQ(lineage.inputs[0].lineage.tool, "tokenize-shard");
  EXPECT_EQ(lineage.inputs[0].lineage.settings, (SettingValues{{"seed", "1"}}));
  ASSERT_EQ(lineage.inputs[0].lineage.inputs.size(), 1u);
  EXPECT_EQ(lineage.inputs[0].lineage.inputs[0].identity, "cd");
}

TEST(Checkpoint, MayHoldNoTensors) {
  const TemporaryFolder folder;
  CheckpointWriter(folder / "a.ckpt", Kind::kWeights, {}).Finish({}, {});
  const CheckpointReader reader(folder / "a.ckpt");
  reader.Verify();
  EXPECT_TRUE(reader.tensors().empty());
  EXPECT_TRUE(reader.settings().empty());
  EXPECT_TRUE(reader.lineage().inputs.empty());
}

// The padding before a tensor depends on the length of everything before it: names of every length reach every case.
TEST(Checkpoint, AlignsDataBehindNamesOfEveryLength) {
  const TemporaryFolder folder;
  {
    CheckpointWriter writer(folder / "a.ckpt", Kind::kWeights, {});
    for (size_t length = 1; length <= 255; ++length)
      writer.Add({std::string(length, 'x'), DType::kInt8, {static_cast<int64_t>(length)}, {}},
                 std::vector<int8_t>(length, static_cast<int8_t>(length)));
    writer.Finish({}, {});
  }
  const CheckpointReader reader(folder / "a.ckpt");
  reader.Verify();
  for (const TensorInfo& info : reader.tensors())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(reader.Data(info.name).data()) % 64, 0u) << info.name.size();
}

std::string WriteSmall(const std::string& path, Kind kind, const SettingValues& settings, const TensorInfo& info,
                       const std::vector<float>& values, const Counters& counters = {}, const Lineage& lineage = {}) {
  CheckpointWriter writer(path, kind, settings);
  writer.Add(info, values);
  return writer.Finish(counters, lineage);
}

TEST(Checkpoint, IdentityIsOfContentAlone) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.ckpt";
  const TensorInfo info{"w", DType::kFloat32, {2, 3}, {}};
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const std::string identity = WriteSmall(path, Kind::kWeights, kSettings, info, values);

  Counters clock;
  clock.Set("train.seconds", 1);
  EXPECT_EQ(WriteSmall(path, Kind::kWeights, kSettings, info, values, clock, {"train", "1", "2", {}, {}}), identity);

  EXPECT_NE(WriteSmall(path, Kind::kTraining, kSettings, info, values), identity);
  EXPECT_NE(WriteSmall(path, Kind::kWeights, {}, info, values), identity);
  EXPECT_NE(WriteSmall(path, Kind::kWeights, kSettings, {"v", DType::kFloat32, {2, 3}, {}}, values), identity);
  EXPECT_NE(WriteSmall(path, Kind::kWeights, kSettings, {"w", DType::kInt32, {2, 3}, {}}, values), identity);
  EXPECT_NE(WriteSmall(path, Kind::kWeights, kSettings, {"w", DType::kFloat32, {3, 2}, {}}, values), identity);
  EXPECT_NE(WriteSmall(path, Kind::kWeights, kSettings, info, {1, 2, 3, 4, 5, 7}), identity);
  EXPECT_NE(WriteSmall(path, Kind::kWeights, kSettings,
                       {"w", DType::kFloat32, {2, 3}, Quantisation{"int6", -32, 31, "w.scale"}}, values),
            identity);

  // Neither the order of the tensors nor that of the settings is content.
  const auto two = [&](SettingValues settings, const char* first, const char* second) {
    CheckpointWriter writer(path, Kind::kWeights, settings);
    writer.Add({first, DType::kFloat32, {}, {}}, std::vector<float>{1});
    writer.Add({second, DType::kFloat32, {}, {}}, std::vector<float>{1});
    return writer.Finish({}, {});
  };
  EXPECT_EQ(two({{"a", "1"}, {"b", "2"}}, "v", "w"), two({{"b", "2"}, {"a", "1"}}, "w", "v"));
  EXPECT_NE(two({{"a", "1"}, {"b", "2"}}, "v", "w"), two({{"a", "1"}, {"b", "2"}}, "v", "x"));

  // Records quote identities: the definition must not move. Computed once with Python's hashlib from the definition in
  // docs/formats.md (tests/interop does so for every tensor).
  EXPECT_EQ(WriteSmall(path, Kind::kWeights, {{"num_layers", "2"}}, {"w", DType::kFloat32, {1}, {}}, {1.5f}),
            "275fb096c723aa2b8975e2949d61107fd810b8c6200a26549bc49693f1ad0d17");
}

TEST(Checkpoint, ReadsFromMemoryAndFromPipes) {
  const TemporaryFolder folder;
  const TensorInfo info{"w", DType::kFloat32, {3}, {}};
  WriteSmall(folder / "a.ckpt", Kind::kWeights, kSettings, info, {1, 2, 3});
  const std::string bytes(InputFile(folder / "a.ckpt").text());

  CheckpointReader memory(bytes, "artifact");
  EXPECT_EQ(memory.Floats("w"), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(memory.path(), "artifact");
  const CheckpointReader moved(std::move(memory));
  moved.Verify();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(moved.Data("w").data()) % 16, 0u);

  // Writer and reader at the two ends of a named pipe, as "-" has them of an unnamed one.
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::thread feeder([&] {
    const int descriptor = open(pipe.c_str(), O_WRONLY);
    for (const char byte : bytes)
      if (write(descriptor, &byte, 1) != 1) break;
    close(descriptor);
  });
  const CheckpointReader piped(pipe);
  feeder.join();
  piped.Verify();
  EXPECT_EQ(piped.Floats("w"), (std::vector<float>{1, 2, 3}));
}

TEST(Checkpoint, WritesToStandardOutput) {
  const TemporaryFolder folder;
  const TensorInfo info{"w", DType::kFloat32, {3}, {}};
  WriteSmall(folder / "a.ckpt", Kind::kWeights, kSettings, info, {1, 2, 3});

  const int saved = dup(STDOUT_FILENO), file = open((folder / "b.ckpt").c_str(), O_WRONLY | O_CREAT, 0600);
  fflush(stdout);
  dup2(file, STDOUT_FILENO);
  WriteSmall("-", Kind::kWeights, kSettings, info, {1, 2, 3});
  dup2(saved, STDOUT_FILENO);
  close(saved);
  close(file);
  EXPECT_EQ(InputFile(folder / "a.ckpt").text(), InputFile(folder / "b.ckpt").text());
}

TEST(Checkpoint, AppearsOnlyWhenFinished) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.ckpt";
  {
    CheckpointWriter writer(path, Kind::kWeights, {});
    writer.Add({"w", DType::kFloat32, {1}, {}}, std::vector<float>{1});
    EXPECT_THAT(ErrorOf([&] { CheckpointWriter second(path, Kind::kWeights, {}); }),
                HasSubstr("another process is writing"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Checkpoint, RefusesWhatItsCallersMustNotDo) {
  const TemporaryFolder folder;
  CheckpointWriter writer(folder / "a.ckpt", Kind::kWeights, {});
  const std::vector<float> one = {1};
  writer.Add({"w", DType::kFloat32, {1}, {}}, one);
  EXPECT_THROW(writer.Add({"w", DType::kFloat32, {1}, {}}, one), std::logic_error);
  EXPECT_THROW(writer.Add({"v", DType::kFloat32, {2}, {}}, one), std::logic_error);
  EXPECT_THROW(writer.Add({"", DType::kFloat32, {1}, {}}, one), std::logic_error);
  EXPECT_THROW(writer.Add({"a b", DType::kFloat32, {1}, {}}, one), std::logic_error);
  EXPECT_THROW(writer.Add({std::string(256, 'x'), DType::kFloat32, {1}, {}}, one), std::logic_error);
}

TEST(Checkpoint, KeepsALineageOfTheGreatestDepth) {
  const TemporaryFolder folder;
  Lineage lineage{"t", "", "", {}, {}};
  for (int depth = 1; depth < CheckpointWriter::kMaxLineageDepth; ++depth)
    lineage = Lineage{"t", "", "", {}, {{"parent", "00", lineage}}};
  CheckpointWriter(folder / "a.ckpt", Kind::kWeights, {}).Finish({}, lineage);
  const CheckpointReader reader(folder / "a.ckpt");
  int depth = 1;
  for (const Lineage* at = &reader.lineage(); !at->inputs.empty(); at = &at->inputs[0].lineage) ++depth;
  EXPECT_EQ(depth, CheckpointWriter::kMaxLineageDepth);

  Lineage deeper{"t", "", "", {}, {}};
  EXPECT_THROW(AddInput(deeper, "parent", reader), InputError);  // it is the file that is too deep
  deeper.inputs.push_back({"parent", "00", reader.lineage()});
  EXPECT_THROW(CheckpointWriter(folder / "b.ckpt", Kind::kWeights, {}).Finish({}, deeper), std::logic_error);
}

// A reader would refuse it: better to stop before the file has its name.
TEST(Checkpoint, WritesNothingThatCouldNotBeRead) {
  const TemporaryFolder folder;
  const auto finish = [&](const SettingValues& settings, const Counters& counters, const Lineage& lineage) {
    CheckpointWriter(folder / "a.ckpt", Kind::kWeights, settings).Finish(counters, lineage);
  };
  EXPECT_THROW(finish({{"source", "a\nb"}}, {}, {}), std::logic_error);
  EXPECT_THROW(finish({}, {}, {"t", "caf\xe9", "", {}, {}}), std::logic_error);
  EXPECT_THROW(finish({}, {}, {"t", "", "", {{"a", "\x1b"}}, {}}), std::logic_error);
  EXPECT_THROW(finish({}, {}, {"t", "", "", {}, {{"text", "\n", {}}}}), std::logic_error);
  Counters counters;
  counters.Set("loss", NAN);
  EXPECT_THROW(finish({}, counters, {}), std::logic_error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  CheckpointWriter writer(folder / "a.ckpt", Kind::kWeights, {});
  EXPECT_THROW(writer.Add({"a", DType::kInt8, std::vector<int64_t>(9, 1), {}}, std::vector<int8_t>{1}), std::logic_error);
}

TEST(Checkpoint, CountsWithWholeNumbers) {
  const TemporaryFolder folder;
  Counters counters;
  for (const auto& [name, value] : {std::pair("three", 3.0), {"most", 0x1p53}, {"beyond", 0x1p54}, {"half", 0.5}, {"negative", -1.0}})
    counters.Set(name, value);
  CheckpointWriter(folder / "a.ckpt", Kind::kWeights, {}).Finish(counters, {});
  const CheckpointReader reader(folder / "a.ckpt");
  EXPECT_EQ(reader.Count("three"), 3);
  EXPECT_EQ(reader.Count("most"), 1ll << 53);
  EXPECT_EQ(reader.Count("absent"), 0);
  for (const char* name : {"beyond", "half", "negative"}) EXPECT_THROW(reader.Count(name), InputError) << name;
}

TEST(Checkpoint, OpensALineageAndCopiesTensors) {
  const TemporaryFolder folder;
  Settings settings;
  settings.Set("num_layers", "3", Origin::kCommandLine, "--num-layers");
  settings.Set("eval_stride", "32", Origin::kCommandLine, "--eval-stride");
  Lineage lineage = OpenLineage("train", "0.1.0", "abc", settings, scope::kModel | scope::kTrain);
  EXPECT_EQ(lineage.settings, (SettingValues{{"num_layers", "3"}}));
  const std::string identity = WriteSmall(folder / "a.ckpt", Kind::kTraining, kSettings,
                                          {"ema/w", DType::kFloat32, {2}, {}}, {1, 2}, {}, lineage);

  const CheckpointReader from(folder / "a.ckpt");
  Lineage next = OpenLineage("ema-finalize", "0.1.0", "def", settings, scope::kFinalize);
  AddInput(next, "training checkpoint", from);
  {
    CheckpointWriter to(folder / "b.ckpt", Kind::kWeights, kSettings);
    CopyTensor(from, "ema/w", to, "w");
    CopyTensor(from, "ema/w", to);
    to.Finish({}, next);
  }
  const CheckpointReader copy(folder / "b.ckpt");
  EXPECT_EQ(copy.Floats("w"), (std::vector<float>{1, 2}));
  EXPECT_EQ(copy.Floats("ema/w"), (std::vector<float>{1, 2}));
  ASSERT_EQ(copy.lineage().inputs.size(), 1u);
  EXPECT_EQ(copy.lineage().inputs[0].identity, identity);
  EXPECT_EQ(copy.lineage().inputs[0].lineage.tool, "train");
}

// --- conversions

// The nearest of all halves by search in double precision, ties to the even one: the rule itself instead of its bit
// tricks.
uint16_t NearestHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(static_cast<double>(value));
  int low = 0, high = 0x7c00;  // infinity stands for 65536, the number that would follow 65504
  const auto number = [](int half) {
    return half == 0x7c00 ? 65536.0 : static_cast<double>(HalfToFloat(static_cast<uint16_t>(half)));
  };
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (number(middle) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - number(low), above = number(high) - magnitude;
  const bool up = above < below || (above == below && low % 2 == 1);
  return sign | static_cast<uint16_t>(up ? high : low);
}

TEST(Conversion, EveryHalfComesBack) {
  for (int half = 0; half < 0x10000; ++half) {
    const float wide = HalfToFloat(static_cast<uint16_t>(half));
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const double expected = exponent == 31  ? (mantissa ? NAN : INFINITY)
                            : exponent == 0 ? std::ldexp(mantissa, -24)
                                            : std::ldexp(1024 + mantissa, exponent - 25);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(wide));
      EXPECT_EQ(FloatToHalf(wide), (half & 0x8000) | 0x7e00);
      continue;
    }
    ASSERT_EQ(wide, half & 0x8000 ? -expected : expected) << half;
    ASSERT_EQ(FloatToHalf(wide), half);
  }
}

TEST(Conversion, FloatsGoToTheNearestHalf) {
  std::mt19937 random(2);
  for (int i = 0; i < 300000; ++i) {
    // Exponents around and inside the range of halves, where rounding has cases.
    const uint32_t exponent = 127 - 30 + random() % 50;
    uint32_t mantissa = random() & 0x7fffff;
    if (i % 3 == 0) mantissa &= ~0xfffu;  // exact ties between two halves
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random() & 1) << 31 | exponent << 23 | mantissa);
    ASSERT_EQ(FloatToHalf(value), NearestHalf(value)) << std::hexfloat << value;
  }
  for (const float value :
       {65504.0f, 65519.99f, 65520.0f, 1e30f, 0x1p-25f, 0x1.000002p-25f, 0x1p-26f, 0x1.ffep-15f, 0.0f, -0.0f})
    EXPECT_EQ(FloatToHalf(value), value >= 65520 ? 0x7c00 : NearestHalf(value)) << value;
  EXPECT_EQ(FloatToHalf(-INFINITY), 0xfc00);
}

TEST(Conversion, BFloat16RoundsToNearestEven) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const float wide = BFloat16ToFloat(static_cast<uint16_t>(bits));
    ASSERT_EQ(FloatToBFloat16(wide), std::isnan(wide) ? 0x7fc0 : bits);
  }
  const auto narrow = [](uint32_t bits) { return FloatToBFloat16(std::bit_cast<float>(bits)); };
  EXPECT_EQ(narrow(0x3f807fff), 0x3f80);  // just under half way
  EXPECT_EQ(narrow(0x3f808000), 0x3f80);  // half way, even below
  EXPECT_EQ(narrow(0x3f818000), 0x3f82);  // half way, even above
  EXPECT_EQ(narrow(0x3f808001), 0x3f81);
  EXPECT_EQ(narrow(0x7f7fffff), 0x7f80);  // the largest float rounds to infinity
  EXPECT_EQ(narrow(0x00000001), 0x0000);
}

TEST(Conversion, FloatsWidensWhatIsFloatingPoint) {
  const TemporaryFolder folder;
  CheckpointWriter writer(folder / "a.ckpt", Kind::kWeights, {});
  writer.Add({"half", DType::kFloat16, {2}, {}}, std::vector<uint16_t>{0x3c00, 0x0001});
  writer.Add({"brain", DType::kBFloat16, {2}, {}}, std::vector<uint16_t>{0x3f80, 0xc000});
  writer.Add({"whole", DType::kInt8, {1}, {}}, std::vector<int8_t>{1});
  writer.Finish({}, {});
  const CheckpointReader reader(folder / "a.ckpt");
  EXPECT_EQ(reader.Floats("half"), (std::vector<float>{1, 0x1p-24f}));
  EXPECT_EQ(reader.Floats("brain"), (std::vector<float>{1, -2}));
  EXPECT_EQ(ErrorOf([&] { reader.Floats("whole"); }),
            folder / "a.ckpt" + ": tensor whole is of dtype int8; expected floating point");
}

}  // namespace
}  // namespace fairway
