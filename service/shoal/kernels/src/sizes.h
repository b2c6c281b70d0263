// Sizes that every part of the library agrees on. Included by all.
#pragma once

namespace shoal {

constexpr int kPanel = 16;  // output channels per packed weight panel, and lanes of every reduction
constexpr int kBlock = 16;  // tokens per KV block
constexpr int kSpan = 64;   // logits that a sampler sums as one

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace shoal
