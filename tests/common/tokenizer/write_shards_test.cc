#include "common/tokenizer/write_shards.h"

#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "common/base/digest.h"
#include "common/base/error.h"
#include "common/tokens/shards.h"
#include "common/tokens/split_text.h"
#include "tests/common/tokenizer/small_tokenizer.h"

namespace fairway {
namespace {

using testing::ElementsAre;
using testing::StrEq;

class WriteShardsTest : public testing::Test {
 protected:
  WriteShardsTest() {
    TrainOnOwnHeaders(folder_ / "m");
    tokenizer_ = std::make_unique<Tokenizer>(folder_ / "m");
    table_ = ByteTable::Read(folder_ / "m");
  }

  SplitRecord Write(const std::vector<std::string>& inputs, const std::string& split, int64_t shard_tokens = 1000,
                    int threads = 2, DocumentFormat format = {}) {
    DocumentSource documents(inputs, format);
    return WriteShards(documents, *tokenizer_, table_, {folder_ / "out", split, shard_tokens, threads}, [](int64_t) {});
  }

  // Name and bytes of every file of the output folder.
  std::map<std::string, std::string> Files() const {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "out"))
      files[entry.path().filename()] = ReadBytes(entry.path());
    return files;
  }

  std::vector<uint16_t> Tokens(const std::string& split) const {
    const ShardSet shards(folder_ / "out", split, tokenizer_->size());
    std::vector<uint16_t> tokens(shards.tokens());
    shards.Read(0, shards.tokens(), tokens.data());
    return tokens;
  }

  ScratchFolder folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  ByteTable table_;
};

TEST_F(WriteShardsTest, WritesEachDocumentAfterBos) {
  const SplitRecord split = Write(OwnHeaders(), "train");
  std::vector<uint16_t> expected;
  int64_t bytes = 0;
  for (const std::string& path : OwnHeaders()) {
    const std::string text = ReadBytes(path);
    const std::vector<uint16_t> tokens = tokenizer_->EncodeDocument(text);
    expected.insert(expected.end(), tokens.begin(), tokens.end());
    bytes += static_cast<int64_t>(text.size());
  }
  EXPECT_EQ(Tokens("train"), expected);
  EXPECT_EQ(split.documents, static_cast<int64_t>(OwnHeaders().size()));
  EXPECT_EQ(split.text_bytes, bytes);
  EXPECT_EQ(split.tokens(), static_cast<int64_t>(expected.size()));
  EXPECT_EQ(split.files.size(), expected.size() / 1000 + 1);
  for (size_t i = 0; i + 1 < split.files.size(); ++i) EXPECT_EQ(split.files[i].tokens, 1000);
  for (const ShardRecord& file : split.files) {
    const std::string content = ReadBytes(folder_ / "out/" + file.name);
    EXPECT_EQ(file.bytes, static_cast<int64_t>(content.size()));
    EXPECT_EQ(file.sha256, Sha256Hex(std::string_view(content)));
  }
  // The tokenizer keeps the text: every byte of it is proved.
  EXPECT_EQ(split.token_bytes, bytes);
  EXPECT_EQ(split.changed_documents, 0);
  EXPECT_FALSE(split.case_ops);
  EXPECT_TRUE(split.byte_files.empty());
  // The manifest says the same of the shards as they do.
  EXPECT_EQ(ShardSet(folder_ / "out", "train", 400).Identity(), split.Identity());
  std::filesystem::remove(folder_ / "out/manifest.json");
  EXPECT_EQ(ShardSet(folder_ / "out", "train", 400).Identity(), split.Identity());
  EXPECT_EQ(ByteTable::Read(folder_ / "out/byte_table.pb").size(), 400);
}

TEST_F(WriteShardsTest, DoesNotDependOnTheNumberOfThreads) {
  Write(OwnHeaders(), "train", 777, 1);
  const auto once = Files();
  Write(OwnHeaders(), "train", 777, 7);
  EXPECT_EQ(Files(), once);
}

