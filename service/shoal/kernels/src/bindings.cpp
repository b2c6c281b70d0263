// The Python face of the library. Checks the shapes of arrays, lets go of the interpreter lock for
// the length of a step, and knows no weight names: native.py says which matrix goes where.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <utility>

#include "model.h"
#include "sampler.h"

namespace nb = nanobind;
using namespace shoal;

namespace {

template <class T, int Dims>
using Array = nb::ndarray<T, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
using Ints = Array<const std::int32_t, 1>;
using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::device::cpu>;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// float32, float16, or uint16 holding the bits of bf16.
Matrix matrix_of(const AnyMatrix& array, bool transposed) {
  Matrix m{array.data(), Source::f32, static_cast<int>(array.shape(0)),
           static_cast<int>(array.shape(1)), array.stride(0), array.stride(1)};
  if (array.dtype() == nb::dtype<std::uint16_t>())
    m.type = Source::bf16;
  else if (array.dtype().code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) &&
           array.dtype().bits == 16)
    m.type = Source::f16;
  else
    require(array.dtype() == nb::dtype<float>(), "weights must be float32, float16 or bf16 bits");
  if (transposed) {
    std::swap(m.rows, m.cols);
    std::swap(m.row_stride, m.col_stride);
  }
  return m;
}

Packed& linear_of(Model& model, int layer, const std::string& name) {
  if (name == "head") return model.head;
  Layer& at = model.layers.at(layer);
  if (name == "qkv") return at.qkv;
  if (name == "output") return at.output;
  if (name == "up") return at.up;
  require(name == "down", "no linear layer of that name");
  return at.down;
}

std::vector<float>& vector_of(Model& model, int layer, const std::string& name) {
  if (name == "final_norm.weight") return model.final_norm.weight;
  if (name == "final_norm.bias") return model.final_norm.bias;
  Layer& at = model.layers.at(layer);
  if (name == "attention_norm.weight") return at.attention_norm.weight;
  if (name == "attention_norm.bias") return at.attention_norm.bias;
  if (name == "mlp_norm.weight") return at.mlp_norm.weight;
  if (name == "mlp_norm.bias") return at.mlp_norm.bias;
  if (name == "query_norm") return at.query_norm;
  if (name == "key_norm") return at.key_norm;
  if (name == "qkv.bias") return at.qkv.bias;
  if (name == "output.bias") return at.output.bias;
  if (name == "up.bias") return at.up.bias;
  require(name == "down.bias", "no vector of that name");
  return at.down.bias;
}

Model* make_model(const nb::dict& config, const std::string& format, const std::string& kernel_set,
                  int num_blocks, int max_tokens, int threads, int spin_us,
                  std::optional<std::size_t> cache_bytes) {
  const auto number = [&](const char* name) { return nb::cast<int>(config[name]); };
  const auto real = [&](const char* name) { return nb::cast<float>(config[name]); };
  const auto flag = [&](const char* name) { return nb::cast<bool>(config[name]); };
  Config c{};
  c.vocab = number("vocab");
  c.width = number("width");
  c.layers = number("layers");
  c.heads = number("heads");
  c.kv_heads = number("kv_heads");
  c.head_dim = number("head_dim");
  c.mlp_width = number("mlp_width");
  c.max_positions = number("max_positions");
  c.eps = real("eps");
  c.layer_norm = flag("layer_norm");
  c.gated = flag("gated");
  c.tied = flag("tied");
  c.learned_positions = flag("learned_positions");
  c.activation = static_cast<Activation>(number("activation"));
  c.query_scale = real("query_scale");
  c.window = number("window");
  c.soft_cap = real("soft_cap");
  c.rope_scaling = real("rope_scaling");
  c.inverse_frequencies = nb::cast<std::vector<float>>(config["inverse_frequencies"]);
  const Kernels* kernels = find_kernels(kernel_set.c_str());
  require(kernels, "this machine cannot run that kernel set");
  const Format f = format == "float32" ? Format::f32
                   : format == "int8"  ? Format::int8
                                       : Format::bf16;
  require(format == "float32" || format == "int8" || format == "bfloat16", "unknown dtype");
  return new Model(c, f, kernels, num_blocks, max_tokens, threads, spin_us,
                   cache_bytes.value_or(last_cache_bytes()));
}

