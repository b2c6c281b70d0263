// LoRA adapters (Hu et al., 2021) of a model's linear layers: y = W x + B (A x), every token with the
// adapter of its row or with none. Owned by model/model.h; adapters.cpp computes them.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "linear/packed_matrix.h"
#include "memory/region.h"

namespace shoal {

// What an adapter adds to one matrix, in the caller's memory.
struct AdapterOutput {
  std::string role;  // "q"
  int first_inner;   // the b.cols inner values it reads start here; even, as bf16 is read in pairs
  Matrix b;          // [outputs of the role, rank], scaled
};

// What an adapter adds to the matrices of one linear layer: all of them read the same input.
struct AdapterInput {
  int layer;
  Matrix a;  // [inner values, inputs]
  std::vector<AdapterOutput> outputs;
};

// The same, packed.
struct AdapterPart {
  PackedMatrix b;
  int first_inner;
  int first;  // of the linear layer's outputs
  PackedMatrix::Part part;
};

struct AdaptedLinear {
  PackedMatrix a;
  std::vector<AdapterPart> parts;
};

struct Adapter {
  const AdaptedLinear* of(int linear) const {
    const bool has = linear >= 0 && linear < static_cast<int>(place.size()) && place[linear] >= 0;
    return has ? &linears[place[linear]] : nullptr;
  }

  Arena arena;
  std::vector<AdaptedLinear> linears;
  std::vector<int> place;  // number of a linear layer -> which of `linears`; -1: as it is
};

// The step's tokens that have an adapter: those of one adapter behind each other, in their order.
struct AdapterTokens {
  struct Group {  // a piece of `tokens` with one adapter
    const Adapter* adapter;
    int place, count;
  };

  std::vector<std::int32_t> tokens;
  std::vector<Group> groups;
};

}  // namespace shoal