TEST_F(WriteShardsTest, ReplacesItsSplitAndLeavesTheOther) {
  WriteBytes(folder_ / "short", "a short text");
  Write({folder_ / "short"}, "val");
  const std::string val = ReadBytes(folder_ / "out/fineweb_val_000000.bin");
  EXPECT_GT(Write(OwnHeaders(), "train").files.size(), 3u);
  // A longer earlier run leaves no shard behind, nor does a killed one.
  std::filesystem::create_directory(folder_ / "out/.fineweb_train.tmp");
  WriteBytes(folder_ / "out/.fineweb_train.tmp/fineweb_train_000009.bin", "half");
  const int64_t tokens = Write({folder_ / "short"}, "train").tokens();
  const auto files = Files();
  std::vector<std::string> names;
  for (const auto& [name, bytes] : files) names.push_back(name);
  EXPECT_THAT(names,
              ElementsAre("byte_table.pb", "fineweb_train_000000.bin", "fineweb_val_000000.bin", "manifest.json"));
  EXPECT_EQ(files.at("fineweb_val_000000.bin"), val);
  const Manifest manifest = Manifest::Read(folder_ / "out");
  EXPECT_EQ(manifest.splits.size(), 2u);
  EXPECT_EQ(manifest.splits.at("train").tokens(), tokens);
  EXPECT_EQ(manifest.splits.at("train").Identity(), manifest.splits.at("val").Identity());
}

TEST_F(WriteShardsTest, LeavesTheFolderAsItWasWhenADocumentIsNoText) {
  WriteBytes(folder_ / "bad", std::string("good\0good\0b\xff"
                                          "d\0good",
                                          18));
  Write(OwnHeaders(), "train");
  const auto before = Files();
  EXPECT_THAT(MessageOf<InputError>([&] { Write({folder_ / "bad"}, "train", 1000, 4, {.separator = '\0'}); }),
              StrEq(folder_ / "bad: the byte 0xff at offset 11 of the file is not UTF-8"));
  EXPECT_EQ(Files(), before);
}

TEST_F(WriteShardsTest, AHalfReplacedSplitIsNotRead) {
  WriteBytes(folder_ / "short", "a short text");
  Write({folder_ / "short"}, "val");
  Write(OwnHeaders(), "train");
  const auto whole = Files();
  // What takes disk space comes first: the disk has nothing to refuse once shards are replaced. Here a folder is in the way of one.
  std::filesystem::remove(folder_ / "out/byte_table.pb");
  std::filesystem::create_directory(folder_ / "out/byte_table.pb");
  EXPECT_THAT(MessageOf<IoError>([&] { Write({folder_ / "short"}, "train"); }), testing::HasSubstr("Is a directory"));
  EXPECT_THAT(MessageOf<InputError>([&] { Tokens("train"); }),
              StrEq(folder_ / "out: its split train is half replaced by another: tokenize-shard or scripts/corpus was interrupted; run it again"));
  EXPECT_FALSE(Tokens("val").empty());
  EXPECT_EQ(Manifest::Read(folder_ / "out").splits.size(), 2u);
  std::filesystem::remove(folder_ / "out/byte_table.pb");
  Write(OwnHeaders(), "train");
  EXPECT_EQ(Files(), whole);
}

TEST_F(WriteShardsTest, KeepsOneTokenizerToAFolder) {
  Write(OwnHeaders(), "train");
  const std::string first = tokenizer_->digest();
  TrainOnOwnHeaders(folder_ / "other", {.vocab_size = 401});
  tokenizer_ = std::make_unique<Tokenizer>(folder_ / "other");
  table_ = ByteTable::Read(folder_ / "other");
  EXPECT_THAT(MessageOf<InputError>([&] { Write(OwnHeaders(), "val"); }),
              StrEq(folder_ / "out/manifest.json: the split train was made with another tokenizer (SHA-256 " + first +
                    "); one folder holds one tokenizer's ids"));
  Write(OwnHeaders(), "train");  // the split itself may change its tokenizer
}

TEST_F(WriteShardsTest, KeepsOthersOutOfTheFolder) {
  Write(OwnHeaders(), "train");
  const OutputFile other(folder_ / "out/manifest.json");
  EXPECT_THAT(MessageOf<IoError>([&] { Write(OwnHeaders(), "val"); }),
              StrEq(folder_ / "out/manifest.json: another process is writing it"));
}