void allocate(Model& model, int layer, const std::string& name, int outputs, int inputs) {
  linear_of(model, layer, name) = model.make_linear(outputs, inputs);
}

void pack(Model& model, int layer, const std::string& name, const AnyMatrix& array,
          bool transposed, int first, int part) {
  Packed& packed = linear_of(model, layer, name);
  const Matrix matrix = matrix_of(array, transposed);
  const int span = part == 0 ? matrix.rows : 2 * round_up(matrix.rows, kPanel);
  require(matrix.cols == packed.k && first >= 0 && first + span <= packed.panels() * kPanel,
          "matrix does not fit the layer");
  const nb::gil_scoped_release unlocked;
  packed.add(matrix, first, part);
}

void set_vector(Model& model, int layer, const std::string& name, const Array<const float, 1>& v) {
  vector_of(model, layer, name).assign(v.data(), v.data() + v.shape(0));
}

void set_table(Model& model, const std::string& name, const AnyMatrix& array) {
  const Matrix matrix = matrix_of(array, false);
  if (name == "positions") {
    model.position_embedding = Table(Format::f32, matrix);
  } else {
    require(matrix.rows == model.config.vocab && matrix.cols == model.config.width,
            "embedding does not fit the model");
    model.embedding = Table(model.format(), matrix);
  }
}

template <class AnyArray>
auto data_or_null(const std::optional<AnyArray>& array) {
  return array ? array->data() : nullptr;
}

void step(Model& model, const Ints& token_ids, const Ints& positions, const Ints& slots,
          const Ints& row_starts, const Ints& context_lens,
          const Array<const std::int32_t, 2>& block_tables, const Ints& head_tokens,
          std::optional<Array<float, 2>> logits, std::optional<Array<std::int32_t, 2>> top_ids,
          std::optional<Array<float, 2>> top_values, std::optional<Array<float, 1>> log_sum_exp,
          std::optional<Ints> target_ids, std::optional<Array<float, 1>> targets,
          std::optional<Array<float, 2>> hidden) {
  const auto tokens = token_ids.shape(0), rows = context_lens.shape(0);
  const auto heads = head_tokens.shape(0);
  require(positions.shape(0) == tokens && slots.shape(0) == tokens &&
              row_starts.shape(0) == rows + 1 && block_tables.shape(0) == rows,
          "step arrays differ in length");
  require(!logits || (logits->shape(0) <= heads &&
                      logits->shape(1) == static_cast<std::size_t>(model.config.vocab)),
          "logits must be [at most the logit indices, vocab]");
  require(!top_ids || (top_ids->shape(0) == heads && top_ids->shape(1) > 0 &&
                       top_ids->shape(1) <= static_cast<std::size_t>(model.config.vocab)),
          "top_ids must be [logit indices, 1..vocab]");
  require(!top_values || (top_ids && top_values->shape(0) == heads &&
                          top_values->shape(1) == top_ids->shape(1)),
          "top_values must be shaped like top_ids");
  require(!log_sum_exp || log_sum_exp->shape(0) == heads, "log_sum_exp must be [logit indices]");
  require(!targets == !target_ids &&
              (!targets || (targets->shape(0) == heads && target_ids->shape(0) == heads)),
          "targets and target_ids must be [logit indices]");
  require(!hidden || (hidden->shape(0) == heads &&
                      hidden->shape(1) == static_cast<std::size_t>(model.config.width)),
          "hidden must be [logit indices, width]");
  StepInputs in{};
  in.tokens = static_cast<int>(tokens);
  in.rows = static_cast<int>(rows);
  in.table_width = static_cast<int>(block_tables.shape(1));
  in.heads = static_cast<int>(heads);
  in.token_ids = token_ids.data();
  in.positions = positions.data();
  in.slots = slots.data();
  in.row_starts = row_starts.data();
  in.context_lens = context_lens.data();
  in.block_tables = block_tables.data();
  in.head_tokens = head_tokens.data();
  in.target_ids = target_ids ? target_ids->data() : nullptr;
  StepOutputs out{};
  out.logits = data_or_null(logits);
  out.num_logits = logits ? static_cast<int>(logits->shape(0)) : 0;
  out.top = top_ids ? static_cast<int>(top_ids->shape(1)) : 0;
  out.top_ids = data_or_null(top_ids);
  out.top_values = data_or_null(top_values);
  out.log_sum_exp = data_or_null(log_sum_exp);
  out.targets = data_or_null(targets);
  out.hidden = data_or_null(hidden);
  const nb::gil_scoped_release unlocked;
  model.step(in, out);
}

