// What a reader says to files that are not what they should be: every kind of defect has its message, and no damage at
// all goes unnoticed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <random>

#include "common/base/error.h"
#include "common/checkpoint/checkpoint.h"
#include "common/checkpoint/coder.h"
#include "common/checkpoint/packed.h"
#include "raw_file.h"
#include "temporary_folder.h"

namespace fairway {
namespace {

std::string OpenAndVerify(const std::string& bytes) {
  try {
    CheckpointReader(bytes, "F").Verify();
  } catch (const InputError& error) {
    return error.what();
  }
  return "fine";
}

std::string Open(const std::string& bytes) {
  try {
    CheckpointReader(bytes, "F");
  } catch (const InputError& error) {
    return error.what();
  }
  return "fine";
}

// A small checkpoint with everything that a file can hold.
std::string Small() {
  const TemporaryFolder folder;
  {
    CheckpointWriter writer(folder / "a.ckpt", Kind::kQuantised, {{"num_layers", "2"}, {"seed", "1337"}});
    writer.Add({"w", DType::kInt8, {2, 5}, Quantisation{"int6", -32, 31, "w.scale"}},
               std::vector<int8_t>{1, 2, 3, 4, 5, -6, -7, -8, -9, -10});
    writer.Add({"w.scale", DType::kFloat16, {2}, {}}, std::vector<uint16_t>{0x3c00, 0x4000});
    writer.Add({"empty", DType::kInt64, {0, 4}, {}}, std::vector<int64_t>{});
    writer.Add({"gain", DType::kFloat32, {}, {}}, std::vector<float>{1.5});
    Counters counters;
    counters.Set("train.step", 7);
    writer.Finish(counters, {"train", "0.1.0", "ab", {{"seed", "1"}}, {{"corpus", "cd", {}}}});
  }
  return std::string(InputFile(folder / "a.ckpt").text());
}

// The same, packed.
std::string SmallPacked(CodeOrder order) {
  const std::vector<PackedTensor> tensors = {{"w", order}, {"w.scale"}, {"gain"}, {"empty"}};
  return PackCheckpoint(CheckpointReader(Small(), "small.ckpt"), tensors);
}

struct Kept {
  const char* name;
  std::string bytes;
};

class CheckpointDamage : public testing::TestWithParam<Kept> {
 protected:
  const char* const what_ = GetParam().name;
  const std::string bytes_ = GetParam().bytes;
};
INSTANTIATE_TEST_SUITE_P(, CheckpointDamage,
                         testing::Values(Kept{"Written", Small()}, Kept{"Packed", SmallPacked(CodeOrder::kRowsByScale)},
                                         Kept{"Coded", SmallPacked(CodeOrder::kCoded)}),
                         [](const auto& info) { return info.param.name; });

// The codes of RawPacked in a stream.
RawPacked Coded() {
  std::vector<int8_t> codes = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> scales = {0x3c00, 0x4000};
  const std::string stream = EncodeCodes(std::vector<CodeMatrix>{{2, 3, scales, {}, codes.data()}});
  RawPacked file;
  file.header = Field(1, 6) + Field(2, 3);
  file.order = 3;
  file.stream = Field(6, stream.size());
  file.data = std::string("\x3c\x40\0\0", 4) + stream;
  return file;
}

TEST_P(CheckpointDamage, EveryFlippedBitIsNoticed) {
  const std::string& bytes = bytes_;
  ASSERT_EQ(OpenAndVerify(bytes), "fine");
  int noticed = 0;
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] ^= static_cast<char>(1 << bit % 8);
    const bool found = OpenAndVerify(damaged) != "fine";
    noticed += found;
    EXPECT_TRUE(found) << "bit " << bit % 8 << " of byte " << bit / 8;
  }
  std::printf("summary: %s: %zu bits flipped, %d noticed\n", what_, 8 * bytes.size(), noticed);
}

TEST_P(CheckpointDamage, EveryTruncationIsNoticedOnOpening) {
  const std::string& bytes = bytes_;
  int noticed = 0;
  for (size_t size = 0; size < bytes.size(); ++size) {
    const bool found = Open(bytes.substr(0, size)) != "fine";
    noticed += found;
    EXPECT_TRUE(found) << size;
  }
  std::printf("summary: %s: cut at %zu lengths, %d noticed\n", what_, bytes.size(), noticed);
  EXPECT_NE(Open(bytes + '\0'), "fine");
  EXPECT_NE(Open(bytes + bytes), "fine");
}

