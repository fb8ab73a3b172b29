#include "common/checkpoint/safetensors.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <random>

#include "common/base/error.h"
#include "temporary_folder.h"

namespace fairway {
namespace {

// A file with exactly this header and this data.
std::string Raw(const std::string& header, const std::string& data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(header.size() >> 8 * i);
  return file + header + data;
}

class Safetensors : public testing::Test {
 protected:
  void Overwrite(const std::string& bytes) const {
    std::filesystem::remove(path);  // file systems flush what is truncated and written again: thousands of times, here
    std::ofstream(path, std::ios::binary) << bytes;
  }
  std::string Open(const std::string& bytes) const {
    Overwrite(bytes);
    try {
      const SafetensorsReader reader(path);
      return "fine";
    } catch (const InputError& error) {
      return std::string(error.what()).substr(path.size() + 2);
    }
  }

  TemporaryFolder folder;
  std::string path = folder / "a.safetensors";
};

TEST_F(Safetensors, GivesBackWhatWasWritten) {
  const std::vector<TensorInfo> infos = {{"codes", DType::kInt8, {3}, {}},    {"half", DType::kFloat16, {3}, {}},
                                         {"w", DType::kFloat32, {2, 2}, {}},  {"scalar", DType::kFloat32, {}, {}},
                                         {"none", DType::kBFloat16, {0}, {}}, {"ids", DType::kInt64, {1}, {}}};
  const auto data = [&](const TensorInfo& info) {
    static const float kFloats[] = {1, -2, 3, 4.5};
    static const uint16_t kHalves[] = {0x3c00, 0xbc00, 0x4000};
    static const int8_t kCodes[] = {-1, 0, 1};
    static const int64_t kIds[] = {1234567890123};
    const std::map<std::string, std::span<const std::byte>> all = {
        {"w", std::as_bytes(std::span(kFloats))},    {"scalar", std::as_bytes(std::span(kFloats))},
        {"half", std::as_bytes(std::span(kHalves))}, {"none", std::as_bytes(std::span(kHalves))},
        {"codes", std::as_bytes(std::span(kCodes))}, {"ids", std::as_bytes(std::span(kIds))}};
    return all.at(info.name).first(info.bytes());
  };
  WriteSafetensors(path, infos, {{"setting.num_layers", "2"}, {"kind", "weights"}}, data);

  const SafetensorsReader reader(path);
  EXPECT_EQ(reader.metadata(), (SettingValues{{"kind", "weights"}, {"setting.num_layers", "2"}}));
  ASSERT_EQ(reader.tensors().size(), infos.size());
  for (const TensorInfo& info : infos) {
    SCOPED_TRACE(info.name);
    EXPECT_EQ(reader.Find(info.name).dtype, info.dtype);
    EXPECT_EQ(reader.Find(info.name).shape, info.shape);
    const auto bytes = reader.Data(info.name), expected = data(info);
    EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), expected.begin(), expected.end()));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % DTypeSize(info.dtype), 0u);
  }
  EXPECT_EQ(reader.Floats("w"), (std::vector<float>{1, -2, 3, 4.5}));
  EXPECT_EQ(reader.Floats("half"), (std::vector<float>{1, -1, 2}));
  EXPECT_TRUE(reader.Has("scalar"));
  EXPECT_FALSE(reader.Has("vector"));
  EXPECT_THROW(reader.Find("vector"), InputError);
  EXPECT_THROW(reader.Floats("ids"), InputError);
}

TEST_F(Safetensors, MayBeEmpty) {
  WriteSafetensors(path, {}, {}, [](const TensorInfo&) { return std::span<const std::byte>(); });
  EXPECT_TRUE(SafetensorsReader(path).tensors().empty());
}

