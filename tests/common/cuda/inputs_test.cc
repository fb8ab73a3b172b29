// Position lists: every position once, in its row and in order; pieces and joints within the memory that the shapes alone determine.
#include "common/cuda/inputs.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/common/model/shapes.h"

namespace fairway::cuda {
namespace {

// What a scatter of ones over these lists would add to each row, checked on the way.
std::map<int32_t, std::vector<int32_t>> PositionsByRow(const TableInputs& table) {
  std::map<int32_t, std::vector<int32_t>> found;
  std::vector<std::vector<int32_t>> partials(table.partials());
  std::vector<bool> taken(table.partials(), false);
  for (int64_t i = 0; i < table.pieces; ++i) {
    const Piece& piece = table.piece[i];
    EXPECT_LE(piece.last - piece.first, 64);
    const std::vector<int32_t> positions(table.order + piece.first, table.order + piece.last);
    if (positions.empty()) continue;
    if (piece.partial < 0) {
      EXPECT_TRUE(found.emplace(piece.row, positions).second) << piece.row;
    } else {
      EXPECT_LT(piece.partial, table.partials());
      EXPECT_FALSE(taken.at(piece.partial));
      taken[piece.partial] = true;
      partials[piece.partial] = positions;
    }
  }
  for (int64_t i = 0; i < table.joints; ++i) {
    const Piece& joint = table.joint[i];
    if (joint.first == joint.last) continue;
    std::vector<int32_t>& positions = found[joint.row];
    EXPECT_TRUE(positions.empty()) << joint.row;
    for (int32_t part = joint.first; part < joint.last; ++part) {
      EXPECT_TRUE(taken.at(part));
      positions.insert(positions.end(), partials[part].begin(), partials[part].end());
    }
  }
  return found;
}

void ExpectLists(const Settings& settings, int64_t B, int64_t T, const std::vector<uint16_t>& tokens) {
  SCOPED_TRACE(testing::Message() << "B " << B << " T " << T << " vocabulary " << settings.vocab_size);
  std::vector<const uint16_t*> sequences;
  for (int64_t b = 0; b < B; ++b) sequences.push_back(tokens.data() + b * (T + 1));
  const std::vector<Segment> segments = SegmentsOf(sequences, T);
  const BatchShape shape = BatchShapeOf(settings, segments);
  EXPECT_EQ(shape, (BatchShape{.B = B, .T = T}));
  std::vector<int32_t> memory(Inputs::Size(settings, shape) + 1, 12345);
  Inputs inputs(settings, shape, memory.data());
  inputs.Fill(settings, segments);
  EXPECT_EQ(memory.back(), 12345);
  for (const TableInputs* table : {&inputs.tokens, &inputs.bigrams}) {
    std::map<int32_t, std::vector<int32_t>> expected;
    for (int64_t n = 0; n < B * T && table->pieces > 0; ++n) expected[table->row[n]].push_back(static_cast<int32_t>(n));
    EXPECT_EQ(PositionsByRow(*table), expected);
  }
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) {
      EXPECT_EQ(inputs.tokens.row[b * T + t], sequences[b][t]);
      EXPECT_EQ(inputs.targets[b * T + t], sequences[b][t + 1]);
      EXPECT_EQ(inputs.positions[b * T + t], t);
      EXPECT_EQ(inputs.joined[b * T + t], t > 0 && !(settings.reset_at_bos && sequences[b][t] == 1));
    }
}

TEST(Inputs, ListEveryPositionOnce) {
  std::mt19937 random(1);
  for (const char* reset : {"0", "1"}) {
    for (const char* rows : {"0", "2", "64"}) {
      const Settings settings = Shape({{"reset_at_bos", reset}, {"bigram_vocab_size", rows}});
      for (const auto& [B, T] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 7}, {1, 64}, {5, 65}, {2, 500}}) {
        std::vector<uint16_t> tokens(B * (T + 1));
        for (uint16_t& token : tokens) token = static_cast<uint16_t>(random() % settings.vocab_size);
        ExpectLists(settings, B, T, tokens);
        // One row takes all; two share them evenly; a few come often.
        std::fill(tokens.begin(), tokens.end(), 3);
        ExpectLists(settings, B, T, tokens);
        for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i % 2;
        ExpectLists(settings, B, T, tokens);
        for (uint16_t& token : tokens) token = static_cast<uint16_t>(random() % 65 == 0 ? random() % settings.vocab_size : 7);
        ExpectLists(settings, B, T, tokens);
      }
    }
  }
}

// Rows of documents: where segments start and what their positions are; one shape for rows of different numbers of documents.
TEST(Inputs, ListSegmentsOfARow) {
  const Settings settings = Shape({{"packed_documents", "1"}, {"smear", "0"}, {"bigram_vocab_size", "0"}, {"smear_gate_enabled", "1"},
                                   {"train_seq_len", "8"}});
  constexpr int64_t kCount = 20;
  std::vector<uint16_t> tokens(kCount + 2, 7);
  const std::span<const uint16_t> row(tokens.data() + 1, kCount + 1);
  tokens[0] = 9, tokens[6] = 1, tokens[9] = 1;
  const std::vector<Segment> segments = PackedSegments(row.data(), kCount, 8);
  ASSERT_EQ(segments.size(), 4u);  // 5, 3, 8 and 4 positions
  const BatchShape shape = BatchShapeOf(settings, segments);
  EXPECT_EQ(shape, (BatchShape{.B = 1, .T = kCount, .segments = 64, .longest = 8, .positions = kCount}));
  std::vector<int32_t> memory(Inputs::Size(settings, shape) + 1, 12345);
  Inputs inputs(settings, shape, memory.data());
  inputs.Fill(settings, segments);
  EXPECT_EQ(memory.back(), 12345);
  EXPECT_EQ(std::vector<int32_t>(inputs.starts, inputs.starts + 5), (std::vector<int32_t>{0, 5, 8, 16, 20}));
  for (int64_t i = 4; i <= shape.segments; ++i) EXPECT_EQ(inputs.starts[i], kCount);
  for (int64_t n = 0; n < kCount; ++n) {
    EXPECT_EQ(inputs.positions[n], n);
    EXPECT_EQ(inputs.joined[n], n != 0 && n != 5 && n != 8) << n;  // the third segment continues a document
  }
  // A part of the row that begins inside a document sees the token before it.
  const std::span<const Segment> rest(segments.data() + 3, 1);
  std::vector<int32_t> more(Inputs::Size(settings, BatchShapeOf(settings, rest)));
  Inputs part(settings, BatchShapeOf(settings, rest), more.data());
  part.Fill(settings, rest);
  EXPECT_EQ(*part.before, row[15]);
  EXPECT_EQ(part.joined[0], 1);
  EXPECT_EQ(part.positions[0], 16);

  tokens[12] = 1;
  const std::vector<Segment> others = PackedSegments(row.data(), kCount, 8);
  EXPECT_GT(others.size(), segments.size());
  EXPECT_EQ(BatchShapeOf(settings, others), shape);
}

}  // namespace
}  // namespace fairway::cuda
