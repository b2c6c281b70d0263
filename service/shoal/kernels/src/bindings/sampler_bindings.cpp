// The Sampler class of the bindings: checks the shapes of arrays, releases the GIL. Called by
// sampling.py.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "sampling/sampler.h"

namespace shoal {
namespace {

template <class T>
using Column = Array<const T, 1>;

Sampler* make_sampler(int vocab_size, int num_token_ids, const std::string& kernel_set) {
  const Kernels* kernels = find_kernels(kernel_set.c_str());
  require(kernels, "this machine cannot run that kernel set");
  require(num_token_ids > 0 && num_token_ids <= vocab_size,
          "num_token_ids must be within 1..vocab_size");
  return new Sampler(vocab_size, num_token_ids, kernels);
}

void check_logits(const Sampler& sampler, const Array<const float, 2>& logits) {
  require(logits.shape(1) == static_cast<std::size_t>(sampler.vocab_size()),
          "logits must be [rows, vocab_size]");
}

// Each row's own of these, or none.
class Masks {
 public:
  Masks(const char* name, const Sampler& sampler, std::size_t rows,
        const std::optional<Array<const std::uint32_t, 2>>& words,
        const std::optional<Int32s>& of_row)
      : words_(words ? words->data() : nullptr),
        of_row_(of_row ? of_row->data() : nullptr),
        num_words_(sampler.mask_words()) {
    const std::string start = name;
    require(!words == !of_row && (!words || (of_row->shape(0) == rows &&
                                             words->shape(1) == num_words_)),
            start + " must be [masks, num_token_ids / 32 rounded up], with a mask or -1 for each row");
    for (std::size_t r = 0; words && r < rows; ++r)
      require(of_row_[r] < static_cast<std::int64_t>(words->shape(0)),
              "a row names a mask that is not there");
  }
  const std::uint32_t* of(std::size_t row) const {
    return words_ && of_row_[row] >= 0 ? words_ + of_row_[row] * num_words_ : nullptr;
  }