// What a split's scores count, and what is known of its text.
class CountedShardsTest : public testing::Test {
 protected:
  void Write(const std::string& model, const std::string& text, const DocumentFormat& format = {}) {
    WriteBytes(folder_ / "text", text);
    DocumentSource documents({folder_ / "text"}, format);
    table_ = ByteTable::Read(model);
    split_ = WriteShards(documents, Tokenizer(model), table_, {folder_ / "out", "val"}, [](int64_t) {});
    const ShardSet shards(folder_ / "out", "val", 1 << 16);
    tokens_.resize(shards.tokens());
    shards.Read(0, shards.tokens(), tokens_.data());
    bytes_.clear();
    if (!shards.has_bytes()) return;
    bytes_.resize(shards.tokens());
    shards.ReadBytes(0, shards.tokens(), bytes_.data());
    EXPECT_EQ(split_.token_bytes, std::accumulate(bytes_.begin(), bytes_.end(), int64_t{0}));
  }
  SplitText Check() const { return CheckText(ShardSet(folder_ / "out", "val", 1 << 16), ByteTable::Read(folder_ / "out/byte_table.pb")); }

  ScratchFolder folder_;
  ByteTable table_;
  SplitRecord split_;
  std::vector<uint16_t> tokens_, bytes_;
};

// The same text under other tokenizers has one identity; other text, or another cut into documents, has another.
TEST_F(CountedShardsTest, TheTextHasAnIdentityOfItsOwn) {
  TrainOnOwnHeaders(folder_ / "a", {.vocab_size = 400});
  TrainOnOwnHeaders(folder_ / "b", {.vocab_size = 410, .normalise = true});
  TrainOnOwnHeaders(folder_ / "c", {.vocab_size = 420, .case_ops = true});
  std::set<std::string> same, others;
  for (const char* model : {"a", "b", "c"}) {
    std::filesystem::remove_all(folder_ / "out");
    Write(folder_ / model, "A text\fof two  documents", {.separator = '\f'});
    same.insert(split_.text_sha256);
    EXPECT_TRUE(Check().proved);
    EXPECT_EQ(Check().text_digest, split_.text_sha256);
    EXPECT_EQ(Check().text_bytes, 23);
    EXPECT_EQ(Check().bytes, model[0] == 'b' ? 22 : 23);
    EXPECT_EQ(split_.changed_documents, model[0] == 'b' ? 1 : 0);
    EXPECT_EQ(split_.case_ops, model[0] == 'c');
  }
  EXPECT_EQ(same.size(), 1u);
  EXPECT_EQ(*same.begin(), Sha256Hex(std::string("\6\0\0\0\0\0\0\0A text\x11\0\0\0\0\0\0\0of two  documents", 39)));
  std::filesystem::remove_all(folder_ / "out");
  Write(folder_ / "a", "A text\fof two  documents");
  EXPECT_FALSE(same.contains(split_.text_sha256));
}

// Where normalisation adds bytes a sidecar takes them away again; what it drops is lost.
TEST_F(CountedShardsTest, CountsNoByteThatIsNotInTheText) {
  TrainOnOwnHeaders(folder_ / "m", {.vocab_size = 400, .normalise = true});
  Write(folder_ / "m", "two  blanks ");
  EXPECT_EQ(split_.text_bytes - split_.token_bytes, 2);
  EXPECT_TRUE(bytes_.empty());
  EXPECT_EQ(split_.changed_documents, 1);
  // U+FDFA is 3 bytes, and 33 when it is folded; between them one and a half.
  Write(folder_ / "m", "a\xef\xb7\xba b \xc2\xbd");
  ASSERT_FALSE(bytes_.empty());
  EXPECT_EQ(bytes_[0], 0);
  EXPECT_EQ(split_.token_bytes, split_.text_bytes);
  EXPECT_TRUE(Check().proved);
  int64_t by_table = 0;
  for (size_t i = 1; i < tokens_.size(); ++i) by_table += table_.Bytes(tokens_[i - 1], tokens_[i]);
  EXPECT_GT(by_table, split_.text_bytes + 25);
  // Without such text the sidecar goes again.
  Write(folder_ / "m", "a b");
  EXPECT_TRUE(bytes_.empty());
  EXPECT_EQ(split_.byte_files.size(), 0u);
}

// The blank of U+2581 itself: three bytes that come back as one.
TEST_F(CountedShardsTest, SaysWhenEvenAnExactTokenizerCannotSpellTheText) {
  TrainOnOwnHeaders(folder_ / "m");
  Write(folder_ / "m", "a\xe2\x96\x81" "b");
  EXPECT_EQ(split_.changed_documents, 1);
  EXPECT_EQ(split_.text_bytes, 5);
  EXPECT_EQ(split_.token_bytes, 3);
}