// Noise over the framing of a file whose hashes are then made to agree again cannot be refused by a hash. Whatever such
// a file says, reading it ends with an InputError or with tensors inside the file (sanitizers watch).
TEST(CheckpointNoise, NoiseBehindAgreeingHashesIsHarmless) {
  std::mt19937 random(3);
  int fine = 0;
  for (int round = 0; round < 20000; ++round) {
    RawFile file;
    const auto spoil = [&](std::string& bytes) {
      for (int i = 1 + random() % 3; i > 0 && !bytes.empty(); --i)
        bytes[random() % bytes.size()] = static_cast<char>(random());
    };
    switch (random() % 4) {
      case 0:
        spoil(file.header);
        break;
      case 1:
        spoil(file.tensors[random() % 2].fields);
        break;
      case 2:
        file.more_footer = Field(2, Field(1, "x")) + Field(3, Field(1, "train") + Field(5, Field(1, "corpus")));
        spoil(file.more_footer);
        break;
      case 3:
        file.between = Field(14, std::string(5, '\0'));
        spoil(file.between);
        break;
    }
    try {
      const CheckpointReader reader(file.Bytes(), "F");
      for (const TensorInfo& info : reader.tensors()) ASSERT_EQ(reader.Data(info.name).size(), info.bytes());
      ++fine;
    } catch (const InputError&) {
    }
  }
  EXPECT_GT(fine, 0);
}

TEST(CheckpointNoise, NoiseInWhatIsPackedIsHarmless) {
  std::mt19937 random(4);
  int fine = 0;
  for (int round = 0; round < 20000; ++round) {
    RawPacked file = round % 2 == 0 ? RawPacked() : Coded();
    std::string* const parts[] = {&file.header, &file.codes, &file.quantisation, &file.scales, &file.data};
    std::string& part = *parts[random() % std::size(parts)];
    for (int i = 1 + random() % 3; i > 0; --i) part[random() % part.size()] = static_cast<char>(random());
    if (round % 2 == 0) file.order = random() % 3;
    try {
      const CheckpointReader reader(file.Bytes(), "F");
      reader.Verify();
      for (const TensorInfo& info : reader.tensors()) ASSERT_EQ(reader.Data(info.name).size(), info.bytes());
      ++fine;
    } catch (const InputError&) {
    }
  }
  EXPECT_GT(fine, 0);
}

TEST(CheckpointMessages, OfStreams) {
  const auto open = [](auto change) {
    RawPacked file = Coded();
    change(file);
    return Open(file.Bytes());
  };
  EXPECT_EQ(open([](RawPacked&) {}), "fine");
  EXPECT_EQ(open([](RawPacked& file) { file.header = Field(1, 7) + Field(2, 3); }), "F: is of format version 7; this program reads versions 1 to 6");
  const std::string refused = "F: tensor w.q is said to lie in order 3, in which it cannot lie";
  EXPECT_EQ(open([](RawPacked& file) { file.header = Field(1, 3) + Field(2, 3); }),
            "F: is damaged: tensor w.q begins a stream and is not in it");
  EXPECT_EQ(open([](RawPacked& file) { file.order = 1; }), "F: is damaged: tensor w.q begins a stream and is not in it");
  EXPECT_EQ(open([](RawPacked& file) { file.stream = ""; }), "F: is damaged: tensor w.q lies in a stream, and none begins with it or before it");
  EXPECT_EQ(open([](RawPacked& file) { file.stream = Field(6, 1ull << 40); }), "F: its tensors are larger than its packed data");
  EXPECT_EQ(open([](RawPacked& file) { file.data += '\0'; }), "F: its packed data are larger than its tensors");
  EXPECT_EQ(open([](RawPacked& file) {
              file.data += '\0';
              file.stream = Field(6, file.data.size() - 4);
            }),
            "F: is damaged: the stream of tensor w.q is longer or shorter than its codes");
  EXPECT_EQ(open([](RawPacked& file) { file.quantisation += Field(4, "absent"); }), refused);
  EXPECT_EQ(open([](RawPacked& file) { file.quantisation += Field(5, "w.scale"); }), refused);
  EXPECT_EQ(open([](RawPacked& file) { file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(6)); }), refused);
  EXPECT_EQ(open([](RawPacked& file) { file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(2) + Varint(0)); }), refused);
  // A bomb: hardly a byte for a million codes.
  EXPECT_EQ(open([](RawPacked& file) { file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(1 << 20) + Varint(1 << 20)); }).substr(0, 27),
            "F: its codes are more than ");
  std::string many;
  for (int i = 0; i < 70; ++i) many += Field(3, Field(1, "s" + std::to_string(i)) + Field(2, 4) + Field(3, Varint(1) + Varint(1)) + Field(5, 3) + Field(6, 1));
  const std::string file = "\tfairway\n" + Field(2, Field(1, 6) + Field(2, 3)) + many + Field(4, std::string(70, '\0'));
  EXPECT_EQ(Open(file + FixedField(5, Xxh3Of(file))), "F: has more than 64 streams of codes");
}

