// The Model class of the bindings: checks the shapes of arrays and releases the GIL for the length
// of a step. Called by native.py.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/matrix.h"
#include "bindings/spec.h"
#include "model/model.h"

namespace shoal {
namespace {

Dtype dtype_of(const std::string& name) {
  const char* const names[] = {"float32", "bfloat16", "int8", "int4", "blocks"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) return static_cast<Dtype>(i);
  throw std::invalid_argument("unknown dtype " + name);
}

Model* make_model(const nb::object& spec, int num_token_ids, const std::string& dtype,
                  const std::string& kernel_set, int num_blocks, int max_tokens, int threads,
                  int spin_us, std::optional<std::size_t> cache_bytes, bool int8_kv) {
  const Kernels* kernels = find_kernels(kernel_set.c_str());
  require(kernels, "this machine cannot run that kernel set");
  return new Model(read_spec(spec, num_token_ids), dtype_of(dtype), kernels, num_blocks,
                   max_tokens, threads, spin_us, cache_bytes.value_or(last_cache_bytes()), int8_kv);
}

void propose_format(Model& model, int layer, const std::string& role, const AnyArray& array,
                    const std::optional<std::string>& blocks) {
  model.propose_format(layer, role, matrix_of(array, blocks).type);
}

void set_weight(Model& model, int layer, const std::string& role, const AnyArray& array,
                const std::optional<std::string>& blocks) {
  const Matrix matrix = matrix_of(array, blocks);
  const nb::gil_scoped_release unlocked;
  model.set_weight(layer, role, matrix);
}

using AdapterArrays = std::tuple<int, AnyArray, std::vector<std::tuple<std::string, int, AnyArray>>>;

// Of each linear layer: (layer, A, [(role, its first inner value, B)]).
void load_adapter(Model& model, int id, const std::vector<AdapterArrays>& linears) {
  std::vector<AdapterInput> inputs;
  for (const auto& [layer, a, outputs] : linears) {
    inputs.push_back({layer, matrix_of(a), {}});
    for (const auto& [role, first_inner, b] : outputs)
      inputs.back().outputs.push_back({role, first_inner, matrix_of(b)});
  }
  const nb::gil_scoped_release unlocked;
  model.load_adapter(id, inputs);
}

template <class AnyArray>
auto data_or_null(const std::optional<AnyArray>& array) {
  return array ? array->data() : nullptr;
}

void step(Model& model, const Int32s& token_ids, const Int32s& positions, const Int32s& slots,
          const Int32s& row_starts, const Int32s& context_lens,
          const Array<const std::int32_t, 2>& block_tables, const Int32s& logit_indices,
          std::optional<Array<float, 2>> logits, std::optional<Array<std::int32_t, 2>> top_ids,
          std::optional<Array<float, 2>> top_values, std::optional<Array<float, 1>> log_sum_exp,
          std::optional<Int32s> target_ids, std::optional<Array<float, 1>> targets,
          std::optional<Array<float, 2>> hidden, std::optional<Int32s> adapter_ids,
          std::optional<Int32s> lens_indices, std::optional<Int32s> hidden_indices) {
  const auto tokens = token_ids.shape(0), rows = context_lens.shape(0);
  const auto logit_rows = logit_indices.shape(0);
  const auto lens_rows = lens_indices ? lens_indices->shape(0) : 0;
  const auto head_rows = logit_rows + lens_rows * model.config.layers.size();
  const auto vocab_size = static_cast<std::size_t>(model.config.vocab_size);
  const auto num_token_ids = static_cast<std::size_t>(model.config.num_token_ids);
  const auto hidden_size = static_cast<std::size_t>(model.config.hidden_size);
  require(positions.shape(0) == tokens && slots.shape(0) == tokens &&
              row_starts.shape(0) == rows + 1 && block_tables.shape(0) == rows,
          "step arrays differ in length");
  require(!logits || (logits->shape(0) <= head_rows && logits->shape(1) == vocab_size),
          "logits must be [at most the rows of the head, vocab_size]");
  require(!top_ids || (top_ids->shape(0) == head_rows && top_ids->shape(1) > 0 &&
                       top_ids->shape(1) <= num_token_ids),
          "top_ids must be [rows of the head, 1..num_token_ids]");
  require(!top_values || (top_ids && top_values->shape(0) == head_rows &&
                          top_values->shape(1) == top_ids->shape(1)),
          "top_values must be shaped like top_ids");
  require(!log_sum_exp || log_sum_exp->shape(0) <= head_rows,
          "log_sum_exp must be [at most the rows of the head]");
  require(!targets == !target_ids &&
              (!targets ||
               (targets->shape(0) == logit_rows && target_ids->shape(0) == logit_rows)),
          "targets and target_ids must be [logit indices]");
  require(!hidden == !hidden_indices &&
              (!hidden || (hidden->shape(0) == hidden_indices->shape(0) &&
                           hidden->shape(1) == hidden_size)),
          "hidden must be [hidden indices, hidden_size]");
  require(!adapter_ids || adapter_ids->shape(0) == rows, "adapter_ids must be [rows]");
  StepInputs in{};
  in.num_tokens = static_cast<int>(tokens);
  in.num_rows = static_cast<int>(rows);
  in.table_width = static_cast<int>(block_tables.shape(1));
  in.num_logit_rows = static_cast<int>(logit_rows);
  in.token_ids = token_ids.data();
  in.positions = positions.data();
  in.slots = slots.data();
  in.row_starts = row_starts.data();
  in.context_lens = context_lens.data();
  in.block_tables = block_tables.data();
  in.logit_indices = logit_indices.data();
  in.num_lens_rows = static_cast<int>(lens_rows);
  in.lens_indices = data_or_null(lens_indices);
  in.num_hidden_rows = hidden_indices ? static_cast<int>(hidden_indices->shape(0)) : 0;
  in.hidden_indices = data_or_null(hidden_indices);
  in.target_ids = target_ids ? target_ids->data() : nullptr;
  in.adapter_ids = data_or_null(adapter_ids);
  StepOutputs out{};
  out.logits = data_or_null(logits);
  out.num_logits = logits ? static_cast<int>(logits->shape(0)) : 0;
  out.top = top_ids ? static_cast<int>(top_ids->shape(1)) : 0;
  out.top_ids = data_or_null(top_ids);
  out.top_values = data_or_null(top_values);
  out.log_sum_exp = data_or_null(log_sum_exp);
  out.num_log_sum_exp = log_sum_exp ? static_cast<int>(log_sum_exp->shape(0)) : 0;
  out.targets = data_or_null(targets);
  out.hidden = data_or_null(hidden);
  const nb::gil_scoped_release unlocked;
  model.step(in, out);
}

}  // namespace

void bind_model(nb::module_& module) {
  nb::class_<Model>(module, "Model")
      .def("propose_format", &propose_format, nb::arg(), nb::arg(), nb::arg(), nb::arg().none())
      .def("set_weight", &set_weight, nb::arg(), nb::arg(), nb::arg(), nb::arg().none())
      .def("step", &step, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::arg().none(), nb::arg().none())
      .def("copy_block", &Model::copy_block)
      .def("release_block", &Model::release_block)
      .def("load_adapter", &load_adapter)
      .def("unload_adapter", &Model::unload_adapter)
      .def_prop_ro("weight_bytes", &Model::weight_bytes)
      .def_prop_ro("block_bytes", &Model::block_bytes)
      .def_prop_ro("kernel_set", [](const Model& model) { return model.kernels()->name; });
  module.def("make_model", &make_model, nb::rv_policy::take_ownership, nb::arg(), nb::arg(),
             nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(),
             nb::arg());
}

}  // namespace shoal