TEST_F(Safetensors, RefusesEveryDefectByName) {
  const std::string good =
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[2],"data_offsets":[4,6]}})";
  EXPECT_EQ(Open(Raw(good, "123456")), "fine");
  EXPECT_EQ(Open(""), "is empty");
  EXPECT_EQ(Open("1234567"), "is truncated: it ends before its header");
  EXPECT_EQ(Open(Raw(good, "123456").substr(0, 60)),
            "is truncated or no safetensors file: its header would have 106 bytes");
  EXPECT_EQ(Open(std::string(7, '\xff') + "\x7f" + "{}"),
            "is truncated or no safetensors file: its header would have 9223372036854775807 bytes");
  EXPECT_EQ(Open(Raw("{", "")), "its header is not JSON");
  EXPECT_EQ(Open(Raw("{}x", "")), "its header is not JSON");
  EXPECT_EQ(Open(Raw("{\"\xff\":1}", "")), "its header is not JSON");
  EXPECT_EQ(Open(Raw("[]", "")), "its header is not a JSON object");
  EXPECT_EQ(Open(Raw(std::string(200000, '['), "")), "its header nests deeper than 32 levels");
  EXPECT_EQ(Open(Raw(R"({"__metadata__":[]})", "")), "its __metadata__ is not an object of texts");
  EXPECT_EQ(Open(Raw(R"({"__metadata__":{"a":1}})", "")), "its __metadata__ is not an object of texts");
  EXPECT_EQ(
      Open(Raw(
          R"({"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
          "1")),
      "its header has the name \"a\" twice");
  const auto one = [&](const std::string& entry, const std::string& data) {
    return Open(Raw("{\"a\":" + entry + "}", data));
  };
  for (const char* entry :
       {"1", "{}", R"({"dtype":1,"shape":[],"data_offsets":[0,1]})", R"({"dtype":"I8","shape":1,"data_offsets":[0,1]})",
        R"({"dtype":"I8","shape":[-1],"data_offsets":[0,1]})", R"({"dtype":"I8","shape":[1.0],"data_offsets":[0,1]})",
        R"({"dtype":"I8","shape":[1],"data_offsets":[0]})", R"({"dtype":"I8","shape":[1],"data_offsets":[0,1,2]})",
        R"({"dtype":"I8","shape":[1],"data_offsets":[-1,0]})",
        R"({"dtype":"I8","shape":[18446744073709551615],"data_offsets":[0,1]})", R"({"dtype":"I8","shape":[1]})"})
    EXPECT_EQ(one(entry, "1"), "tensor a is not described by dtype, shape and data_offsets") << entry;
  EXPECT_EQ(one(R"({"dtype":"F64","shape":[1],"data_offsets":[0,8]})", "12345678"),
            "tensor a is of dtype \"F64\", which this program does not know");
  EXPECT_EQ(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})", "1234"),
            "tensor a lies at bytes 0 to 8 of 4 bytes of data: truncated or damaged");
  EXPECT_EQ(one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})", "1234"),
            "tensor a lies at bytes 4 to 0 of 4 bytes of data: truncated or damaged");
  EXPECT_EQ(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})", "1234"),
            "tensor a has shape [2] of float32, which disagrees with its payload of 4 bytes");
  EXPECT_EQ(one(R"({"dtype":"I8","shape":[4294967296,4294967296],"data_offsets":[0,0]})", ""),
            "tensor a has shape [4294967296, 4294967296] of int8, which disagrees with its payload of 0 bytes");
  EXPECT_EQ(one(R"({"dtype":"I8","shape":[1],"data_offsets":[1,2]})", "12"),
            "tensor a does not begin where the data before it end");
  EXPECT_EQ(
      Open(Raw(
          R"({"a":{"dtype":"I8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"I8","shape":[2],"data_offsets":[1,3]}})",
          "123")),
      "tensor b does not begin where the data before it end");
  EXPECT_EQ(Open(Raw(good, "1234567")), "has 7 bytes of data, its header describes 6");
  EXPECT_EQ(Open(Raw(R"({"a\n":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}})", "1")),
            "has a tensor whose name is not 1 to 255 printable ASCII characters");
}

TEST_F(Safetensors, TruncationsAreNoticedAndNoiseIsHarmless) {
  const std::string good = Raw(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[2],"data_offsets":[4,6]}})",
      "123456");
  for (size_t size = 0; size < good.size(); ++size) EXPECT_NE(Open(good.substr(0, size)), "fine") << size;
  std::mt19937 random(4);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes = good;
    for (int i = 1 + random() % 3; i > 0; --i) bytes[random() % bytes.size()] = static_cast<char>(random() % 128);
    Overwrite(bytes);
    try {
      const SafetensorsReader reader(path);
      for (const TensorInfo& info : reader.tensors()) ASSERT_EQ(reader.Data(info.name).size(), info.bytes());
    } catch (const InputError&) {
    }
  }
}

}  // namespace
}  // namespace fairway