TEST(CheckpointMessages, OfWhatIsPacked) {
  const auto open = [](auto change) {
    RawPacked file;
    change(file);
    return Open(file.Bytes());
  };
  EXPECT_EQ(open([](RawPacked&) {}), "fine");
  const std::string bytes = RawPacked().Bytes();
  EXPECT_EQ(Open(bytes.substr(0, bytes.size() - 1)), "F: is truncated: it does not end with a hash");
  std::string flipped = bytes;
  flipped[bytes.size() - 12] ^= 1;
  EXPECT_EQ(Open(flipped), "F: is damaged: its hash disagrees");
  EXPECT_EQ(open([](RawPacked& file) { file.after = "\x7a\x7f"; }), "F: is damaged: it cannot be parsed");
  for (const int field : {14, 15})
    EXPECT_EQ(open([&](RawPacked& file) { file.after = Field(field, ""); }), "F: is damaged: it is packed and has padding or a footer");
  EXPECT_EQ(open([](RawPacked& file) { file.scales += Field(15, "1234"); }),
            "F: is damaged: it is packed and tensor w.scale has data of its own");
  EXPECT_EQ(open([](RawPacked& file) { file.scales = Field(1, "w.q") + Field(2, 2) + Field(3, Varint(2)); }), "F: has two tensors named w.q");
  EXPECT_EQ(open([](RawPacked& file) { file.scales = Field(1, "a b"); }),
            "F: has a tensor whose name is not 1 to 255 printable ASCII characters");
  EXPECT_EQ(open([](RawPacked& file) { file.scales = Field(1, "w.scale") + Field(2, 7) + Field(3, Varint(2)); }),
            "F: tensor w.scale is of dtype 7, which this program does not know");
  EXPECT_EQ(open([](RawPacked& file) { file.scales = Field(1, "w.scale") + Field(2, 2) + Field(3, Varint(1ull << 40) + Varint(1ull << 40)); }),
            "F: tensor w.scale has shape [1099511627776, 1099511627776] of float16, which disagrees with its payload of 0 bytes");
  EXPECT_EQ(open([](RawPacked& file) { file.scales = Field(1, "w.scale") + Field(2, 2) + Field(3, std::string(9, '\1')); }),
            "F: tensor w.scale has shape [1, 1, 1, 1, 1, 1, 1, 1, … (9 sizes)] of float16, which is more than 8 dimensions");
  EXPECT_EQ(open([](RawPacked& file) { file.scales = Field(1, "w.scale") + Field(2, 2) + Field(3, Varint(1ull << 40)); }),
            "F: its tensors are larger than its packed data");
  EXPECT_EQ(open([](RawPacked& file) { file.data.pop_back(); }), "F: its tensors are larger than its packed data");
  EXPECT_EQ(open([](RawPacked& file) { file.data += 'x'; }), "F: its packed data are larger than its tensors");
  EXPECT_EQ(open([](RawPacked& file) { file.quantisation += Field(1, "int\t5"); }), "F: holds text that is not printable");

  const auto order = [&](uint64_t number, auto change) {
    return open([&](RawPacked& file) {
      file.order = number;
      change(file);
    });
  };
  const auto refused = [](uint64_t number) {
    return "F: tensor w.q is said to lie in order " + std::to_string(number) + ", in which it cannot lie";
  };
  EXPECT_EQ(order(2, [](RawPacked&) {}), "fine");  // columns without factors
  EXPECT_EQ(order(3, [](RawPacked&) {}), refused(3));
  EXPECT_EQ(order((1ull << 32) - 1, [](RawPacked&) {}), refused((1ull << 32) - 1));
  EXPECT_EQ(order(1, [](RawPacked& file) { file.quantisation += Field(4, "absent"); }), refused(1));
  EXPECT_EQ(order(2, [](RawPacked& file) { file.quantisation += Field(5, "absent"); }), refused(2));
  EXPECT_EQ(order(2, [](RawPacked& file) { file.quantisation += Field(5, "w.scale"); }), refused(2));  // one per row
  EXPECT_EQ(order(1, [](RawPacked& file) { file.scales = Field(1, "w.scale") + Field(2, 3) + Field(3, Varint(2)); }), refused(1));
  EXPECT_EQ(order(1, [](RawPacked& file) { file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(6)); }), refused(1));
  EXPECT_EQ(order(2, [](RawPacked& file) {
              file.codes = Field(1, "w.q") + Field(2, 4) + Field(3, Varint(0) + Varint(1ull << 40));
              file.data = file.data.substr(6);
            }),
            refused(2));
  EXPECT_EQ(order(1, [](RawPacked& file) { file.codes = Field(1, "w.q") + Field(2, 2) + Field(3, Varint(1) + Varint(3)); }), refused(1));
}

