#include "common/checkpoint/packed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "common/base/file.h"
#include "common/checkpoint/coder.h"
#include "raw_file.h"

namespace fairway {
namespace {

constexpr CodeOrder kOrders[] = {CodeOrder::kAsTheyStand, CodeOrder::kRowsByScale, CodeOrder::kColumnsByScale, CodeOrder::kCoded};

std::vector<uint16_t> Halves(const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  std::ranges::transform(values, halves.begin(), FloatToHalf);
  return halves;
}

// 2 x 3 codes, the second row of the larger scale, the columns' factors 1, 4 and 1.
std::string Written(const std::string& column_scale) {
  std::string bytes;
  CheckpointWriter writer(&bytes, Kind::kQuantised, {{"num_layers", "2"}});
  writer.Add({"w.q", DType::kInt8, {2, 3}, Quantisation{"int5", -16, 15, "w.scale", column_scale}}, std::vector<int8_t>{1, 2, 3, 4, 5, 6});
  writer.Add({"w.scale", DType::kFloat16, {2}, {}}, Halves({1, 2}));
  writer.Add({"w.column", DType::kFloat16, {3}, {}}, Halves({1, 4, 1}));
  writer.Add({"gain", DType::kFloat32, {}, {}}, std::vector<float>{1.5});
  Counters counters;
  counters.Set("train.step", 7);
  writer.Finish(counters, {"train", "0.1.0", "ab", {}, {}});
  return bytes;
}

// The bytes between the last description and the hash.
std::string DataOf(const std::string& packed, size_t bytes) { return packed.substr(packed.size() - 9 - bytes, bytes); }

TEST(Packed, CodesLieInTheOrderOfTheirScales) {
  const CheckpointReader alike(Written(""), "alike"), stepped(Written("w.column"), "stepped");
  const auto codes = [](const CheckpointReader& checkpoint, CodeOrder order) {
    return OrderedCodes(checkpoint, checkpoint.Find("w.q"), order).value();
  };
  EXPECT_EQ(codes(stepped, CodeOrder::kAsTheyStand), "\1\2\3\4\5\6");
  EXPECT_EQ(codes(stepped, CodeOrder::kRowsByScale), "\4\5\6\1\2\3");
  EXPECT_EQ(codes(stepped, CodeOrder::kColumnsByScale), "\2\5\1\4\3\6");
  EXPECT_EQ(codes(alike, CodeOrder::kColumnsByScale), "\1\4\2\5\3\6");
  for (const char* name : {"w.scale", "gain"}) EXPECT_FALSE(OrderedCodes(stepped, stepped.Find(name), CodeOrder::kRowsByScale));
  EXPECT_FALSE(OrderedCodes(stepped, stepped.Find("w.q"), static_cast<CodeOrder>(4)));
  EXPECT_FALSE(OrderedCodes(stepped, stepped.Find("w.q"), CodeOrder::kCoded));
}

TEST(Packed, LiesAsTheFormatSays) {
  const CheckpointReader written(Written("w.column"), "written");
  const std::vector<PackedTensor> tensors = {{"w.q", CodeOrder::kColumnsByScale}, {"w.scale"}, {"w.column"}, {"gain"}};
  const std::string packed = PackCheckpoint(written, tensors);
  EXPECT_TRUE(packed.starts_with("\tfairway\n" + Field(2, Field(1, 5) + Field(2, 3) + Field(3, Field(1, "num_layers") + Field(2, "2")))));
  // 1, 2; 1, 4, 1 in float16: high bytes first. 1.5 in float32.
  const std::string data = std::string("\2\5\1\4\3\6" "\x3c\x40\x3c\x44\x3c" "\0\0\0\0\0" "\x3f\xc0\0\0", 20);
  EXPECT_EQ(DataOf(packed, data.size()), data);
  EXPECT_EQ(DataOf(packed, data.size() + 2).substr(0, 2), std::string("\x22\x14"));
  EXPECT_EQ(packed.substr(packed.size() - 9), FixedField(5, Xxh3Of(packed.substr(0, packed.size() - 9))));
}

TEST(Packed, StreamsOfCodesStandLast) {
  const CheckpointReader written(Written("w.column"), "written");
  size_t data_end;
  const std::string packed = PackCheckpoint(
      written, std::vector<PackedTensor>{{"w.q", CodeOrder::kCoded}, {"w.scale"}, {"w.column"}, {"gain"}}, 1, &data_end);
  EXPECT_TRUE(packed.starts_with("\tfairway\n" + Field(2, Field(1, 6) + Field(2, 3) + Field(3, Field(1, "num_layers") + Field(2, "2")))));
  std::vector<int8_t> codes = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> scales = Halves({1, 2}), factors = Halves({1, 4, 1});
  const std::string stream = EncodeCodes(std::vector<CodeMatrix>{{2, 3, scales, factors, codes.data()}});
  EXPECT_EQ(packed.substr(data_end), stream + packed.substr(packed.size() - 9));
  const std::string data = std::string("\x3c\x40\x3c\x44\x3c" "\0\0\0\0\0" "\x3f\xc0\0\0", 14);
  EXPECT_EQ(packed.substr(data_end - data.size(), data.size()), data);
  EXPECT_NE(packed.find(Field(5, 3) + Field(6, stream.size())), std::string::npos);
}

TEST(Packed, OnlyMatricesWithTheirScalesCanBeCoded) {
  const CheckpointReader written(Written("w.column"), "written"), without(Written("absent"), "without"), other(Written("w.scale"), "other");
  EXPECT_TRUE(CanBeCoded(written, written.Find("w.q")));
  EXPECT_FALSE(CanBeCoded(written, written.Find("w.scale")));
  EXPECT_FALSE(CanBeCoded(without, without.Find("w.q")));
  EXPECT_FALSE(CanBeCoded(other, other.Find("w.q")));
}

TEST(Packed, GivesBackWhatWasPacked) {
  const CheckpointReader written(Written("w.column"), "written");
  for (const CodeOrder order : kOrders) {
    const CheckpointReader read(PackCheckpoint(written, std::vector<PackedTensor>{{"gain"}, {"w.q", order}, {"w.scale"}, {"w.column"}}), "read");
    read.Verify();
    EXPECT_EQ(read.identity(), written.identity());
    EXPECT_EQ(read.settings(), written.settings());
    EXPECT_EQ(read.Find("w.q").quantisation, written.Find("w.q").quantisation);
    EXPECT_TRUE(read.counters().all().empty());
    EXPECT_TRUE(read.lineage().tool.empty());
  }
}

TEST(Packed, GivesBackRandomCheckpoints) {
  std::mt19937 random(1);
  const auto bytes = [&](size_t size) {
    std::vector<std::byte> values(size);
    for (std::byte& value : values) value = static_cast<std::byte>(random());
    return values;
  };
  for (int round = 0; round < 300; ++round) {
    std::string content;
    CheckpointWriter writer(&content, Kind::kQuantised, {});
    std::vector<PackedTensor> tensors;
    const auto add = [&](const TensorInfo& info, CodeOrder order = CodeOrder::kAsTheyStand) {
      writer.Add(info, bytes(info.bytes()));
      tensors.push_back({info.name, order, static_cast<int>(random() % 2)});
    };
    for (int matrix = 0; matrix < 3; ++matrix) {
      const auto rows = static_cast<int64_t>(random() % 20), columns = static_cast<int64_t>(random() % 20);
      const std::string name = std::to_string(matrix), factors = random() % 2 == 0 ? name + ".column" : "";
      add({name + ".q", DType::kInt8, {rows, columns}, Quantisation{"int8", -128, 127, name + ".scale", factors}},
          kOrders[rows * columns == 0 ? 0 : random() % 4]);
      add({name + ".scale", DType::kFloat16, {rows}, {}});
      add({name + ".column", DType::kFloat16, {columns}, {}});
      const auto dtype = static_cast<DType>(1 + random() % 6);
      add({name, dtype, std::vector<int64_t>(random() % 3, static_cast<int64_t>(random() % 5)), {}});
    }
    writer.Finish({}, {});
    std::ranges::shuffle(tensors, random);
    const CheckpointReader written(content, "written");
    const CheckpointReader read(PackCheckpoint(written, tensors), "read");
    ASSERT_EQ(read.identity(), written.identity()) << round;
  }
}

}  // namespace
}  // namespace fairway
