// Adapters of a step. A stage before a linear layer computes the inner values A x of all tokens that
// have an adapter, grouped by it; the tasks of the layer then add B (A x) to what they computed. A
// token's sums are made in the same order whoever else has an adapter, and a token without one is
// never touched.
#include "model/adapters.h"

#include <algorithm>

#include "model/model.h"
#include "model/prepared_input.h"
#include "require.h"

namespace shoal {
namespace {

constexpr int kInnerRows = 16;  // tokens of one task, and rows that are added at once

}  // namespace

void Model::load_adapter(int id, const std::vector<AdapterInput>& inputs) {
  require(id > 0 && !adapters_.count(id), "an adapter needs an id of its own above 0");
  pool_.wait_idle(0);
  const auto bytes = [&](const Matrix& m) {
    return traits_of(adapter_format_).panel_bytes(m.cols) * (round_up(m.rows, kPanel) / kPanel) + 64;
  };
  std::size_t total = 0;
  for (const AdapterInput& input : inputs) {
    total += bytes(input.a);
    for (const AdapterOutput& output : input.outputs) total += bytes(output.b);
  }
  Adapter adapter;
  adapter.arena = Arena(total);
  int widest = 0;
  for (const AdapterInput& input : inputs) {
    adapter.linears.push_back(pack_adapter(input, adapter));
    widest = std::max(widest, adapter.linears.back().a.panels() * kPanel);
  }
  if (widest > inner_width_) {
    inner_width_ = widest;
    inner_ = Region(inner_bytes() * max_tokens_);
    for (Worker& worker : workers_) {
      worker.inner = Region(sizeof(float) * inner_width_ * kInnerRows);
      worker.delta = Region(sizeof(float) * kInnerRows * (kScratchPanels + 1) * kPanel);
    }
  }
  adapters_.emplace(id, std::move(adapter));
}

void Model::unload_adapter(int id) {
  pool_.wait_idle(0);
  adapters_.erase(id);
}

AdaptedLinear Model::pack_adapter(const AdapterInput& input, Adapter& adapter) {
  require(!input.outputs.empty() && input.layer >= 0 &&
              input.layer < static_cast<int>(layers_.size()),
          "an adapter needs a layer of the model, and outputs");
  const PackedMatrix* weights = linear_target(input.layer, input.outputs[0].role).matrix;
  require(input.a.cols == weights->k, "an adapter's matrix has other inputs than the layer");
  const auto pack = [&](const Matrix& m) {
    PackedMatrix packed(adapter_format_, m.rows, m.cols, &adapter.arena);
    packed.set_weight(m, 0, PackedMatrix::Part::whole);
    return packed;
  };
  AdaptedLinear linear;
  linear.a = pack(input.a);
  for (const AdapterOutput& output : input.outputs) {
    const Target target = linear_target(input.layer, output.role);
    require(target.matrix == weights && output.b.rows == target.outputs &&
                output.first_inner >= 0 && output.first_inner % 2 == 0 &&
                output.first_inner + output.b.cols <= input.a.rows,
            "an adapter's matrix does not fit " + output.role);
    linear.parts.push_back({pack(output.b), output.first_inner, target.first, target.part});
  }
  const auto number = adapted_.emplace(weights, static_cast<int>(adapted_.size())).first->second;
  if (static_cast<int>(adapter.place.size()) <= number) adapter.place.resize(number + 1, -1);
  require(adapter.place[number] < 0, "an adapter has a linear layer twice");
  adapter.place[number] = static_cast<int>(adapter.linears.size());
  return linear;
}

// Of the inner values of one token, as B reads them.
std::size_t Model::inner_bytes() const {
  return format_kernels(adapter_format_).row_bytes(inner_width_);
}

void Model::plan_adapters() {
  AdapterTokens& step = adapter_tokens_;
  step.tokens.clear();
  step.runs.clear();
  step.tasks.clear();
  if (!in_.adapter_ids) return;
  for (const auto& [id, adapter] : adapters_) {
    const int first = static_cast<int>(step.tokens.size());
    for (int r = 0; r < in_.num_rows; ++r) {
      if (in_.adapter_ids[r] != id) continue;
      const int token = in_.row_starts[r], count = in_.row_starts[r + 1] - token;
      step.runs.push_back({&adapter, token, static_cast<int>(step.tokens.size()), count});
      for (int t = 0; t < count; ++t) step.tokens.push_back(token + t);
    }
    const int end = static_cast<int>(step.tokens.size());
    for (int place = first; place < end; place += kInnerRows)
      step.tasks.push_back({&adapter, 0, place, std::min(kInnerRows, end - place)});
  }
  in_.adapter_ids = nullptr;  // the caller's
}

// The stage before a linear layer. Returns the layer's number, -1 where no token adapts it.
int Model::compute_inner(int worker, int& stage, const Input& input, const PackedMatrix& weights) {
  const AdapterTokens& step = adapter_tokens_;
  if (step.empty()) return -1;
  const auto found = adapted_.find(&weights);
  const int number = found == adapted_.end() ? -1 : found->second;
  if (std::none_of(step.tasks.begin(), step.tasks.end(),
                   [&](const AdapterTokens::Run& task) { return task.adapter->of(number); }))
    return -1;
  Input chosen = input;
  chosen.select = step.tokens.data();
  chosen.count = static_cast<int>(step.tokens.size());
  chosen.format = adapter_format_;
  const int tasks = static_cast<int>(step.tasks.size());
  with_input(worker, stage, chosen, tasks, [&](int i, const PreparedRows& rows) {
    const AdapterTokens::Run& task = step.tasks[i];
    const AdaptedLinear* adapted = task.adapter->of(number);
    if (!adapted) return;
    const int width = adapted->a.panels() * kPanel;
    char* inner = inner_.data() + task.place * inner_bytes();
    const auto prepare = format_kernels(adapter_format_).prepare_row;
    LinearArgs a =
        args(adapted->a, rows, {task.place, task.count, 0, adapted->a.panels()});
    a.out = prepare ? workers_[worker].inner.as<float>() : reinterpret_cast<float*>(inner);
    a.out_stride = prepare ? width : inner_width_;
    format_kernels(adapter_format_).linear(a);
    if (!prepare) return;
    float scale;
    for (int r = 0; r < task.count; ++r)
      prepare(a.out + r * width, width, inner + r * inner_bytes(), &scale);
  });
  return number;
}

// out, the rows and panels of the task, grows by B (A x) of those rows that have an adapter.
void Model::add_adapters(Worker& worker, int number, const LinearTask& task, float* out,
                         std::size_t out_stride) const {
  if (number < 0) return;
  for (const AdapterTokens::Run& run : adapter_tokens_.runs) {
    const AdaptedLinear* adapted = run.adapter->of(number);
    if (!adapted) continue;
    const int end = std::min(run.token + run.count, task.row + task.rows);
    for (int token = std::max(run.token, task.row); token < end; token += kInnerRows) {
      const int place = run.place + token - run.token;
      for (const AdapterPart& part : adapted->parts)
        add_part(worker, part, place, std::min(kInnerRows, end - token), task,
                 out + (token - task.row) * out_stride, out_stride);
    }
  }
}

void Model::add_part(Worker& worker, const AdapterPart& part, int place, int rows,
                     const LinearTask& task, float* out, std::size_t out_stride) const {
  const bool whole = part.part == PackedMatrix::Part::whole;
  // Of the part's own outputs those that the task has; of a gate's and up's in turn whole panels.
  const int begin = whole ? std::max(task.p0 * kPanel - part.first, 0) : task.p0 / 2 * kPanel;
  const int end = std::min(whole ? task.p1 * kPanel - part.first : task.p1 / 2 * kPanel, part.b.n);
  if (begin >= end) return;
  const int p0 = begin / kPanel, p1 = (end + kPanel - 1) / kPanel;
  const std::size_t number_bytes = format_kernels(adapter_format_).row_bytes(kPanel) / kPanel;
  const char* inner = inner_.data() + place * inner_bytes() + part.first_inner * number_bytes;
  LinearArgs a = args(part.b, {inner, inner_bytes(), nullptr}, {0, rows, p0, p1});
  a.out = worker.delta.as<float>();
  a.out_stride = (p1 - p0) * kPanel;
  format_kernels(adapter_format_).linear(a);
  const int second = part.part == PackedMatrix::Part::up ? kPanel : 0;
  for (int r = 0; r < rows; ++r) {
    const float* delta = a.out + r * a.out_stride;
    float* sums = out + r * out_stride;
    if (whole) {
      sums += part.first + begin - task.p0 * kPanel;
      for (int i = 0; i < end - begin; ++i) sums[i] += delta[begin - p0 * kPanel + i];
      continue;
    }
    for (int p = p0; p < p1; ++p) {
      float* panel = sums + (2 * p - task.p0) * kPanel + second;
      for (int i = 0; i < kPanel; ++i) panel[i] += delta[(p - p0) * kPanel + i];
    }
  }
}

}  // namespace shoal
