#include "common/tokenizer/training_text.h"

#include <gmock/gmock.h>

#include "common/base/error.h"
#include "tests/common/tokens/scratch.h"

namespace fairway {
namespace {

using testing::HasSubstr;

TEST(TrainingText, ReadsWhatItWrote) {
  const ScratchFolder folder;
  const std::string model = folder / "m", digest(64, 'a');
  EXPECT_FALSE(TrainingText::Read(model, digest));
  TrainingText text;
  for (const char* document : {"one", "two", "three", "two"}) text.Add(document);
  text.Write(model, digest);
  const std::optional<TrainingText> read = TrainingText::Read(model, digest);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->documents(), 4);
  for (const char* document : {"one", "two", "three"}) EXPECT_TRUE(read->Has(TrainingText::HashOf(document)));
  for (const char* document : {"", "one ", "four"}) EXPECT_FALSE(read->Has(TrainingText::HashOf(document)));

  // Of another model, cut off, or something else.
  EXPECT_THAT(MessageOf<InputError>([&] { TrainingText::Read(model, std::string(64, 'b')); }), HasSubstr("m.documents: is not of the tokenizer beside it"));
  const std::string bytes = ReadBytes(model + ".documents");
  for (const std::string& spoilt : {bytes.substr(0, bytes.size() - 1), bytes.substr(0, 20), std::string()}) {
    WriteBytes(model + ".documents", spoilt);
    EXPECT_THAT(MessageOf<InputError>([&] { TrainingText::Read(model, digest); }), HasSubstr("is cut off"));
  }
}

}  // namespace
}  // namespace fairway
