#include "common/cuda/inputs.h"

#include <algorithm>
#include <numeric>

namespace fairway::cuda {
namespace {

constexpr int64_t kPositionsPerPiece = 64;
constexpr int64_t kIntegersPerPiece = sizeof(Piece) / sizeof(int32_t);

// Sorts by counting: stable, and linear in positions and rows.
void SortByRow(TableInputs& table, int64_t N, int64_t rows) {
  std::vector<int32_t> begin(rows + 1, 0);
  for (int64_t n = 0; n < N; ++n) ++begin[table.row[n] + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  std::vector<int32_t> next(begin.begin(), begin.end() - 1);
  for (int64_t n = 0; n < N; ++n) table.order[next[table.row[n]]++] = static_cast<int32_t>(n);

  Piece *piece = table.piece, *joint = table.joint;
  int32_t partials = 0;
  for (int32_t row = 0; row < rows; ++row) {
    const int32_t first = begin[row], last = begin[row + 1];
    if (last - first > kPositionsPerPiece) {
      const int32_t first_partial = partials;
      for (int32_t i = first; i < last; i += kPositionsPerPiece)
        *piece++ = {row, i, std::min<int32_t>(i + kPositionsPerPiece, last), partials++};
      *joint++ = {row, first_partial, partials, -1};
    } else if (last > first) {
      *piece++ = {row, first, last, -1};
    }
  }
  std::fill(piece, table.piece + table.pieces, Piece{});
  std::fill(joint, table.joint + table.joints, Piece{});
}

}  // namespace

BatchShape BatchShapeOf(const Settings& settings, std::span<const Segment> segments) {
  const Segment& first = segments.front();
  const auto alike = [&](const Segment& other) { return other.length == first.length && other.position == 0 && !other.continues; };
  const auto count = static_cast<int64_t>(segments.size());
  if (std::all_of(segments.begin(), segments.end(), alike)) return {.B = count, .T = first.length};
  BatchShape shape{.B = 1, .T = PositionsIn(segments), .segments = (count + kSegmentsAtATime - 1) / kSegmentsAtATime * kSegmentsAtATime,
                   .longest = settings.train_seq_len};
  for (const Segment& segment : segments) {
    shape.longest = std::max(shape.longest, segment.length);
    shape.positions = std::max(shape.positions, segment.position + segment.length);
  }
  shape.longest = std::min(shape.longest, shape.T);
  return shape;
}

Inputs::Inputs(const Settings& settings, const BatchShape& shape, int32_t* memory) : shape(shape), N(shape.N()), size(0) {
  const auto take = [&](int64_t integers) {
    int32_t* piece = memory == nullptr ? nullptr : memory + size;
    size += (integers + 3) / 4 * 4;  // pieces are read 16 bytes at a time
    return piece;
  };
  const auto take_table = [&](int64_t rows) {
    TableInputs table{};
    // Every row's last piece may be short; a joint has more than one piece.
    table.pieces = rows == 0 ? 0 : std::min(rows, N) + N / kPositionsPerPiece;
    table.joints = rows == 0 ? 0 : N / kPositionsPerPiece;
    table.row = take(rows == 0 ? 0 : N);
    table.order = take(rows == 0 ? 0 : N);
    table.piece = reinterpret_cast<Piece*>(take(table.pieces * kIntegersPerPiece));
    table.joint = reinterpret_cast<Piece*>(take(table.joints * kIntegersPerPiece));
    return table;
  };
  targets = take(N);
  joined = take(N);
  positions = take(N);
  starts = take(shape.segments > 0 ? shape.segments + 1 : 0);
  before = take(1);
  tokens = take_table(settings.vocab_size);
  bigrams = take_table(settings.bigram_vocab_size);
}

void Inputs::Fill(const Settings& settings, std::span<const Segment> segments) {
  const int64_t rows = settings.bigram_vocab_size;
  EachPosition(settings, segments, [&](int64_t n, const Position& position) {
    tokens.row[n] = position.id;
    targets[n] = position.target;
    joined[n] = position.joined;
    positions[n] = position.position;
    if (rows > 0) bigrams.row[n] = position.bigram_row;
  });
  *before = segments.front().continues ? segments.front().tokens[-1] : 0;
  if (shape.segments > 0) {
    std::fill_n(starts, shape.segments + 1, static_cast<int32_t>(N));
    for (size_t i = 0, row = 0; i < segments.size(); row += static_cast<size_t>(segments[i++].length)) starts[i] = static_cast<int32_t>(row);
  }
  SortByRow(tokens, N, settings.vocab_size);
  if (rows > 0) SortByRow(bigrams, N, rows);
}

}  // namespace fairway::cuda
