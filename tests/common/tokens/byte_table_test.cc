#include "common/tokens/byte_table.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/tokens/case_ops.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;

constexpr char kSpace[] = "\xe2\x96\x81";

// A SentencePiece model by hand: pieces (field 1) of spelling (1), score (2) and type (3), and a trainer's field to
// pass over.
std::string Model(const std::vector<std::pair<std::string, int>>& pieces) {
  std::string bytes;
  for (const auto& [text, type] : pieces) {
    std::string piece = "\x0a" + std::string(1, static_cast<char>(text.size())) + text + std::string("\x15\0\0\0\0", 5);
    if (type != 1) piece += std::string("\x18") + static_cast<char>(type);
    bytes += "\x0a" + std::string(1, static_cast<char>(piece.size())) + piece;
  }
  return bytes + "\x12\x02\x18\x02";
}

ByteTable TableOf(const std::vector<std::pair<std::string, int>>& pieces) {
  const ScratchFolder folder;
  WriteBytes(folder / "m", Model(pieces));
  return ByteTable::Read(folder / "m");
}

// Ids 0 to 3 are special, 4 to 259 the bytes, 260 on "▁t", "he", "▁the", then single characters, as in the field's
// tokenizer.
ByteTable SmallTable() {
  std::vector<std::pair<std::string, int>> pieces = {{"<pad>", 3}, {"<s>", 3}, {"</s>", 3}, {"<unk>", 2}};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    snprintf(text, sizeof text, "<0x%02X>", byte);
    pieces.emplace_back(text, 6);
  }
  for (const char* text : {"\xe2\x96\x81t", "he", "\xe2\x96\x81the", "\xe2\x96\x81", "t", "h", "e", "\xc3\xa9"})
    pieces.emplace_back(text, 1);
  return TableOf(pieces);
}

TEST(ByteTable, HasThreeFactsOfEachPiece) {
  const ByteTable table = TableOf({{"<unk>", 2},
                                   {"<s>", 3},
                                   {"<0x0A>", 6},
                                   {"unused", 5},
                                   {"own", 4},
                                   {"\xc3\xa9t", 1},
                                   {std::string(kSpace) + "\xc3\xa9", 1},
                                   {kSpace, 1},
                                   {std::string(kSpace) + kSpace, 1}});
  const auto facts = [&](int id) {
    const ByteTable::Piece& piece = table.pieces[id];
    return std::tuple<int, bool, bool, bool>(piece.bytes, piece.leading_space, piece.boundary, piece.byte);
  };
  EXPECT_EQ(table.size(), 9);
  EXPECT_EQ(facts(0), std::tuple(0, false, true, false));
  EXPECT_EQ(facts(1), std::tuple(0, false, true, false));
  EXPECT_EQ(facts(2), std::tuple(1, false, false, true));
  EXPECT_EQ(facts(3), std::tuple(0, false, true, false));
  EXPECT_EQ(facts(4), std::tuple(3, false, false, false));
  EXPECT_EQ(facts(5), std::tuple(3, false, false, false));
  EXPECT_EQ(facts(6), std::tuple(2, true, false, false));
  EXPECT_EQ(facts(7), std::tuple(0, true, false, false));
  EXPECT_EQ(facts(8), std::tuple(1, true, false, false));  // two blanks
  // A leading space counts, except after a control, unknown or unused piece.
  EXPECT_EQ(table.Bytes(5, 6), 3);
  EXPECT_EQ(table.Bytes(2, 6), 3);
  for (const int boundary : {0, 1, 3}) EXPECT_EQ(table.Bytes(boundary, 6), 2);
  EXPECT_EQ(table.Bytes(5, 1), 0);
  EXPECT_EQ(table.Bytes(5, 2), 1);
}

// Each U+2581 is one byte of text, wherever it is in a piece.
TEST(ByteTable, CountsEveryBlankOnce) {
  const std::string space = kSpace;
  const ByteTable table = TableOf({{"<unk>", 2}, {"a", 1}, {"a" + space, 1}, {"a" + space + "b", 1}, {space + "a" + space + space, 1}});
  EXPECT_EQ(table.Bytes(1, 2), 2);
  EXPECT_EQ(table.Bytes(0, 2), 2);
  EXPECT_EQ(table.Bytes(1, 3), 3);
  EXPECT_EQ(table.Bytes(1, 4), 4);
  EXPECT_EQ(table.Bytes(0, 4), 3);
}

