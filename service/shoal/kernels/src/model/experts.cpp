// Experts of a layer in a step: the router's logits, rows sorted by expert, then two stages of
// products and one that adds up each token's outputs. Nothing a token computes depends on the rows
// that its own are sorted among. Shapes: routed rows [rows, ..], see experts.h.
#include "model/experts.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "model/model.h"
#include "model/prepared_input.h"
#include "require.h"

namespace shoal {
namespace {

// The experts of the largest logits, best first; of equal ones the lower. NaN is never better.
void pick_experts(const float* logits, const ExpertsConfig& c, std::int32_t* picked) {
  int count = 0;
  for (int e = 0; e < c.num_experts; ++e) {
    if (count == c.num_experts_per_token && !(logits[e] > logits[picked[count - 1]])) continue;
    int place = count < c.num_experts_per_token ? count++ : count - 1;
    for (; place > 0 && logits[e] > logits[picked[place - 1]]; --place)
      picked[place] = picked[place - 1];
    picked[place] = e;
  }
}

// Their weights: a softmax of all logits, or of those that were picked.
void softmax_weights(const float* logits, const ExpertsConfig& c, const std::int32_t* picked,
                   float* weights) {
  const float max = logits[picked[0]];
  float sum = 0.0f;
  for (int i = 0; i < c.num_experts_per_token; ++i) {
    weights[i] = std::exp(logits[picked[i]] - max);
    if (c.normalized) sum += weights[i];
  }
  if (!c.normalized)
    for (int e = 0; e < c.num_experts; ++e) sum += std::exp(logits[e] - max);
  for (int i = 0; i < c.num_experts_per_token; ++i) weights[i] /= sum;
}

}  // namespace

Model::Target Model::mlp_target(PackedMatrix& up, PackedMatrix& down, bool gated,
                                int intermediate_size, const std::string& name) {
  using Part = PackedMatrix::Part;
  if (name == "gate" && gated) return {&up, 0, intermediate_size, Part::gate};
  if (name == "up") return {&up, 0, intermediate_size, gated ? Part::up : Part::whole};
  require(name == "down", "no weight is called " + name);
  return {&down, 0, config.hidden_size, Part::whole};
}

// "router", "shared_gate", or a matrix of "experts.<index>" or "shared".
Model::Target Model::expert_target(Layer& layer, const std::string& name) {
  const ExpertsConfig& c = *layer.mlp.experts;
  if (name == "router") return {&layer.router, 0, c.num_experts, PackedMatrix::Part::whole};
  if (name == "shared_gate" && c.shared_gate)
    return {&layer.router, c.num_experts, 1, PackedMatrix::Part::whole};
  const std::size_t dot = name.rfind('.');
  int index = -1;
  if (dot == 6 && name.compare(0, 6, "shared") == 0 && c.has_shared())
    index = c.num_experts;
  else if (dot != std::string::npos && name.compare(0, 8, "experts.") == 0)
    index = std::atoi(name.c_str() + 8);
  require(index >= 0 && index < static_cast<int>(layer.experts.size()),
          "no weight is called " + name);
  Expert& expert = layer.experts[index];
  return mlp_target(expert.up, expert.down, layer.mlp.gated, expert.intermediate_size,
                    name.substr(dot + 1));
}

void Model::route(const Layer& layer) {
  const ExpertsConfig& c = *layer.mlp.experts;
  const int tokens = in_.num_tokens, per_token = c.rows_per_token();
  Routing& r = routing_;
  r.starts.assign(c.num_mlps() + 1, 0);
  for (int t = 0; t < tokens; ++t) {
    const float* logits = router_logits_.as<float>() + static_cast<std::size_t>(t) * router_stride_;
    std::int32_t* picked = r.picked.data() + static_cast<std::size_t>(t) * per_token;
    float* weights = r.weights.data() + static_cast<std::size_t>(t) * per_token;
    pick_experts(logits, c, picked);
    softmax_weights(logits, c, picked, weights);
    if (c.has_shared()) {
      picked[per_token - 1] = c.num_experts;
      weights[per_token - 1] =
          c.shared_gate ? 1.0f / (1.0f + std::exp(-logits[c.num_experts])) : 1.0f;
    }
    for (int i = 0; i < per_token; ++i) ++r.starts[picked[i] + 1];
  }
  for (int e = 0; e < c.num_mlps(); ++e) r.starts[e + 1] += r.starts[e];
  const int rows = tokens * per_token;
  for (int i = 0; i < rows; ++i) {  // starts[e] runs to the end of e, which is where e + 1 began
    const int row = r.starts[r.picked[i]]++;
    r.row_of[i] = row;
    r.token_of[row] = i / per_token;
  }
  for (int e = c.num_mlps(); e > 0; --e) r.starts[e] = r.starts[e - 1];
  r.starts[0] = 0;
  plan_experts(layer);
}

// Cuts each expert's rows into blocks, and their matrices into as many chunks of panels as give
// every worker a few tasks.
void Model::plan_experts(const Layer& layer) {
  Routing& r = routing_;
  r.up.clear();
  r.down.clear();
  const int num_mlps = layer.mlp.experts->num_mlps();
  const auto blocks_of = [&](int e) {
    return (r.starts[e + 1] - r.starts[e] + kExpertRows - 1) / kExpertRows;
  };
  int blocks = 0;
  for (int e = 0; e < num_mlps; ++e) blocks += blocks_of(e);
  const int chunks = pool_.threads() == 1 ? 1 : (4 * pool_.threads() + blocks - 1) / blocks;
  const auto cut = [&](std::vector<ExpertTask>& to, const PackedMatrix& m, ExpertTask task) {
    const double products = static_cast<double>(task.rows) * m.panels() * kPanel * m.k;
    const int wanted = std::clamp(static_cast<int>(products / 6e4), 1, chunks);
    const int chunk = round_up((m.panels() + wanted - 1) / wanted, 4);
    for (task.p0 = 0; task.p0 < m.panels(); task.p0 = task.p1) {
      task.p1 = std::min(task.p0 + chunk, m.panels());
      to.push_back(task);
    }
  };
  for (int e = 0; e < num_mlps; ++e) {
    const int rows = r.starts[e + 1] - r.starts[e], num_blocks = blocks_of(e);
    for (int b = 0; b < num_blocks; ++b) {
      const int begin = rows * b / num_blocks, end = rows * (b + 1) / num_blocks;
      const ExpertTask task{e, r.starts[e] + begin, end - begin, 0, 0};
      cut(r.up, layer.experts[e].up, task);
      cut(r.down, layer.experts[e].down, task);
    }
  }
  expert_tasks_[&layer - layers_.data()] = {static_cast<int>(r.up.size()),
                                            static_cast<int>(r.down.size())};
}

// The prepared rows of these tokens, one after the other. Experts whose weights are in another
// format prepare their own.
Model::PreparedRows Model::gather(Worker& worker, const Input& input, const PreparedRows& rows,
                                  Format format, const std::int32_t* tokens, int count) const {
  char* to = worker.expert_rows.data();
  if (format != input.format) {
    Input own = input;
    own.format = format;
    own.select = tokens;
    own.count = count;
    return prepare_all(worker, own, to);
  }
  const char* from = static_cast<const char*>(rows.x);
  if (tokens[count - 1] - tokens[0] == count - 1)  // they ascend, so all of these stand together
    return {from + tokens[0] * rows.stride, rows.stride};
  const std::size_t bytes = row_bytes(input);
  for (int i = 0; i < count; ++i)
    std::memcpy(to + i * bytes, from + tokens[i] * rows.stride, bytes);
  return {to, bytes};
}

// The inside of every expert for its tokens.
void Model::experts_up(int worker, int& stage, const Layer& layer) {
  Input input{x_.as<float>(), static_cast<std::size_t>(hidden_stride_), &layer.mlp_input_norm(),
              nullptr, in_.num_tokens, config.hidden_size, layer.router.format};
  linear(worker, stage, input, layer.router, router_logits_.as<float>(), router_stride_, false);
  pool_.stage(worker, stage++, 1, [&](int) { route(layer); });
  input.format = layer.experts[0].up.format;  // of most others too
  const int tasks = expert_tasks_[&layer - layers_.data()].up;
  with_input(worker, stage, input, tasks, [&](int i, const PreparedRows& rows) {
    const ExpertTask& task = routing_.up[i];
    const PackedMatrix& weights = layer.experts[task.expert].up;
    Worker& own = workers_[worker];
    const PreparedRows gathered = gather(own, input, rows, weights.format,
                                         routing_.token_of.data() + task.first, task.rows);
    for (int p = task.p0; p < task.p1; p += kScratchPanels) {
      LinearArgs a = args(weights, gathered,
                          {0, task.rows, p, std::min(p + kScratchPanels, task.p1)});
      a.out = own.scratch.as<float>();
      a.out_stride = kScratchPanels * kPanel;
      format_kernels(weights.format).linear(a);
      activate(layer.mlp, a, expert_inside_.as<float>(), expert_stride_, task.first);
    }
  });
}

// x += the weighted outputs of a token's experts, as a branch.
void Model::experts_down(int worker, int& stage, const Layer& layer) {
  const int tasks = expert_tasks_[&layer - layers_.data()].down;
  pool_.stage(worker, stage++, tasks, [&](int i) {
    const ExpertTask& task = routing_.down[i];
    const Expert& expert = layer.experts[task.expert];
    Worker& own = workers_[worker];
    const std::size_t stride = expert_stride_;
    const Input inside{expert_inside_.as<float>() + task.first * stride, stride, nullptr, nullptr,
                       task.rows, expert.intermediate_size, expert.down.format};
    const PreparedRows rows =
        reads_in_place(inside)
            ? PreparedRows{inside.rows, stride * sizeof(float)}
            : prepare_all(own, inside, own.expert_rows.data());
    LinearArgs a = args(expert.down, rows, {0, task.rows, task.p0, task.p1});
    a.out_stride = hidden_stride_;
    a.out = expert_out_.as<float>() + task.first * a.out_stride + task.p0 * kPanel;
    format_kernels(expert.down.format).linear(a);
  });
  const int per_token = layer.mlp.experts->rows_per_token();
  pool_.stage(worker, stage++, (in_.num_tokens + 3) / 4, [&](int i) {
    for (int t = 4 * i; t < std::min(in_.num_tokens, 4 * i + 4); ++t) {
      float* branch = branch_.as<float>() + static_cast<std::size_t>(t) * hidden_stride_;
      std::fill(branch, branch + hidden_stride_, 0.0f);
      for (int j = t * per_token; j < (t + 1) * per_token; ++j)
        kernels_->add(expert_out_.as<float>() +
                          static_cast<std::size_t>(routing_.row_of[j]) * hidden_stride_,
                      hidden_stride_ / kPanel, routing_.weights[j], branch);
      finish_branch(layer, layer.mlp_post_norm, t);
    }
  });
}

}  // namespace shoal
