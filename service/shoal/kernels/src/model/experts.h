// Which experts of a layer the tokens of a step meet. Owned by model/model.h, filled in and read by
// experts.cpp.
//
// A token has one row for each expert it meets, the best one's first, the shared one's last. All
// rows of an expert lie one behind the other, so that its weights are read once for many of them.
#pragma once
#include <cstdint>
#include <vector>

#include "model/config.h"

namespace shoal {

// Rows first..first + rows - 1 of one expert, times panels p0..p1-1 of one of its matrices.
struct ExpertTask {
  int expert, first, rows, p0, p1;
};

struct Routing {
  // [tokens, rows of a token]
  std::vector<std::int32_t> picked;  // experts; the shared one is behind the last of the others
  std::vector<float> weights;        // of their outputs
  std::vector<std::int32_t> row_of;
  std::vector<std::int32_t> token_of;  // [rows]
  std::vector<std::int32_t> starts;    // [experts + 1]: first row of each
  std::vector<ExpertTask> up, down;
};

// How many tasks the routing of a layer has led to. Kept for each layer: a worker that comes late
// counts the tasks of stages that are over.
struct ExpertTaskCounts {
  int up = 0, down = 0;
};

}  // namespace shoal