// Field 3 of a model: 2 the map, 3 add_dummy_prefix, 4 remove_extra_whitespaces, 5 escape_whitespaces.
TEST(ByteTable, IsExactWhereTheModelKeepsTheText) {
  const ScratchFolder folder;
  const std::string pieces = Model({{"<unk>", 2}, {"<s>", 3}, {kSpace + std::string(kSpace), 1}, {kSpace + std::string("a"), 1}});
  const auto read = [&](const std::string& normaliser) {
    WriteBytes(folder / "m", pieces + "\x1a" + std::string(1, static_cast<char>(normaliser.size())) + normaliser);
    return ByteTable::Read(folder / "m");
  };
  const std::string identity("\x18\0\x20\0", 4);
  const ByteTable exact = read(identity);
  EXPECT_TRUE(exact.exact);
  for (const int previous : {1, 2}) {
    EXPECT_EQ(exact.Bytes(previous, 2), 2);
    EXPECT_EQ(exact.Bytes(previous, 3), 2);
  }
  EXPECT_FALSE(exact.pieces[3].leading_space);
  exact.Write(folder / "t.pb");
  const ByteTable again = ByteTable::Read(folder / "t.pb");
  EXPECT_TRUE(again.exact);
  EXPECT_EQ(again.Bytes(1, 3), 2);
  EXPECT_FALSE(read(identity + "\x12\x01x").exact);
  EXPECT_FALSE(read(std::string("\x18\1\x20\0", 4)).exact);
  EXPECT_FALSE(read(std::string("\x18\0\x20\1", 4)).exact);
  EXPECT_FALSE(read(identity + std::string("\x28\0", 2)).exact);
  EXPECT_FALSE(read("").exact);
  EXPECT_EQ(read("").Bytes(1, 3), 1);
}

TEST(ByteTable, KnowsCaseOpsByItsFourMarks) {
  std::vector<std::pair<std::string, int>> pieces = {{"<unk>", 2}, {"<s>", 3}, {"a", 1}, {"b", 1}, {"ab", 1}};
  for (const std::string_view mark : kCaseMarks) pieces.emplace_back(mark, 4);
  const ByteTable table = TableOf(pieces);
  EXPECT_TRUE(table.case_ops());
  for (int id = 5; id < 9; ++id) EXPECT_EQ(table.Bytes(2, id), 0);
  EXPECT_THAT(table.Encode("Ab"), ElementsAre(5, 4));
  EXPECT_THAT(table.Encode("aB"), ElementsAre(2, 7, 3));  // a mark merges with nothing
  EXPECT_EQ(table.Decode({6, 4}), "AB");
  EXPECT_EQ(table.Decode({5, 4, 2, 7, 3}), "AbaB");
  EXPECT_EQ(table.Spell({5, 4}), std::string(kCaseTitle) + "ab");
  const ScratchFolder folder;
  table.Write(folder / "t.pb");
  EXPECT_TRUE(ByteTable::Read(folder / "t.pb").case_ops());
  EXPECT_EQ(ByteTable::Read(folder / "t.pb").Bytes(2, 5), 0);
  pieces.back().second = 1;  // three marks are none
  EXPECT_FALSE(TableOf(pieces).case_ops());
  EXPECT_EQ(TableOf(pieces).Bytes(2, 5), 3);
}

TEST(ByteTable, EncodesUserDefinedPiecesWhole) {
  const ByteTable table = TableOf({{"<unk>", 2}, {"<s>", 3}, {"a", 1}, {"\n", 4}, {"\na", 1}, {"ab", 4}, {"b", 1}, {"aba", 4}, {"aa", 1}});
  EXPECT_THAT(table.Encode("\na"), ElementsAre(3, 2));
  EXPECT_THAT(table.Encode("aab"), ElementsAre(2, 5));
  EXPECT_THAT(table.Encode("abaab"), ElementsAre(7, 5));
  EXPECT_THAT(table.Encode("aaa"), ElementsAre(8, 2));
}

TEST(ByteTable, SeesWhereABlankWouldBeThreeBytes) {
  EXPECT_FALSE(SmallTable().spells_blanks_in_bytes());
  EXPECT_TRUE(TableOf({{"<0xE2>", 6}, {"<0x96>", 6}, {"<0x81>", 6}, {"a", 1}}).spells_blanks_in_bytes());
  EXPECT_FALSE(TableOf({{"<0xE2>", 6}, {"<0x96>", 6}, {"a", 1}}).spells_blanks_in_bytes());
}

TEST(ByteTable, ReadsWhatItWrote) {
  const ScratchFolder folder;
  const ByteTable table = SmallTable();
  table.Write(folder / "t.pb");
  const ByteTable read = ByteTable::Read(folder / "t.pb");
  ASSERT_EQ(read.size(), table.size());
  for (int64_t i = 0; i < table.size(); ++i) {
    const ByteTable::Piece &a = table.pieces[i], &b = read.pieces[i];
    EXPECT_EQ(std::tie(a.text, a.bytes, a.leading_space, a.boundary, a.byte),
              std::tie(b.text, b.bytes, b.leading_space, b.boundary, b.byte));
  }
  EXPECT_EQ(read.digest, Sha256Hex(ReadBytes(folder / "t.pb")));
  read.Write(folder / "again.pb");
  EXPECT_EQ(ReadBytes(folder / "again.pb"), ReadBytes(folder / "t.pb"));
}

