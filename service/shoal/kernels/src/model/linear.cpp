// Linear layers of a step: rows prepared for their weight format, and the tasks of a stage.
// Shapes: input rows [count, width], weights [n, k] with k = width, output rows [count, n].
#include <algorithm>
#include <cstring>

#include "model/model.h"
#include "model/prepared_input.h"

namespace shoal {

void Model::apply_norm(const Norm& norm, const float* x, int width, float* out) const {
  kernels_->norm[static_cast<int>(norm.kind)](x, norm.weight.data(), norm.bias_or_null(), norm.eps,
                                              width, out);
}

bool Model::reads_in_place(const Input& input) const {
  return !format_kernels(input.format).prepare_row && !(input.norm && input.norm->exists()) &&
         !input.select;
}

std::size_t Model::row_bytes(const Input& input) const {
  return format_kernels(input.format).row_bytes(round_up(input.width, kPanel));
}

void Model::prepare_row(Worker& worker, const Input& input, int row, char* to) const {
  const float* x = input.rows + input.stride * (input.select ? input.select[row] : row);
  const int padded = round_up(input.width, kPanel);
  const auto prepare = format_kernels(input.format).prepare_row;
  if (input.norm && input.norm->exists()) {
    float* normed = prepare ? worker.row.data() : reinterpret_cast<float*>(to);
    apply_norm(*input.norm, x, input.width, normed);
    x = normed;
  } else if (!prepare) {
    std::memcpy(to, x, sizeof(float) * padded);
  }
  if (prepare) prepare(x, input.width, to);
}

Model::PreparedRows Model::prepare_all(Worker& worker, const Input& input, char* to) const {
  const std::size_t bytes = row_bytes(input);
  for (int r = 0; r < input.count; ++r) prepare_row(worker, input, r, to + r * bytes);
  return {to, bytes};
}

// Row blocks that stay in the second-level cache, times panel chunks.
Model::Split Model::split(int rows, int panels, int k) const {
  Split s{};
  const int fits = std::clamp((256 << 10) / (4 * k) / 12 * 12, 48, kScratchRows);
  s.row_blocks = rows <= fits + fits / 3 && rows <= kScratchRows ? 1 : (rows + fits - 1) / fits;
  s.row_block = (rows + s.row_blocks - 1) / s.row_blocks;
  const double products = static_cast<double>(s.row_block) * panels * kPanel * k;
  const int wanted = pool_.threads() == 1 && s.row_blocks == 1
                         ? 1
                         : std::clamp(static_cast<int>(products / 6e4), 1, 4 * pool_.threads());
  s.panel_chunk = round_up((panels + wanted - 1) / wanted, 4);
  if (s.row_blocks > 1) s.panel_chunk = std::min(s.panel_chunk, 16);
  s.panel_chunk = std::min(s.panel_chunk, kScratchPanels);
  s.chunks = (panels + s.panel_chunk - 1) / s.panel_chunk;
  return s;
}

Model::LinearTask Model::task_at(const Split& s, int index, int rows, int panels) const {
  const int p0 = index / s.row_blocks * s.panel_chunk, row = index % s.row_blocks * s.row_block;
  return {row, std::min(s.row_block, rows - row), p0, std::min(p0 + s.panel_chunk, panels)};
}

LinearArgs Model::args(const PackedMatrix& weights, const PreparedRows& rows,
                       const LinearTask& task) const {
  LinearArgs a{};
  a.x = static_cast<const char*>(rows.x) + task.row * rows.stride;
  a.x_stride = rows.stride;
  a.panels = weights.data;
  a.w_scale = weights.scale.data();
  a.bias = weights.bias.empty() ? nullptr : weights.bias.data();
  a.k = weights.k;
  a.rows = task.rows;
  a.p0 = task.p0;
  a.p1 = task.p1;
  return a;
}

void Model::linear(int worker, int& stage, const Input& input, const PackedMatrix& weights,
                   float* out, std::size_t out_stride, bool add) {
  const int adapted = compute_inner(worker, stage, input, weights);
  const Split s = split(input.count, weights.panels(), weights.k);
  with_input(worker, stage, input, s.tasks(), [&](int i, const PreparedRows& rows) {
    const LinearTask task = task_at(s, i, input.count, weights.panels());
    LinearArgs a = args(weights, rows, task);
    a.out = out + task.row * out_stride + task.p0 * kPanel;
    a.out_stride = out_stride;
    a.add = add;
    if (a.rows <= 0) return;
    format_kernels(weights.format).linear(a);
    add_adapters(workers_[worker], adapted, task, a.out, a.out_stride);
  });
}

// Rows to_row.. of `to` = act(gate) * up, or act(up), of the sums in a.out.
void Model::activate(const MlpConfig& mlp, const LinearArgs& a, float* to, int to_stride,
                     int to_row) const {
  const int per_output = mlp.gated ? 2 : 1, groups = (a.p1 - a.p0) / per_output;
  for (int r = 0; r < a.rows; ++r) {
    float* from = a.out + r * a.out_stride;
    float* row = to + static_cast<std::size_t>(to_row + r) * to_stride +
                 a.p0 / per_output * kPanel;
    if (mlp.gated) {
      kernels_->gated(from, groups, mlp.activation, row);
    } else {
      kernels_->activate(from, groups, mlp.activation);
      std::memcpy(row, from, sizeof(float) * groups * kPanel);
    }
  }
}

// mlp = act(gate . x) * (up . x), or act(up . x): the activation follows while the sums are in
// cache.
void Model::mlp_up(int worker, int& stage, const Layer& layer) {
  if (layer.mlp.experts) return experts_up(worker, stage, layer);
  const PackedMatrix& weights = layer.up;
  const Input mlp_input{x_.as<float>(), static_cast<std::size_t>(hidden_stride_),
                        &layer.mlp_input_norm(), nullptr, in_.num_tokens, config.hidden_size,
                        weights.format};
  const int adapted = compute_inner(worker, stage, mlp_input, weights);
  const Split s = split(mlp_input.count, weights.panels(), weights.k);
  with_input(worker, stage, mlp_input, s.tasks(), [&](int i, const PreparedRows& rows) {
    const LinearTask task = task_at(s, i, mlp_input.count, weights.panels());
    LinearArgs a = args(weights, rows, task);
    a.out_stride = s.panel_chunk * kPanel;
    a.out = workers_[worker].scratch.as<float>();
    if (a.rows <= 0) return;
    format_kernels(weights.format).linear(a);
    add_adapters(workers_[worker], adapted, task, a.out, a.out_stride);
    activate(layer.mlp, a, mlp_.as<float>(), mlp_stride_, task.row);
  });
}

}  // namespace shoal