Sampler* make_sampler(int vocab, const std::string& kernel_set) {
  const Kernels* kernels = find_kernels(kernel_set.c_str());
  require(kernels, "this machine cannot run that kernel set");
  require(vocab > 0, "the vocabulary must hold a token");
  return new Sampler(vocab, kernels);
}

template <class T>
using Column = Array<const T, 1>;

void sample(Sampler& sampler, const Array<const float, 2>& logits,
            const Column<float>& temperature, const Ints& top_k, const Column<double>& top_p,
            const Column<double>& min_p, const Column<double>& typical_p,
            const Column<std::uint64_t>& seed, const Column<std::uint64_t>& position,
            const Array<std::int32_t, 1>& tokens) {
  const std::size_t rows = logits.shape(0);
  require(logits.shape(1) == static_cast<std::size_t>(sampler.vocab()),
          "logits must be [rows, vocab]");
  require(temperature.shape(0) == rows && top_k.shape(0) == rows && top_p.shape(0) == rows &&
              min_p.shape(0) == rows && typical_p.shape(0) == rows && seed.shape(0) == rows &&
              position.shape(0) == rows && tokens.shape(0) == rows,
          "sampling arrays differ in length");
  const nb::gil_scoped_release unlocked;
  for (std::size_t r = 0; r < rows; ++r)
    tokens.data()[r] = sampler.sample(
        logits.data() + r * logits.shape(1),
        {temperature.data()[r], top_k.data()[r], top_p.data()[r], min_p.data()[r],
         typical_p.data()[r], seed.data()[r], position.data()[r]});
}

void logprobs(Sampler& sampler, const Array<const float, 2>& logits, const Ints& token_ids,
              const Ints& nums_best, const Array<float, 1>& own,
              const Array<std::int32_t, 2>& best_ids, const Array<float, 2>& best) {
  const std::size_t lines = logits.shape(0), width = best_ids.shape(1);
  require(logits.shape(1) == static_cast<std::size_t>(sampler.vocab()),
          "logits must be [lines, vocab]");
  require(token_ids.shape(0) == lines && nums_best.shape(0) == lines && own.shape(0) == lines &&
              best_ids.shape(0) == lines && best.shape(0) == lines && best.shape(1) == width &&
              width <= logits.shape(1),
          "log-probability arrays differ in shape");
  for (std::size_t i = 0; i < lines; ++i)
    require(token_ids.data()[i] >= 0 && token_ids.data()[i] < sampler.vocab(),
            "a token id is outside the vocabulary");
  const nb::gil_scoped_release unlocked;
  for (std::size_t i = 0; i < lines; ++i) {
    const int count = std::min(nums_best.data()[i], static_cast<std::int32_t>(width));
    if (!sampler.logprobs(logits.data() + i * logits.shape(1), token_ids.data()[i], count,
                          own.data() + i, best_ids.data() + i * width, best.data() + i * width))
      own.data()[i] = -INFINITY;
  }
}

}  // namespace

NB_MODULE(_native, module) {
  module.def("kernel_sets", [] {
    std::vector<std::string> names;
    for (const char* name : {"avx512bf16", "avx512", "avx2", "portable"})
      if (find_kernels(name)) names.emplace_back(name);
    return names;
  });
  nb::class_<Model>(module, "Model")
      .def("allocate", &allocate)
      .def("pack", &pack)
      .def("set_vector", &set_vector)
      .def("set_table", &set_table)
      .def("step", &step, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::arg().none(), nb::arg().none(), nb::arg().none())
      .def("copy_block", &Model::copy_block)
      .def_prop_ro("weight_bytes", &Model::weight_bytes)
      .def_prop_ro("block_bytes", &Model::block_bytes)
      .def_prop_ro("kernel_set", [](const Model& model) { return model.kernels()->name; });
  nb::class_<Sampler>(module, "Sampler").def("sample", &sample).def("logprobs", &logprobs);
  module.def("make_sampler", &make_sampler, nb::rv_policy::take_ownership);
  module.def("make_model", &make_model, nb::rv_policy::take_ownership, nb::arg(), nb::arg(),
             nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none());
}