TEST(ByteTable, NoticesEveryFlippedBitAndEveryTruncation) {
  const ScratchFolder folder;
  TableOf({{"<unk>", 2}, {"<0x0A>", 6}, {std::string(kSpace) + "a", 1}}).Write(folder / "t.pb");
  const std::string good = ReadBytes(folder / "t.pb");
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    WriteBytes(folder / "bad.pb", bad);
    EXPECT_THROW(ByteTable::Read(folder / "bad.pb"), InputError) << "bit " << bit;
  }
  for (size_t size = 0; size < good.size(); ++size) {
    WriteBytes(folder / "bad.pb", good.substr(0, size));
    EXPECT_THROW(ByteTable::Read(folder / "bad.pb"), InputError) << size << " bytes";
  }
}

TEST(ByteTable, NamesEachDefect) {
  const ScratchFolder folder;
  const auto message = [&](const std::string& bytes) {
    WriteBytes(folder / "t", bytes);
    return MessageOf<InputError>([&] { ByteTable::Read(folder / "t"); });
  };
  EXPECT_EQ(message(""), folder / "t: is empty");
  EXPECT_EQ(message("Read me"), folder / "t: is neither a byte table nor a whole SentencePiece model");
  EXPECT_EQ(message(Model({})), folder / "t: holds no pieces");
  EXPECT_EQ(message(Model({{"a", 7}})), folder / "t: piece 0 is of type 7, which is none that SentencePiece has");
  EXPECT_EQ(message(Model({{"a", 1}, {"<0xG0>", 6}})), folder / "t: byte piece 1 is not spelt <0xNN>");
  TableOf({{"a", 1}}).Write(folder / "t");
  const std::string good = ReadBytes(folder / "t");
  EXPECT_EQ(message(good.substr(0, good.size() - 1)), folder / "t: the byte table is truncated");
  std::string bad = good;
  bad[12] ^= 1;
  EXPECT_EQ(message(bad), folder / "t: the byte table is damaged: its hash disagrees");
  EXPECT_EQ(MessageOf<IoError>([&] { ByteTable::Read(folder / "absent"); }),
            folder / "absent: No such file or directory");
}

TEST(ByteTable, MergesTheLowestIdFirst) {
  const ByteTable table = SmallTable();
  EXPECT_THAT(table.Encode(" the"), ElementsAre(262));
  EXPECT_THAT(table.Encode(" he"), ElementsAre(263, 261));
  EXPECT_THAT(table.Encode("the t"), ElementsAre(264, 261, 260));
  EXPECT_THAT(table.Encode("\xc3\xa9"), ElementsAre(267));
  EXPECT_THAT(table.Encode("\xc3\xa8!"), ElementsAre(4 + 0xc3, 4 + 0xa8, 4 + 0x21));
  EXPECT_THAT(table.Encode(""), ElementsAre());
  EXPECT_EQ(MessageOf<UsageError>([] {
              TableOf({{"a", 1}}).Encode("ab");
            }),
            "the tokenizer has no piece for 'b' of the text, nor byte pieces");
}

TEST(ByteTable, DecodesWhatItEncoded) {
  const ByteTable table = SmallTable();
  for (const std::string text :
       {"", "the theme", " two  spaces ", "\xc3\xa8t\xc3\xa9\n\xf0\x9f\x98\x80", "\xff\xe2 broken \xe2\x96"})
    EXPECT_EQ(table.Decode(table.Encode(text)), text);
  EXPECT_EQ(table.Decode({1, 264, 3, 2}), "t");
}

// The official tokenizer and real text.
TEST(ByteTable, GivesBackTheRealDocuments) {
  const std::string folder = std::string(SHARED_DIR) + "/fineweb/";
  if (!std::filesystem::exists(folder + "fineweb_1024_bpe.model"))
    GTEST_SKIP() << "skipped: " << folder << " is absent";
  const ByteTable table = ByteTable::Read(folder + "fineweb_1024_bpe.model");
  ASSERT_EQ(table.size(), 1024);
  EXPECT_EQ(table.digest, "4f5e8adb109c66b4886963bc75a7befd73bda36d27fd7102df8e9e66503b0e2a");
  std::ifstream lines(folder + "verify_docs.jsonl");
  int documents = 0;
  for (std::string line; std::getline(lines, line); ++documents) {
    const std::string text = nlohmann::json::parse(line)["text"];
    const std::vector<int64_t> ids = table.Encode(text);
    ASSERT_EQ(table.Decode(ids), text);
    int64_t bytes = 0, previous = 1;
    for (const int64_t id : ids) bytes += table.Bytes(std::exchange(previous, id), id);
    // The count loses the space that a document begins with.
    EXPECT_EQ(bytes, static_cast<int64_t>(text.size()) - (text[0] == ' '));
  }
  EXPECT_EQ(documents, 200);
}

}  // namespace
}  // namespace fairway
