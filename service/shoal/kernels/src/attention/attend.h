// Paged attention: scores over key blocks, softmax, weighted sum of values; one code for decode and
// prefill. A score is summed over head_dim in order, the softmax sum runs in 16 lanes by key
// position, the output is summed over keys in order: nothing depends on the tile or the chunk.
// Keys and values of a block are panels of one of kv_layouts.h. Called by model/attention.cpp, one
// task per KV head and chunk of tokens.
#pragma once
#include "attention/kv_layouts.h"
#include "attention/rotate.h"
#include "rowwise/vector_math.h"

namespace {

// Query j is head j % group of token j / group, at `position`, and sees keys [first, limit).
struct Query {
  const float* q;
  float* out;
  int position, first, limit;
  float slope;  // ALiBi; 0 = off
};

inline Query query_at(const shoal::AttendArgs& a, int j) {
  const int token = j / a.group, head = j % a.group;
  const int position = a.context + token - 1;
  const int first = a.window > 0 && position >= a.window ? position + 1 - a.window : 0;
  int limit = position + 1;
  if (a.last > 0) limit = a.last;
  if (a.last > 0 && a.window > 0 && position + a.window < a.last) limit = position + a.window;
  return {a.q + token * a.q_stride + head * a.head_dim,
          a.out + token * a.out_stride + head * a.head_dim, position, first, limit,
          a.alibi ? a.alibi[head] : 0.0f};
}

inline const char* block_at(const shoal::AttendArgs& a, int b) {
  return a.kv + static_cast<std::size_t>(a.table[b]) * a.block_bytes;
}

// Bytes from V of block b to K of what is read next; 0 = nothing.
inline std::ptrdiff_t to_next(const shoal::AttendArgs& a, int b, const char* v) {
  if (b >= a.next_blocks) return 0;
  return a.next_kv + static_cast<std::size_t>(a.next_table[b]) * a.block_bytes - v;
}

// Scales of a block's integers: 16 of the keys, 16 of the values.
inline const float* scales_at(const shoal::AttendArgs& a, int b) {
  return reinterpret_cast<const float*>(block_at(a, b) + a.scales_offset);
}

template <class Panel, int MR, int NP>
SHOAL_INLINE void score_tile(const shoal::AttendArgs& a, const Query (&queries)[MR], int b,
                             float* scores, std::size_t stride) {
  const float* x[MR];
  const char* panels[NP];
  for (int m = 0; m < MR; ++m) x[m] = queries[m].q;
  for (int i = 0; i < NP; ++i) panels[i] = block_at(a, b + i);
  Accumulators<MR, NP> sums;
  clear(sums);
  Panel::template steps<MR, NP>(sums, x, panels, a.head_dim, a.tokens == 1 ? a.v_offset : 0);
#pragma GCC unroll 4
  for (int m = 0; m < MR; ++m)
#pragma GCC unroll 16
    for (int j = 0; j < NP * kVecs; ++j) {
      typename Vec::F s = sums.at[m][j];
      if constexpr (KvLayout<Panel>::has_scales)
        s = Vec::mul(s, Vec::load(scales_at(a, b + j / kVecs) + j % kVecs * Vec::width));
      if (a.soft_cap > 0.0f)
        s = Vec::mul(Vec::set(a.soft_cap), vtanh(Vec::div(s, Vec::set(a.soft_cap))));
      Vec::store(scores + m * stride + j * Vec::width, s);
    }
}

// ALiBi (Press et al., 2021) of a tile's scores from key `start` on.
inline void add_distances(float* scores, const Query& query, int start) {
  for (int i = query.first; i < query.limit; ++i)
    scores[i - start] += query.slope * static_cast<float>(i - query.position);
}

// Turns scores of keys [first, limit) into weights; everything else in [start, end) becomes 0.
inline float softmax(float* scores, const Query& query, int start, int end) {
  for (int i = start; i < query.first; ++i) scores[i - start] = -INFINITY;
  for (int i = query.limit; i < end; ++i) scores[i - start] = -INFINITY;
  if (query.slope != 0.0f) add_distances(scores, query, start);
  const int from = query.first / kBlock * kBlock - start;
  const int to = shoal::round_up(query.limit, kBlock) - start;
  const typename Vec::F max = Vec::set(max_of(scores + from, (to - from) / kPanel));
  for (int i = 0; i < from; ++i) scores[i] = 0.0f;
  for (int i = to; i < end - start; ++i) scores[i] = 0.0f;
  Lanes sum;
  for (int j = 0; j < kVecs; ++j) sum.at[j] = Vec::zero();
  for (int i = from; i < to; i += kPanel)
    for (int j = 0; j < kVecs; ++j) {
      float* at = scores + i + j * Vec::width;
      const typename Vec::F e = vexp(Vec::sub(Vec::load(at), max));
      Vec::store(at, e);
      sum.at[j] = Vec::add(sum.at[j], e);
    }
  return sum_lanes(sum);
}

// A weight times the scale of its value: the values are summed as integers.
inline void scale_weights(const shoal::AttendArgs& a, float* scores, const Query& query,
                          int start) {
  for (int i = query.first; i < query.limit; ++i)
    scores[i - start] *= scales_at(a, i / kBlock)[kBlock + i % kBlock];
}

// NS slices of 16 dims, from slice s; keys [start, limit) of the tile.
template <class Panel, int MR, int NS>
SHOAL_INLINE void value_tile(const shoal::AttendArgs& a, const float* scores, std::size_t stride,
                             int start, int limit, int s, const float (&inverse)[MR],
                             const Query (&queries)[MR]) {
  Accumulators<MR, NS> sums;
  clear(sums);
  for (int key = start; key < limit; key += kBlock) {
    const float* x[MR];
    const char* panels[NS];
    const char* v = block_at(a, key / kBlock) + a.v_offset;
    for (int m = 0; m < MR; ++m) x[m] = scores + m * stride + (key - start);
    for (int i = 0; i < NS; ++i) panels[i] = v + (s + i) * KvLayout<Panel>::slice_bytes;
    const int n = limit - key < kBlock ? limit - key : kBlock;
    Panel::template steps<MR, NS>(sums, x, panels, n, to_next(a, key / kBlock, v));
  }
  const int dims = a.head_dim - s * kPanel;
#pragma GCC unroll 4
  for (int m = 0; m < MR; ++m) {
    float row[NS * kPanel];
#pragma GCC unroll 16
    for (int j = 0; j < NS * kVecs; ++j)
      Vec::store(row + j * Vec::width, Vec::mul(sums.at[m][j], Vec::set(inverse[m])));
    __builtin_memcpy(queries[m].out + s * kPanel, row,
                     sizeof(float) * (dims < NS * kPanel ? dims : NS * kPanel));
  }
}

// Scores of blocks b..last-1, up to NP at once, and fewer where fewer are left.
template <class Panel, int MR, int NP>
SHOAL_INLINE void score_tiles(const shoal::AttendArgs& a, const Query (&queries)[MR], int b,
                              int last, int start, std::size_t stride) {
  for (; b + NP <= last; b += NP)
    score_tile<Panel, MR, NP>(a, queries, b, a.scratch + (b * kBlock - start), stride);
  if constexpr (NP > 1)
    if (b < last) score_tiles<Panel, MR, NP / 2>(a, queries, b, last, start, stride);
}

template <class Panel, int MR, int NS>
SHOAL_INLINE void value_tiles(const shoal::AttendArgs& a, std::size_t stride, int start, int limit,
                              int s, int slices, const float (&inverse)[MR],
                              const Query (&queries)[MR]) {
  for (; s + NS <= slices; s += NS)
    value_tile<Panel, MR, NS>(a, a.scratch, stride, start, limit, s, inverse, queries);
  if constexpr (NS > 1)
    if (s < slices)
      value_tiles<Panel, MR, NS / 2>(a, stride, start, limit, s, slices, inverse, queries);
}

template <class Panel, int MR>
void attend_tile(const shoal::AttendArgs& a, int j0) {
  constexpr int NP = Vec::panels_for(MR);
  Query queries[MR];
  for (int m = 0; m < MR; ++m) queries[m] = query_at(a, j0 + m);
  // Later tokens see more keys and their windows start later: first and last query bound all.
  const int start = queries[0].first / kBlock * kBlock;
  const int limit = queries[MR - 1].limit;
  const int end = shoal::round_up(limit, kBlock);
  const std::size_t stride = end - start;
  score_tiles<Panel, MR, NP>(a, queries, start / kBlock, end / kBlock, start, stride);
  float inverse[MR];
  for (int m = 0; m < MR; ++m) {
    float* scores = a.scratch + m * stride;
    inverse[m] = 1.0f / softmax(scores, queries[m], start, end);
    if constexpr (KvLayout<Panel>::has_scales) scale_weights(a, scores, queries[m], start);
  }
  const int slices = (a.head_dim + kPanel - 1) / kPanel;
  value_tiles<Panel, MR, NP>(a, stride, start, limit, 0, slices, inverse, queries);
}

template <class Panel>
void attend(const shoal::AttendArgs& a) {
  const int queries = a.tokens * a.group;
  int j = 0;
  if constexpr (Vec::max_rows >= 4)
    for (; j + 4 <= queries; j += 4) attend_tile<Panel, 4>(a, j);
  if (j + 3 == queries) return attend_tile<Panel, 3>(a, j);
  for (; j + 2 <= queries; j += 2) attend_tile<Panel, 2>(a, j);
  for (; j < queries; ++j) attend_tile<Panel, 1>(a, j);
}

}  // namespace