TEST(CheckpointMessages, OfTheFile) {
  EXPECT_EQ(Open(RawFile().Bytes()), "fine");
  EXPECT_EQ(Open(""), "F: is empty");
  EXPECT_EQ(Open("abc"), "F: is not a checkpoint: it does not begin with a checkpoint's magic number");
  EXPECT_EQ(Open(std::string(100000, '\0')),
            "F: is not a checkpoint: it does not begin with a checkpoint's magic number");
  const std::string bytes = RawFile().Bytes();
  EXPECT_EQ(Open(bytes.substr(0, 9)), "F: is truncated: it ends before its header");
  EXPECT_EQ(Open(bytes.substr(0, 20)), "F: is truncated: it ends inside its header");
  EXPECT_EQ(Open(bytes.substr(0, bytes.size() - 1)), "F: is truncated: it does not end with a footer");
  EXPECT_EQ(Open(bytes + "x"), "F: is truncated: it does not end with a footer");
  EXPECT_EQ(Open("\tfairway\n" + Field(3, "x")), "F: is damaged: no header follows the magic number");
  EXPECT_EQ(Open("\tfairway\n\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), "F: is truncated: it ends inside its header");
  EXPECT_EQ(Open("\tfairway\n" + Field(2, "\xff")), "F: is damaged: its header cannot be parsed");
}

TEST(CheckpointMessages, OfTheHeader) {
  RawFile file;
  file.header = Field(1, 7) + Field(2, 2);
  EXPECT_EQ(Open(file.Bytes()), "F: is of format version 7; this program reads versions 1 to 6");
  file.header = Field(1, 1) + Field(2, 9);
  EXPECT_EQ(Open(file.Bytes()), "F: is of kind 9, which this program does not know");
  file.header = Field(1, 1) + Field(2, 2) + Field(3, Field(1, "source") + Field(2, "a\nb"));
  EXPECT_EQ(Open(file.Bytes()), "F: holds text that is not printable");
  // Overlong, a continuation in front, cut short, a surrogate, beyond Unicode, a control character of two bytes.
  for (const char* text :
       {"\xc0\x80", "\xe0\x80\x80", "\x85\x80", "\xe6\x9c", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xff", "\xc2\x85"}) {
    file.header = Field(1, 1) + Field(2, 2) + Field(3, Field(1, "source") + Field(2, text));
    EXPECT_EQ(Open(file.Bytes()), "F: holds text that is not printable") << text;
  }
  file.header = Field(1, 1) + Field(2, 2) + Field(3, Field(1, "source") + Field(2, "né 木 😀"));
  EXPECT_EQ(Open(file.Bytes()), "fine");
}

TEST(CheckpointMessages, OfHashes) {
  std::string bytes = RawFile().Bytes();
  const size_t data = bytes.find("xxxxxxxx"), setting = bytes.find("num_layers"), footer = bytes.size() - 30;
  bytes[data + 3] = 'y';
  EXPECT_EQ(Open(bytes), "fine");  // what is not used is not checked
  EXPECT_EQ(OpenAndVerify(bytes), "F: tensor a is damaged: its hash disagrees");
  bytes = RawFile().Bytes();
  bytes[setting] = 'N';
  EXPECT_EQ(Open(bytes), "F: is damaged: the header's hash disagrees");
  bytes = RawFile().Bytes();
  bytes[footer] ^= 1;
  EXPECT_EQ(Open(bytes), "F: is damaged: the footer's hash disagrees");
  EXPECT_EQ(OpenAndVerify(RawFile().Bytes()), "F: its content does not have the identity that its footer says");
}

TEST(CheckpointMessages, OfTensors) {
  const auto with = [](const RawTensor& tensor) {
    RawFile file;
    file.tensors = {tensor};
    return file.Bytes();
  };
  EXPECT_EQ(Open(with({"a", Field(1, "a") + Field(2, 7) + Field(3, Varint(1)), "1234"})),
            "F: tensor a is of dtype 7, which this program does not know");
  EXPECT_EQ(Open(with({"a", Field(1, "a") + Field(2, 1) + Field(3, Varint(3) + Varint(2)), "1234"})),
            "F: tensor a has shape [3, 2] of float32, which disagrees with its payload of 4 bytes");
  // Products that overflow to the payload's size, or pass by zero on the way.
  EXPECT_EQ(Open(with({"a", Field(1, "a") + Field(2, 4) + Field(3, Varint(1ull << 32) + Varint(1ull << 32)), ""})),
            "F: tensor a has shape [4294967296, 4294967296] of int8, which disagrees with its payload of 0 bytes");
  EXPECT_EQ(Open(with({"a", Field(1, "a") + Field(2, 4) + Field(3, Varint(0) + Varint(1ull << 62) + Varint(4)), ""})),
            "F: tensor a has shape [0, 4611686018427387904, 4] of int8, which disagrees with its payload of 0 bytes");
  EXPECT_EQ(Open(with({"a", Field(1, "a") + Field(2, 1) + Field(3, Varint(1ull << 62)), ""})),
            "F: tensor a has shape [4611686018427387904] of float32, which disagrees with its payload of 0 bytes");
  EXPECT_EQ(Open(with({"a", Field(1, "a") + Field(2, 4) + Field(3, Varint(~0ull)), ""})),
            "F: tensor a has shape [-1] of int8, which disagrees with its payload of 0 bytes");
  EXPECT_EQ(Open(with({"a b", Field(1, "a b") + Field(2, 1), "1234"})),
            "F: has a tensor whose name is not 1 to 255 printable ASCII characters");
  RawFile file;
  file.tensors = {Floats("a", 2), Floats("a", 3)};
  EXPECT_EQ(Open(file.Bytes()), "F: has two tensors named a");
}

TEST(CheckpointMessages, OfTheIndex) {
  RawFile file;
  file.skip_in_index = 1;
  EXPECT_EQ(Open(file.Bytes()),
            "F: the index disagrees with the file: there is something between the last tensor and the footer");
  file.skip_in_index = 0;
  EXPECT_EQ(Open(file.Bytes()), "F: the index disagrees with the file at tensor b");
  file = RawFile();
  file.tensors[0].name = "c";  // the index says c, the tensor a
  EXPECT_EQ(Open(file.Bytes()), "F: the index disagrees with the file at tensor c");
  for (const int64_t error : {-1, 1, 1000000, -1000000}) {
    file = RawFile();
    file.offset_error = error;
    EXPECT_EQ(Open(file.Bytes()), "F: the index disagrees with the file at tensor a");
  }
  file = RawFile();
  file.after = Field(14, std::string(3, '\0'));
  EXPECT_EQ(Open(file.Bytes()),
            "F: the index disagrees with the file: there is something between the last tensor and the footer");
}

TEST(CheckpointMessages, OfNewerFieldsOnce) {
  RawFile file;
  file.header += Field(99, 1);
  file.tensors[1].fields += Field(99, "new");
  file.between = Field(77, "new");
  file.more_footer = Field(3, Field(5, Field(99, 1)));
  testing::internal::CaptureStderr();
  EXPECT_EQ(Open(file.Bytes()), "fine");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "F: has fields that are newer than this program; they are ignored\n");
  testing::internal::CaptureStderr();
  EXPECT_EQ(Open(RawFile().Bytes()), "fine");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(CheckpointMessages, OfExpectations) {
  const CheckpointReader reader(RawFile().Bytes(), "F");
  const auto error = [&](const auto& action) -> std::string {
    try {
      action();
    } catch (const InputError& error) {
      return error.what();
    }
    return "fine";
  };
  EXPECT_EQ(error([&] { reader.Expect({Kind::kWeights}); }), "fine");
  EXPECT_EQ(error([&] { reader.Expect({Kind::kTraining}); }), "F: is a weights checkpoint; expected training");
  EXPECT_EQ(error([&] {
              reader.Expect({Kind::kTraining, Kind::kQuantised});
            }),
            "F: is a weights checkpoint; expected training or quantised");
  EXPECT_EQ(error([&] { reader.ExpectTensors({"b", "a"}); }), "fine");
  EXPECT_EQ(error([&] { reader.ExpectTensors({"a", "c", "d"}); }), "F: misses tensor c, d; has unexpected tensor b");
  EXPECT_EQ(error([&] { reader.ExpectTensors({}); }), "F: has unexpected tensor a, b");
  EXPECT_EQ(error([&] { reader.Find("z"); }), "F: misses tensor z");
  EXPECT_EQ(error([&] { reader.Data("z"); }), "F: misses tensor z");
}

}  // namespace
}  // namespace fairway