// The dispute: a vocabulary learnt from validation text.
TEST_F(WriteShardsTest, CountsDocumentsThatTheTokenizerWasTrainedOn) {
  EXPECT_EQ(Write(OwnHeaders(), "train").tokenizer_documents, -1);  // it is not known here
  const std::string model = folder_ / "of-some";
  const std::vector<std::string> headers = OwnHeaders();
  const std::vector<std::string> trained(headers.begin(), headers.end() - 3), held(headers.end() - 3, headers.end());
  DocumentSource documents(trained, {});
  TrainTokenizer(documents, {.vocab_size = 400}, model);
  tokenizer_ = std::make_unique<Tokenizer>(model);
  table_ = ByteTable::Read(model);
  std::filesystem::remove_all(folder_ / "out");

  const auto number = static_cast<int64_t>(trained.size());
  const SplitRecord train = Write(trained, "train", 1000, 3), val = Write(held, "val");
  EXPECT_EQ(train.tokenizer_documents, number);
  EXPECT_EQ(train.tokenizer_shared, number);
  EXPECT_EQ(train.tokenizer_bytes, static_cast<int64_t>(std::filesystem::file_size(model)));
  EXPECT_EQ(val.tokenizer_documents, number);
  EXPECT_EQ(val.tokenizer_shared, 0);
  std::vector<std::string> leaking = held;
  leaking.insert(leaking.begin() + 1, {trained[0], trained[5]});
  EXPECT_EQ(Write(leaking, "val").tokenizer_shared, 2);
  const SplitText text = CheckText(ShardSet(folder_ / "out", "val", tokenizer_->size()), table_);
  EXPECT_EQ(text.tokenizer_documents, number);
  EXPECT_EQ(text.tokenizer_shared, 2);
  EXPECT_EQ(text.tokenizer_bytes, train.tokenizer_bytes);
}

TEST_F(CountedShardsTest, TakesHeldOutDocumentsAlone) {
  TrainOnOwnHeaders(folder_ / "m");
  DocumentFormat format{.separator = '\f', .holdout = 0.3, .held_out = true};
  std::string all;
  std::vector<uint16_t> expected;
  for (int i = 0; i < 50; ++i) {
    const std::string text = "document " + std::to_string(i);
    all += text + "\f";
    if (!Takes(format, text)) continue;
    const std::vector<uint16_t> tokens = Tokenizer(folder_ / "m").EncodeDocument(text);
    expected.insert(expected.end(), tokens.begin(), tokens.end());
  }
  Write(folder_ / "m", all, format);
  EXPECT_EQ(tokens_, expected);
  EXPECT_THAT(MessageOf<InputError>([&] { Write(folder_ / "m", "abc", {.holdout = 0.7, .held_out = true}); }),
              StrEq("the text: no document is left for the split val: of the documents, none is drawn with --holdout 0.7; choose another "
                              "share, or cut the text into more documents"));
}

TEST_F(CountedShardsTest, CaseOpsAgreesWithThePublishedBytes) {
  const std::string shared = std::string(SHARED_DIR), model = shared + "/fineweb/fineweb_8192_bpe_caseops_v1.model";
  if (!std::filesystem::exists(shared + "/golden_1855/caseops.jsonl")) GTEST_SKIP() << "skipped: " << shared << "/golden_1855 is absent";
  Write(model, ReadBytes(shared + "/golden_1855/caseops.jsonl"), {.key = "text"});
  std::ifstream lines(shared + "/golden_1855/caseops.jsonl");
  std::vector<uint16_t> ids, bytes;
  for (std::string line; std::getline(lines, line);) {
    const auto golden = nlohmann::json::parse(line);
    ids.push_back(1);
    bytes.push_back(0);
    for (const int id : golden["ids"]) ids.push_back(static_cast<uint16_t>(id));
    for (const int count : golden["bytes"]) bytes.push_back(static_cast<uint16_t>(count));
  }
  EXPECT_EQ(tokens_, ids);
  EXPECT_EQ(bytes_, bytes);

  Write(model, ReadBytes(shared + "/fineweb/verify_docs.jsonl"), {.key = "text"});
  const auto digest = [&](const std::string& name) {
    return Sha256Hex(std::string_view(ReadBytes(folder_ / "out/" + name)).substr(kShardHeaderBytes));
  };
  EXPECT_EQ(split_.tokens(), 490163);
  EXPECT_EQ(split_.token_bytes, 1489515);
  EXPECT_EQ(split_.text_bytes, 1489515);
  EXPECT_EQ(digest("fineweb_val_000000.bin"), "d265a3b1469153f80216ca8cf096cdb8f8a2e8eba90145ef952db321ddc85461");
  EXPECT_EQ(digest("fineweb_val_bytes_000000.bin"), "87b1f23840e70396588bc3f0b932133437acf32a81b72a38f455e0d6a082bc79");
  EXPECT_TRUE(Check().proved);
}