 private:
  const std::uint32_t* words_;
  const std::int32_t* of_row_;
  std::size_t num_words_;
};

using Tables = Array<const std::uint8_t, 2>;

void check_tables(const Tables& tables, const std::int32_t* table_of_row, std::size_t rows) {
  for (std::size_t r = 0; r < rows; ++r)
    require(table_of_row[r] < static_cast<std::int64_t>(tables.shape(0)),
            "a row names a table that is not there");
}

// 0 where there is no such table or token.
std::uint8_t look_up(const Tables& tables, std::int64_t table, std::int64_t token) {
  const bool is_there =
      table >= 0 && token >= 0 && token < static_cast<std::int64_t>(tables.shape(1));
  return is_there ? tables.data()[table * tables.shape(1) + token] : 0;
}

// What `sampling.py` says of a row's draws after the first.
struct Again {
  const std::uint32_t* check;   // null where it is not known
  const std::uint64_t* seeds;
  const std::uint8_t* plain;    // characters of each token; null for a row without others
  std::int32_t* others;
  std::size_t num_others;
};

// `first`: the row's first draw; below 0 it is not known.
int sample_row(Sampler& sampler, const float* logits, SampleParams params,
               const std::uint32_t* mask, int first, const Again& again,
               std::vector<int>& refused) {
  const auto is_done = [&](int id) { return id < 0 || (again.check && allows(again.check, id)); };
  if (first >= 0) sampler.forget_row();
  const int token = first >= 0 ? first : sampler.sample(logits, params, mask);
  if (is_done(token) || (again.plain ? again.plain[token] > 0 : !again.check)) return token;
  refused.assign(1, token);
  for (std::size_t i = 0; again.plain && i < again.num_others; ++i) {
    params.seed = again.seeds[i];
    const int other = sampler.sample_again(logits, params, mask, refused);
    again.others[i] = other;
    if (again.check && is_done(other)) return other;
    if (other < 0 || again.plain[other]) {  // the last one that is wanted
      std::fill(again.others + i, again.others + again.num_others, other);
      break;
    }
    refused.push_back(other);
  }
  if (!again.check) return token;
  params.seed = again.seeds[again.plain ? again.num_others : 0];
  return sampler.sample_again(logits, params, again.check, {});
}

void sample(Sampler& sampler, const Array<const float, 2>& logits,
            const Column<float>& temperature, const Int32s& top_k, const Column<double>& top_p,
            const Column<double>& min_p, const Column<double>& typical_p,
            const Column<std::uint64_t>& seed, const Column<std::uint64_t>& position,
            std::optional<Array<const std::uint32_t, 2>> mask_words,
            std::optional<Int32s> mask_of_row,
            std::optional<Array<const std::uint32_t, 2>> check_words,
            std::optional<Int32s> check_of_row, std::optional<Tables> num_chars,
            std::optional<Int32s> table_of_row, std::optional<Array<std::int32_t, 2>> others,
            std::optional<Array<const std::uint64_t, 2>> seeds, std::optional<Int32s> first,
            std::optional<Int32s> chosen, const Array<std::int32_t, 1>& tokens) {
  const std::size_t rows = logits.shape(0);
  check_logits(sampler, logits);
  require(temperature.shape(0) == rows && top_k.shape(0) == rows && top_p.shape(0) == rows &&
              min_p.shape(0) == rows && typical_p.shape(0) == rows && seed.shape(0) == rows &&
              position.shape(0) == rows && tokens.shape(0) == rows,
          "sampling arrays differ in length");
  const Masks masks("masks", sampler, rows, mask_words, mask_of_row);
  const Masks checks("checks", sampler, rows, check_words, check_of_row);
  require(!num_chars == !table_of_row && !num_chars == !others &&
              (!others || (table_of_row->shape(0) == rows && others->shape(0) == rows)),
          "others need a table or -1, and a place, for each row");
  if (others) {
    check_tables(*num_chars, table_of_row->data(), rows);
    require(num_chars->shape(1) >= static_cast<std::size_t>(sampler.num_token_ids()),
            "a table lacks tokens");
  }
  const std::size_t num_others = others ? others->shape(1) : 0;
  require(!check_words && !others ? !seeds
                                  : seeds && seeds->shape(0) == rows && seeds->shape(1) > num_others,
          "checks and others need a seed for each draw");
  require(!first || first->shape(0) == rows, "first draws must be [rows]");
  for (std::size_t r = 0; first && r < rows; ++r)
    require(first->data()[r] < sampler.num_token_ids(), "a first draw is no token");
  const std::size_t count = chosen ? chosen->shape(0) : rows;
  for (std::size_t i = 0; chosen && i < count; ++i)
    require(chosen->data()[i] >= 0 && chosen->data()[i] < static_cast<std::int64_t>(rows),
            "a row is chosen that is not there");
  const nb::gil_scoped_release unlocked;
  std::vector<int> refused;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t r = chosen ? chosen->data()[i] : i;
    Again again{checks.of(r), seeds ? seeds->data() + r * seeds->shape(1) : nullptr, nullptr,
                others ? others->data() + r * num_others : nullptr, num_others};
    if (others && table_of_row->data()[r] >= 0)
      again.plain = num_chars->data() + table_of_row->data()[r] * num_chars->shape(1);
    tokens.data()[r] = sample_row(
        sampler, logits.data() + r * logits.shape(1),
        {temperature.data()[r], top_k.data()[r], top_p.data()[r], min_p.data()[r],
         typical_p.data()[r], seed.data()[r], position.data()[r]},
        masks.of(r), first ? first->data()[r] : -1, again, refused);
  }
}

constexpr std::int32_t kNoLook = -2;

// The rows that need a look at their token, at the start of `found`; how many.
std::size_t rows_to_look_at(const Int32s& tokens, const Tables& num_chars,
                            const Int32s& table_of_row, const Array<std::int32_t, 1>& chars_left,
                            const Array<std::int32_t, 1>& found) {
  const std::size_t rows = tokens.shape(0);
  require(table_of_row.shape(0) == rows && chars_left.shape(0) == rows && found.shape(0) == rows,
          "arrays of rows differ in length");
  check_tables(num_chars, table_of_row.data(), rows);
  std::size_t count = 0;
  for (std::size_t r = 0; r < rows; ++r) {
    const std::int32_t table = table_of_row.data()[r];
    if (table == kNoLook) continue;
    const std::int32_t chars = look_up(num_chars, table, tokens.data()[r]);
    std::int32_t& left = chars_left.data()[r];
    if (chars && left < 0) continue;
    if (chars && (left -= chars) >= 0) continue;
    found.data()[count++] = static_cast<std::int32_t>(r);
  }
  return count;
}

void logprobs(Sampler& sampler, const Array<const float, 2>& logits, const Int32s& token_ids,
              const Int32s& num_top, const Array<float, 1>& own,
              const Array<std::int32_t, 2>& top_ids, const Array<float, 2>& top) {
  const std::size_t rows = logits.shape(0), width = top_ids.shape(1);
  check_logits(sampler, logits);
  require(token_ids.shape(0) == rows && num_top.shape(0) == rows && own.shape(0) == rows &&
              top_ids.shape(0) == rows && top.shape(0) == rows && top.shape(1) == width &&
              width <= static_cast<std::size_t>(sampler.num_token_ids()),
          "log-probability arrays differ in shape");
  for (std::size_t i = 0; i < rows; ++i)
    require(token_ids.data()[i] >= 0 && token_ids.data()[i] < sampler.vocab_size(),
            "a token id is outside the vocabulary");
  const nb::gil_scoped_release unlocked;
  for (std::size_t i = 0; i < rows; ++i) {
    const int count = std::min(num_top.data()[i], static_cast<std::int32_t>(width));
    if (!sampler.logprobs(logits.data() + i * logits.shape(1), token_ids.data()[i], count,
                          own.data() + i, top_ids.data() + i * width, top.data() + i * width))
      own.data()[i] = -INFINITY;
  }
}

}  // namespace

void bind_sampler(nb::module_& module) {
  nb::class_<Sampler>(module, "Sampler")
      .def("sample", &sample, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(),
           nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg())
      .def("logprobs", &logprobs);
  module.def("rows_to_look_at", &rows_to_look_at);
  module.def("make_sampler", &make_sampler, nb::rv_policy::take_ownership);
}

}  // namespace shoal
