// Final vectors of a step, and its head: logits [num_logit_rows, vocab_size], a chunk of the
// vocabulary per task, and what is requested of them. Only rows that are tokens can be a best id;
// every row counts in log_sum_exp.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model/model.h"
#include "model/prepared_input.h"

namespace shoal {

// Residuals behind the last norm.
void Model::write_hidden(int worker, int& stage) {
  const Input input{x_.as<float>(), static_cast<std::size_t>(hidden_stride_), &final_norm_,
                    in_.hidden_indices, in_.num_hidden_rows, config.hidden_size, Format::f32};
  pool_.stage(worker, stage++, in_.num_hidden_rows, [&](int r) {
    float* row = workers_[worker].row.data();
    prepare_row(workers_[worker], input, r, reinterpret_cast<char*>(row));
    std::memcpy(out_.hidden + static_cast<std::size_t>(r) * config.hidden_size, row,
                sizeof(float) * config.hidden_size);
  });
}

void Model::run_head(int worker, int& stage) {
  Input input{x_.as<float>(), static_cast<std::size_t>(hidden_stride_), &final_norm_,
              in_.logit_indices, in_.num_logit_rows, config.hidden_size, head_.format};
  if (!out_.logits && !out_.top && !out_.log_sum_exp && !out_.targets) return;
  if (config.embedding_size) {
    input.format = head_projection_.format;
    linear(worker, stage, input, head_projection_, embedded_.as<float>(), embedded_stride_, false);
    input = {embedded_.as<float>(), static_cast<std::size_t>(embedded_stride_), nullptr, nullptr,
             in_.num_logit_rows, config.embedding_size, head_.format};
  }
  const int chunks = (head_.panels() + kScratchPanels - 1) / kScratchPanels;
  const int row_blocks = (in_.num_logit_rows + kScratchRows - 1) / kScratchRows;
  with_input(worker, stage, input, chunks * row_blocks, [&](int i, const PreparedRows& rows) {
    head_task(workers_[worker], rows, i);
  });
}

void Model::head_task(Worker& worker, const PreparedRows& rows, int task) {
  const int row_blocks = (in_.num_logit_rows + kScratchRows - 1) / kScratchRows;
  const int chunk = task / row_blocks, row0 = task % row_blocks * kScratchRows;
  const int p0 = chunk * kScratchPanels, first_id = p0 * kPanel;
  LinearArgs a = args(head_, rows,
                      {row0, std::min(kScratchRows, in_.num_logit_rows - row0), p0,
                       std::min(p0 + kScratchPanels, head_.panels())});
  a.out = worker.scratch.as<float>();
  a.out_stride = kScratchPanels * kPanel;
  format_kernels(head_.format).linear(a);
  const int groups = a.p1 - p0, count = std::min(groups * kPanel, config.vocab_size - first_id);
  const int num_tokens = std::min(count, config.num_token_ids - first_id);
  for (int r = 0; r < a.rows; ++r) {
    float* logits = a.out + r * a.out_stride;
    const int row = row0 + r;
    if (config.logit_multiplier != 1.0f) kernels_->scale(logits, groups, config.logit_multiplier);
    if (config.logit_soft_cap > 0.0f) kernels_->soft_cap(logits, groups, config.logit_soft_cap);
    std::fill(logits + count, logits + groups * kPanel, -INFINITY);
    if (row < out_.num_logits)
      std::memcpy(out_.logits + static_cast<std::size_t>(row) * config.vocab_size + first_id,
                  logits, sizeof(float) * count);
    if (row >= in_.num_logit_rows - out_.num_log_sum_exp) {
      const std::size_t at = static_cast<std::size_t>(chunk) * in_.num_logit_rows + row;
      chunk_max_[at] = kernels_->max(logits, groups);
      chunk_sum_[at] = kernels_->sum_exp(logits, chunk_max_[at], groups);
    }
    const int target = out_.targets ? in_.target_ids[row] - first_id : -1;
    if (target >= 0 && target < count) out_.targets[row] = logits[target];
    if (!out_.top || num_tokens <= 0) continue;
    if (num_tokens < count) std::fill(logits + num_tokens, logits + count, -INFINITY);
    keep_top(worker, row, logits, groups * kPanel, first_id);
  }
}

// Higher logits first, of equal ones the lower id: a total order, so who found them is no matter.
void Model::keep_top(Worker& worker, int row, const float* logits, int count, int first_id) const {
  const int top = out_.top;
  std::int32_t* ids = worker.top_ids.data() + static_cast<std::size_t>(row) * top;
  float* values = worker.top_values.data() + static_cast<std::size_t>(row) * top;
  const auto before = [](float a, int a_id, float b, int b_id) {
    return b_id < 0 || a > b || (a == b && a_id < b_id);
  };
  const int step = top == 1 ? count : kPanel;
  for (int i = 0; i < count; i += step) {
    const float best = kernels_->max(logits + i, step / kPanel);
    if (ids[top - 1] >= 0 && best < values[top - 1]) continue;
    for (int j = i; j < i + step; ++j) {
      if (first_id + j >= config.num_token_ids) break;
      if (!before(logits[j], first_id + j, values[top - 1], ids[top - 1])) continue;
      int place = top - 1;
      for (; place > 0 && before(logits[j], first_id + j, values[place - 1], ids[place - 1]);
           --place) {
        ids[place] = ids[place - 1];
        values[place] = values[place - 1];
      }
      ids[place] = first_id + j;
      values[place] = logits[j];
    }
  }
}

// Merges what workers and chunks of the vocabulary have found, in an order that is always the same.
void Model::finish_head() {
  for (int r = 0; r < in_.num_logit_rows; ++r) {
    finish_top(r);
    const int first = in_.num_logit_rows - out_.num_log_sum_exp;
    if (r < first) continue;
    const std::size_t rows = in_.num_logit_rows, chunks = chunk_max_.size() / rows;
    float max = chunk_max_[r];
    for (std::size_t c = 1; c < chunks; ++c) max = std::max(max, chunk_max_[c * rows + r]);
    double sum = 0.0;
    for (std::size_t c = 0; c < chunks; ++c)
      sum += static_cast<double>(chunk_sum_[c * rows + r]) *
             std::exp(static_cast<double>(chunk_max_[c * rows + r]) - max);
    out_.log_sum_exp[r - first] = static_cast<float>(max + std::log(sum));
  }
}

void Model::finish_top(int row) {
  const int top = out_.top;
  for (int i = 0; i < top; ++i) {
    std::int32_t* id = nullptr;
    float* value = nullptr;
    for (Worker& worker : workers_)
      for (int j = 0; j < top; ++j) {
        std::int32_t& other = worker.top_ids[static_cast<std::size_t>(row) * top + j];
        float& logit = worker.top_values[static_cast<std::size_t>(row) * top + j];
        if (other < 0) continue;
        if (id && (logit < *value || (logit == *value && other > *id))) continue;
        id = &other;
        value = &logit;
      }
    const std::size_t at = static_cast<std::size_t>(row) * top + i;
    out_.top_ids[at] = id ? *id : 0;
    if (out_.top_values) out_.top_values[at] = id ? *value : NAN;
    if (id) *id = -1;
  }
}

}  // namespace shoal
