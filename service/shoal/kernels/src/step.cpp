// One step, as every member of the team runs it: the same stages in the same order.
// Which member does a task never matters: a task writes what no other task of its stage touches.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "model.h"

namespace shoal {

void Model::run(int member) {
  const int tokens = in_.tokens;
  int stage = 0;
  const auto each = [&](int count, const auto& work) { team_.stage(member, stage++, count, work); };

  each((tokens + 7) / 8, [&](int i) {
    for (int t = 8 * i; t < std::min(tokens, 8 * i + 8); ++t) embed(t);
  });
  for (int l = 0; l < config.layers; ++l) {
    const Layer& layer = layers[l];
    const Input normed{x_.as<float>(), static_cast<std::size_t>(width_stride_),
                       &layer.attention_norm, nullptr, tokens, config.width, layer.qkv.format};
    linear(member, stage, normed, layer.qkv, qkv_.as<float>(), qkv_stride_, false);
    if (!one_token_rows_)  // a chunk's tokens see each other: all are stored before any attends
      each((tokens + 3) / 4, [&](int i) {
        for (int t = 4 * i; t < std::min(tokens, 4 * i + 4); ++t) store_token(l, t);
      });
    each(static_cast<int>(chunks_.size()) * (config.kv_heads / heads_at_once_), [&](int i) {
      for (int h = 0; h < heads_at_once_; ++h)
        attend(member, l, i * heads_at_once_ + h, one_token_rows_, h + 1 < heads_at_once_);
    });
    const Input attended{attention_.as<float>(), static_cast<std::size_t>(attention_stride_),
                         nullptr, nullptr, tokens, config.heads * config.head_dim,
                         layer.output.format};
    linear(member, stage, attended, layer.output, x_.as<float>(), width_stride_, true);
    Input middle = normed;
    middle.norm = &layer.mlp_norm;
    middle.format = layer.up.format;
    mlp_up(member, stage, middle, layer.up);
    const Input activated{mlp_.as<float>(), static_cast<std::size_t>(mlp_stride_), nullptr,
                          nullptr, tokens, config.mlp_width, layer.down.format};
    linear(member, stage, activated, layer.down, x_.as<float>(), width_stride_, true);
  }
  if (in_.heads > 0) run_head(member, stage);
}

void Model::embed(int token) {
  float* x = x_.as<float>() + static_cast<std::size_t>(token) * width_stride_;
  if (config.tied)
    head.unpack_row(in_.token_ids[token], x);
  else
    embedding.row(in_.token_ids[token], x);
  if (!config.learned_positions) return;
  const Table& table = position_embedding;
  const std::size_t at = static_cast<std::size_t>(in_.positions[token]) * table.cols;
  for (int i = 0; i < table.cols; ++i) x[i] += table.data.as<float>()[at + i];
}

// --- linear layers ---------------------------------------------------------------------------

bool Model::reads_in_place(const Input& input) const {
  const bool float_rows =
      input.format == Format::f32 || (input.format == Format::bf16 && !kernels_->bf16_rows);
  return float_rows && !input.norm && !input.select;
}

std::size_t Model::row_bytes(const Input& input) const {
  const int padded = round_up(input.width, kPanel);
  if (input.format == Format::int8) return padded;
  if (input.format == Format::fixed16) return fixed_row_bytes(padded);
  if (input.format == Format::float12) return padded * 2;
  return padded * (input.format == Format::bf16 && kernels_->bf16_rows ? 2 : 4);
}

void Model::prepare_row(Member& member, const Input& input, int row, char* to,
                        float* scale) const {
  const float* x = input.rows + input.stride * (input.select ? input.select[row] : row);
  const int padded = round_up(input.width, kPanel);
  const bool to_float = input.format == Format::f32 ||
                        (input.format == Format::bf16 && !kernels_->bf16_rows);
  float* normed = to_float ? reinterpret_cast<float*>(to) : member.row.data();
  if (input.norm) {
    const Norm& norm = *input.norm;
    if (config.layer_norm)
      kernels_->layer_norm(x, norm.weight.data(), norm.bias.data(), config.eps, input.width,
                           normed);
    else
      kernels_->rms_norm(x, norm.weight.data(), config.eps, input.width, normed);
    x = normed;
  }
  if (to_float) {
    if (!input.norm) std::memcpy(to, x, sizeof(float) * padded);
  } else if (input.format == Format::bf16) {
    kernels_->to_bf16(x, padded, reinterpret_cast<std::uint16_t*>(to));
  } else if (input.format == Format::float12) {
    kernels_->to_raised_bf16(x, padded, reinterpret_cast<std::uint16_t*>(to));
  } else if (input.format == Format::fixed16) {
    kernels_->to_fixed16(x, padded, to);
  } else {
    *scale = kernels_->to_int8(x, padded, reinterpret_cast<std::int8_t*>(to));
  }
}

Model::Ready Model::prepare_all(Member& member, const Input& input, char* to,
                                float* scales) const {
  for (int r = 0; r < input.count; ++r)
    prepare_row(member, input, r, to + r * row_bytes(input), scales + r);
  return {to, row_bytes(input), scales};
}

// Runs task(i, rows ready to be read). Few rows are prepared by each member for itself, but only
// once it holds a task: until that task is done, nobody can change the rows it reads.
template <class Task>
void Model::with_input(int member, int& stage, const Input& input, int tasks, const Task& task) {
  if (reads_in_place(input)) {
    const Ready ready{input.rows, input.stride * sizeof(float), nullptr};
    team_.stage(member, stage++, tasks, [&](int i) { task(i, ready); });
  } else if (input.count <= kFewRows) {
    Member& mine = members_[member];
    Ready ready{};
    team_.stage(member, stage++, tasks, [&](int i) {
      if (!ready.x) ready = prepare_all(mine, input, mine.rows.data(), mine.scales.data());
      task(i, ready);
    });
  } else {
    const Ready ready{ready_.data(), row_bytes(input), ready_scales_.data()};
    team_.stage(member, stage++, (input.count + 3) / 4, [&](int i) {
      for (int r = 4 * i; r < std::min(input.count, 4 * i + 4); ++r)
        prepare_row(members_[member], input, r, ready_.data() + r * ready.stride,
                    ready_scales_.data() + r);
    });
    team_.stage(member, stage++, tasks, [&](int i) { task(i, ready); });
  }
}

LinearArgs Model::args(const Packed& weights, const Ready& ready, int row, int rows, int p0,
                       int p1) const {
  LinearArgs a{};
  a.x = static_cast<const char*>(ready.x) + row * ready.stride;
  a.x_stride = ready.stride;
  a.x_scale = ready.scale ? ready.scale + row : nullptr;
  a.panels = weights.data;
  a.w_scale = weights.scale.data();
  a.w_sum = weights.sum.data();
  a.bias = weights.bias.empty() ? nullptr : weights.bias.data();
  a.k = weights.k;
  a.rows = rows;
  a.p0 = p0;
  a.p1 = p1;
  return a;
}

// Tasks of a linear layer: row blocks that stay in the second-level cache, times panel chunks.
Model::Split Model::split(int rows, int panels, int k) const {
  Split s{};
  const int fits = std::clamp((256 << 10) / (4 * k) / 12 * 12, 48, kScratchRows);
  s.row_blocks = rows <= fits + fits / 3 && rows <= kScratchRows ? 1 : (rows + fits - 1) / fits;
  s.row_block = (rows + s.row_blocks - 1) / s.row_blocks;
  const double products = static_cast<double>(s.row_block) * panels * kPanel * k;
  const int wanted = team_.threads() == 1 && s.row_blocks == 1
                         ? 1
                         : std::clamp(static_cast<int>(products / 6e4), 1, 4 * team_.threads());
  s.panel_chunk = round_up((panels + wanted - 1) / wanted, 4);
  if (s.row_blocks > 1) s.panel_chunk = std::min(s.panel_chunk, 16);
  s.panel_chunk = std::min(s.panel_chunk, kScratchPanels);
  s.chunks = (panels + s.panel_chunk - 1) / s.panel_chunk;
  return s;
}

void Model::linear(int member, int& stage, const Input& input, const Packed& weights, float* out,
                   std::size_t out_stride, bool add) {
  const Split s = split(input.count, weights.panels(), weights.k);
  with_input(member, stage, input, s.tasks(), [&](int i, const Ready& ready) {
    const int p0 = i / s.row_blocks * s.panel_chunk, row = i % s.row_blocks * s.row_block;
    LinearArgs a = args(weights, ready, row, std::min(s.row_block, input.count - row), p0,
                        std::min(p0 + s.panel_chunk, weights.panels()));
    a.out = out + row * out_stride + p0 * kPanel;
    a.out_stride = out_stride;
    a.add = add;
    if (a.rows > 0) kernels_->linear[static_cast<int>(weights.format)](a);
  });
}

void Model::mlp_up(int member, int& stage, const Input& input, const Packed& weights) {
  const Split s = split(input.count, weights.panels(), weights.k);
  const int per_output = config.gated ? 2 : 1;
  with_input(member, stage, input, s.tasks(), [&](int i, const Ready& ready) {
    const int p0 = i / s.row_blocks * s.panel_chunk, row = i % s.row_blocks * s.row_block;
    LinearArgs a = args(weights, ready, row, std::min(s.row_block, input.count - row), p0,
                        std::min(p0 + s.panel_chunk, weights.panels()));
    a.out_stride = s.panel_chunk * kPanel;
    a.out = members_[member].scratch.as<float>();
    if (a.rows <= 0) return;
    kernels_->linear[static_cast<int>(weights.format)](a);
    const int groups = (a.p1 - p0) / per_output;
    for (int r = 0; r < a.rows; ++r) {
      float* from = a.out + r * a.out_stride;
      float* to = mlp_.as<float>() + static_cast<std::size_t>(row + r) * mlp_stride_ +
                  p0 / per_output * kPanel;
      if (config.gated) {
        kernels_->gated(from, groups, config.activation, to);
      } else {
        kernels_->activate(from, groups, config.activation);
        std::memcpy(to, from, sizeof(float) * groups * kPanel);
      }
    }
  });
}

// --- attention -------------------------------------------------------------------------------

void Model::store_head(const Layer& layer, char* kv, int token, int kv_head) {
  const int half = static_cast<int>(config.inverse_frequencies.size()), dim = config.head_dim;
  const int group = config.heads / config.kv_heads;
  float* row = qkv_.as<float>() + static_cast<std::size_t>(token) * qkv_stride_;
  const std::size_t position = in_.positions[token];
  const float* cos_sin = half ? rope_.as<float>() + position * 2 * half : nullptr;
  const auto weight = [](const std::vector<float>& w) { return w.empty() ? nullptr : w.data(); };
  for (int g = 0; g < group; ++g)
    kernels_->rotate(row + (kv_head * group + g) * dim, dim, weight(layer.query_norm), config.eps,
                     cos_sin, half, config.query_scale);
  float* key = row + (config.heads + kv_head) * dim;
  const float* value = row + (config.heads + config.kv_heads + kv_head) * dim;
  kernels_->rotate(key, dim, weight(layer.key_norm), config.eps, cos_sin, half, 1.0f);
  const int slot = in_.slots[token];
  char* k = kv + slot / kBlock * layer_block_bytes_ + kv_head * head_bytes_;
  kernels_->store_kv[static_cast<int>(kv_format_)](
      {k, k + head_k_bytes_, slot % kBlock, dim, key, value});
}

void Model::store_token(int layer, int token) {
  for (int h = 0; h < config.kv_heads; ++h) store_head(layers[layer], kv_at(layer), token, h);
}

void Model::attend(int member, int layer, int task, bool store, bool goes_on) {
  const Chunk& chunk = chunks_[task / config.kv_heads];
  const int kv_head = task % config.kv_heads, group = config.heads / config.kv_heads;
  if (store) store_head(layers[layer], kv_at(layer), chunk.first, kv_head);
  AttendArgs a{};
  a.kv = kv_at(layer) + kv_head * head_bytes_;
  a.block_bytes = layer_block_bytes_;
  a.v_offset = head_k_bytes_;
  a.next = goes_on && chunk.count == 1 ? head_bytes_ - head_k_bytes_ : 0;
  a.table = in_.block_tables + static_cast<std::size_t>(chunk.row) * in_.table_width;
  a.head_dim = config.head_dim;
  a.group = group;
  a.tokens = chunk.count;
  a.context = in_.context_lens[chunk.row] - (in_.row_starts[chunk.row + 1] - chunk.first) + 1;
  a.window = config.window;
  a.soft_cap = config.soft_cap;
  a.q = qkv_.as<float>() + static_cast<std::size_t>(chunk.first) * qkv_stride_ +
        kv_head * group * config.head_dim;
  a.q_stride = qkv_stride_;
  a.out = attention_.as<float>() + static_cast<std::size_t>(chunk.first) * attention_stride_ +
          kv_head * group * config.head_dim;
  a.out_stride = attention_stride_;
  a.scratch = members_[member].attention.data();
  kernels_->attend[static_cast<int>(kv_format_)](a);
}

// --- head ------------------------------------------------------------------------------------

void Model::run_head(int member, int& stage) {
  Input input{x_.as<float>(), static_cast<std::size_t>(width_stride_), &final_norm,
              in_.head_tokens, in_.heads, config.width, head.format};
  if (out_.hidden) {
    input.format = Format::f32;
    team_.stage(member, stage++, in_.heads, [&](int r) {
      float* row = members_[member].row.data();
      prepare_row(members_[member], input, r, reinterpret_cast<char*>(row), nullptr);
      std::memcpy(out_.hidden + static_cast<std::size_t>(r) * config.width, row,
                  sizeof(float) * config.width);
    });
    input.format = head.format;
  }
  if (!out_.logits && !out_.top && !out_.log_sum_exp && !out_.targets) return;
  const int chunks = (head.panels() + kScratchPanels - 1) / kScratchPanels;
  const int row_blocks = (in_.heads + kScratchRows - 1) / kScratchRows;
  with_input(member, stage, input, chunks * row_blocks, [&](int i, const Ready& ready) {
    head_task(members_[member], ready, i);
  });
}

void Model::head_task(Member& member, const Ready& ready, int task) {
  const int row_blocks = (in_.heads + kScratchRows - 1) / kScratchRows;
  const int chunk = task / row_blocks, row0 = task % row_blocks * kScratchRows;
  const int p0 = chunk * kScratchPanels, first_id = p0 * kPanel;
  LinearArgs a = args(head, ready, row0, std::min(kScratchRows, in_.heads - row0), p0,
                      std::min(p0 + kScratchPanels, head.panels()));
  a.out = member.scratch.as<float>();
  a.out_stride = kScratchPanels * kPanel;
  kernels_->linear[static_cast<int>(head.format)](a);
  const int groups = a.p1 - p0, count = std::min(groups * kPanel, config.vocab - first_id);
  for (int r = 0; r < a.rows; ++r) {
    float* logits = a.out + r * a.out_stride;
    const int row = row0 + r;
    std::fill(logits + count, logits + groups * kPanel, -INFINITY);
    if (row < out_.num_logits)
      std::memcpy(out_.logits + static_cast<std::size_t>(row) * config.vocab + first_id, logits,
                  sizeof(float) * count);
    if (out_.top) keep_top(member, row, logits, groups * kPanel, first_id);
    if (out_.log_sum_exp) {
      const std::size_t at = static_cast<std::size_t>(chunk) * in_.heads + row;
      chunk_max_[at] = kernels_->max(logits, groups);
      chunk_sum_[at] = kernels_->sum_exp(logits, chunk_max_[at], groups);
    }
    if (!out_.targets) continue;
    const int target = in_.target_ids[row] - first_id;
    if (target >= 0 && target < count) out_.targets[row] = logits[target];
  }
}

// Higher logits first, of equal ones the lower id: a total order, so who found them is no matter.
void Model::keep_top(Member& member, int row, const float* logits, int count, int first_id) const {
  const int top = out_.top;
  std::int32_t* ids = member.top_ids.data() + static_cast<std::size_t>(row) * top;
  float* values = member.top_values.data() + static_cast<std::size_t>(row) * top;
  const auto before = [](float a, int a_id, float b, int b_id) {
    return b_id < 0 || a > b || (a == b && a_id < b_id);
  };
  const int step = top == 1 ? count : kPanel;
  for (int i = 0; i < count; i += step) {
    const float best = kernels_->max(logits + i, step / kPanel);
    if (ids[top - 1] >= 0 && best < values[top - 1]) continue;
    for (int j = i; j < i + step; ++j) {
      if (first_id + j >= config.vocab) break;
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

}  // namespace shoal
