// Adapters of a step. A stage before a linear layer computes the inner values A x of all tokens that
// have an adapter, grouped by it; the tasks of the layer then add B (A x) to what they computed. A
// token's sums are made in the same order whoever else has an adapter, and a token without one is
// never touched.
#include "model/adapters.h"

#include <algorithm>

#include "model/model.h"
#include "require.h"

namespace shoal {
namespace {

constexpr int kInnerRows = 16;  // tokens of a group at most

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
  // A huge page at least: many small matrices on small pages cost too many lookups of addresses.
  adapter.arena = Arena(std::max(total, std::size_t{1} << 21));
  int widest = 0;
  for (const AdapterInput& input : inputs) {
    adapter.linears.push_back(pack_adapter(input, adapter));
    widest = std::max(widest, adapter.linears.back().a.panels() * kPanel);
  }
  if (widest > inner_width_) {
    inner_width_ = widest;
    inner_ = Region(inner_bytes() * max_tokens_);
    for (Worker& worker : workers_) {
      worker.adapted = Region(sizeof(float) * static_cast<std::size_t>(widest_) * kInnerRows);
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
    packed.set_weight(m, 0, PackedMatrix::Part::whole, pool_);
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
  step.groups.clear();
  if (!in_.adapter_ids) return;
  for (const auto& [id, adapter] : adapters_) {
    const int first = static_cast<int>(step.tokens.size());
    for (int r = 0; r < in_.num_rows; ++r) {
      if (in_.adapter_ids[r] != id) continue;
      for (int t = in_.row_starts[r]; t < in_.row_starts[r + 1]; ++t) step.tokens.push_back(t);
    }
    const int end = static_cast<int>(step.tokens.size());
    for (int place = first; place < end; place += kInnerRows)
      step.groups.push_back({&adapter, place, std::min(kInnerRows, end - place)});
  }
  in_.adapter_ids = nullptr;  // the caller's
}

// The stage before a linear layer. Returns the layer's number, -1 where no token adapts it.
int Model::compute_inner(int worker, int& stage, const Input& input, const PackedMatrix& weights) {
  const AdapterTokens& step = adapter_tokens_;
  if (step.tokens.empty()) return -1;
  const auto found = adapted_.find(&weights);
  const int number = found == adapted_.end() ? -1 : found->second;
  if (std::none_of(step.groups.begin(), step.groups.end(),
                   [&](const AdapterTokens::Group& group) { return group.adapter->of(number); }))
    return -1;
  Input chosen = input;
  chosen.select = step.tokens.data();
  chosen.count = static_cast<int>(step.tokens.size());
  chosen.format = adapter_format_;
  const std::size_t bytes = row_bytes(chosen);
  Worker& own = workers_[worker];
  pool_.stage(worker, stage++, static_cast<int>(step.groups.size()), [&](int i) {
    const AdapterTokens::Group& group = step.groups[i];
    const AdaptedLinear* adapted = group.adapter->of(number);
    if (!adapted) return;
    for (int r = 0; r < group.count; ++r)
      prepare_row(own, chosen, group.place + r, own.adapted.data() + r * bytes);
    const int width = adapted->a.panels() * kPanel;
    char* inner = inner_.data() + group.place * inner_bytes();
    const auto prepare = format_kernels(adapter_format_).prepare_row;
    LinearArgs a = args(adapted->a, {own.adapted.data(), bytes},
                        {0, group.count, 0, adapted->a.panels()});
    a.out = prepare ? own.inner.as<float>() : reinterpret_cast<float*>(inner);
    a.out_stride = prepare ? width : inner_width_;
    format_kernels(adapter_format_).linear(a);
    if (!prepare) return;
    for (int r = 0; r < group.count; ++r)
      prepare(a.out + r * width, width, inner + r * inner_bytes());
  });
  return number;
}

// out, the rows and panels of the task, grows by B (A x) of those rows that have an adapter.
void Model::add_adapters(Worker& worker, int number, const LinearTask& task, float* out,
                         std::size_t out_stride) const {
  if (number < 0) return;
  const std::vector<std::int32_t>& tokens = adapter_tokens_.tokens;
  for (const AdapterTokens::Group& group : adapter_tokens_.groups) {
    const AdaptedLinear* adapted = group.adapter->of(number);
    if (!adapted) continue;
    const auto begin = tokens.begin() + group.place, end = begin + group.count;
    const auto first = std::lower_bound(begin, end, task.row);
    const auto last = std::lower_bound(first, end, task.row + task.rows);
    if (first == last) continue;
    for (const AdapterPart& part : adapted->parts)
      add_part(worker, part, static_cast<int>(first - tokens.begin()),
               static_cast<int>(last - first), task, out, out_stride);
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
  LinearArgs a = args(part.b, {inner, inner_bytes()}, {0, rows, p0, p1});
  a.out = worker.delta.as<float>();
  a.out_stride = (p1 - p0) * kPanel;
  format_kernels(adapter_format_).linear(a);
  for (int r = 0; r < rows; ++r) {
    const float* delta = a.out + r * a.out_stride;
    float* sums = out + (adapter_tokens_.tokens[place + r] - task.row) * out_stride;
    if (whole) {
      sums += part.first + begin - task.p0 * kPanel;
      delta += begin - p0 * kPanel;
      const int groups = (end - begin) / kPanel;
      kernels_->add(delta, groups, 1.0f, sums);
      for (int i = groups * kPanel; i < end - begin; ++i) sums[i] += delta[i];
      continue;
    }
    if (part.part == PackedMatrix::Part::up) sums += kPanel;
    for (int p = p0; p < p1; ++p, delta += kPanel) {
      float* panel = sums + (2 * p - task.p0) * kPanel;
      for (int i = 0; i < kPanel; ++i) panel[i] += delta[i];
    }
  }
}

}  // namespace shoal
