#include "common/base/digest.h"

#include <gtest/gtest.h>

#include "common/base/text.h"

namespace fairway {
namespace {

// FIPS 180-4's examples.
TEST(Sha256, KnowsThePublishedVectors) {
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(Sha256Hex(std::string(1'000'000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, TakesItsTextInAnyPieces) {
  Sha256 pieces;
  pieces.Update("a");
  pieces.Update("");
  pieces.Update(std::as_bytes(std::span("bc", 2)));
  EXPECT_EQ(ToHex(pieces.Finish()), Sha256Hex("abc"));
}

TEST(Sha256, MovesWithWhatItHasSeen) {
  Sha256 begun;
  begun.Update("a");
  Sha256 moved(std::move(begun));
  moved.Update("bc");
  EXPECT_EQ(ToHex(moved.Finish()), Sha256Hex("abc"));
}

// The self-check of xxHash's own xxhsum: its buffer, its figures for seed 0, one length for each way the algorithm has.
TEST(Xxh3, KnowsThePublishedVectors) {
  std::string buffer;
  for (uint64_t state = 2654435761u; buffer.size() < 2367; state *= 11400714785074694797u)
    buffer += static_cast<char>(state >> 56);
  const std::pair<size_t, uint64_t> vectors[] = {
      {0, 0x2d06800538d394c2},   {1, 0xc44bdff4074eecdb},   {6, 0x27b56a84cd2d7325},    {12, 0xa713daf0dfbb77e7},
      {24, 0xa3fe70bf9d3510eb},  {48, 0x397da259ecba1f11},  {80, 0xbcdefbbb2c47c90a},   {195, 0xcd94217ee362ec3a},
      {403, 0xcdeb804d65c6dea4}, {512, 0x617e49599013cb6b}, {2048, 0xdd59e2c3a5f038e0}, {2240, 0x6e73a90539cf2948},
      {2367, 0xcb37aeb9e5d361ed}};
  for (const auto& [length, expected] : vectors)
    EXPECT_EQ(Xxh3Of(std::string_view(buffer).substr(0, length)), expected) << length;
}

TEST(Xxh3, TakesItsTextInAnyPiecesAndMayBeAskedOnTheWay) {
  const std::string text(5000, 'q');
  Xxh3 pieces;
  pieces.Update(std::string_view(text).substr(0, 7));
  EXPECT_EQ(pieces.Digest(), Xxh3Of(text.substr(0, 7)));
  pieces.Update(std::as_bytes(std::span(text).subspan(7)));
  EXPECT_EQ(pieces.Digest(), Xxh3Of(text));
}

}  // namespace
}  // namespace fairway