// The published preparation puts the first 20 documents into validation.
TEST_F(CountedShardsTest, CaseOpsWritesThePublishedFiles) {
  const std::string shared = std::string(SHARED_DIR), golden = shared + "/golden_1855/data_8192/";
  if (!std::filesystem::exists(golden)) GTEST_SKIP() << "skipped: " << golden << " is absent";
  std::ifstream lines(shared + "/fineweb/verify_docs.jsonl");
  std::string first;
  for (int i = 0; i < 20; ++i) {
    std::string line;
    std::getline(lines, line);
    first += line + "\n";
  }
  Write(shared + "/fineweb/fineweb_8192_bpe_caseops_v1.model", first, {.key = "text"});
  for (const char* name : {"fineweb_val_000000.bin", "fineweb_val_bytes_000000.bin"})
    EXPECT_EQ(ReadBytes(folder_ / "out/" + name), ReadBytes(golden + name)) << name;
}

TEST(WriteShards, ReadsTheFieldsLargerTokenizers) {
  const std::string shared = std::string(SHARED_DIR) + "/fineweb/";
  if (!std::filesystem::exists(shared + "verify_docs.jsonl")) GTEST_SKIP() << "skipped: " << shared << " is absent";
  const ScratchFolder folder;
  for (const auto& [model, tokens, digest] : {std::tuple("fineweb_8192nb_bpe", 420501, "72c0520648d40ce13a1443bf160e1ccc828bf2737384c538f765d7d87d99119c"),
                                              {"fineweb_8192_bpe", 420973, "b408502cb9b906f89eb3563618a70a13ad379a8ca3756f49bb66dd2a1ebd6d76"},
                                              {"fineweb_4096_bpe", 468925, "8796691c3b5b48c055d657d5c9bcef1563f0d0e27d21a0a1c24d4b066a5197f3"}}) {
    DocumentSource documents({shared + "verify_docs.jsonl"}, {.key = "text"});
    const std::string path = shared + model + ".model";
    const SplitRecord split = WriteShards(documents, Tokenizer(path), ByteTable::Read(path), {folder / model, "train"}, [](int64_t) {});
    EXPECT_EQ(split.tokens(), tokens) << model;
    EXPECT_EQ(Sha256Hex(std::string_view(ReadBytes(folder / model + "/fineweb_train_000000.bin")).substr(kShardHeaderBytes)), digest) << model;
    EXPECT_LE(split.token_bytes, split.text_bytes) << model;
  }
}

TEST(WriteShards, GivesTheKnownDigestOfTheRealDocuments) {
  const std::string shared = std::string(SHARED_DIR) + "/fineweb/";
  if (!std::filesystem::exists(shared + "verify_docs.jsonl")) GTEST_SKIP() << "skipped: " << shared << " is absent";
  const ScratchFolder folder;
  const std::string model = shared + "fineweb_1024_bpe.model";
  DocumentSource documents({shared + "verify_docs.jsonl"}, {.key = "text"});
  const SplitRecord split =
      WriteShards(documents, Tokenizer(model), ByteTable::Read(model), {folder / "out", "val"}, [](int64_t) {});
  EXPECT_EQ(split.documents, 200);
  EXPECT_EQ(split.tokens(), 628457);
  EXPECT_EQ(split.corpus_sha256, "d20c996a4eed293d9ae4fff9c0aec8c1b49a3190895f2a146a5f70695a750f22");
  EXPECT_EQ(Sha256Hex(std::string_view(ReadBytes(folder / "out/fineweb_val_000000.bin")).substr(kShardHeaderBytes)),
            "4163b25c2728d9b1c1876e1e3345b6c6d75bd6f033f4b1ab81aa08a44036925e");
}

}  // namespace
}  // namespace fairway
