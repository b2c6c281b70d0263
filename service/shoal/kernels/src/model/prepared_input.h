// Model::with_input: hands the rows of an input, prepared for their weight format, to the tasks of
// a stage. Included by linear.cpp and head.cpp.
#pragma once
#include <algorithm>

#include "model/model.h"

namespace shoal {

// Runs task(i, prepared rows). Few rows are prepared by each worker for itself, but only once it
// holds a task: until that task is done, nobody can change the rows it reads.
template <class Task>
void Model::with_input(int worker, int& stage, const Input& input, int tasks, const Task& task) {
  if (reads_in_place(input)) {
    const PreparedRows rows{input.rows, input.stride * sizeof(float)};
    pool_.stage(worker, stage++, tasks, [&](int i) { task(i, rows); });
  } else if (input.count <= kFewRows) {
    Worker& own = workers_[worker];
    PreparedRows rows{};
    pool_.stage(worker, stage++, tasks, [&](int i) {
      if (!rows.x) rows = prepare_all(own, input, own.rows.data());
      task(i, rows);
    });
  } else {
    const PreparedRows rows{prepared_.data(), row_bytes(input)};
    pool_.stage(worker, stage++, (input.count + 3) / 4, [&](int i) {
      for (int r = 4 * i; r < std::min(input.count, 4 * i + 4); ++r)
        prepare_row(workers_[worker], input, r, prepared_.data() + r * rows.stride);
    });
    pool_.stage(worker, stage++, tasks, [&](int i) { task(i, rows); });
  }
}

}  // namespace shoal
