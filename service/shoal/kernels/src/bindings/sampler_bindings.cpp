// The Sampler class of the bindings: checks the shapes of arrays, releases the GIL. Called by
// sampling.py.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
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

// What `sampling.py` says of a row's draws after the first.
struct Again {
  const std::uint32_t* check;   // null where it is not known
  const std::uint64_t* seeds;
  const std::uint8_t* plain;    // characters of each token; null for a row without others
  std::int32_t* others;
  std::size_t num_others;
};

// Each row's own of these, or none.
class Masks {
 public:
  Masks(const char* name, std::size_t rows, std::optional<Array<const std::uint32_t, 2>> words,
        std::optional<Int32s> of_row)
      : name_(name), words_(std::move(words)), of_row_(std::move(of_row)) {
    require(!words_ == !of_row_ && (!of_row_ || of_row_->shape(0) == rows),
            name_ + " must be [masks, num_token_ids / 32 rounded up], with a mask or -1 for each row");
  }
  explicit operator bool() const { return words_.has_value(); }
  // The arrays may have changed.
  void check(const Sampler& sampler) const {
    if (!words_) return;
    require(words_->shape(1) == static_cast<std::size_t>(sampler.mask_words()),
            name_ + " must be [masks, num_token_ids / 32 rounded up]");
    for (std::size_t r = 0; r < of_row_->shape(0); ++r)
      require(of_row_->data()[r] < static_cast<std::int64_t>(words_->shape(0)),
              "a row names a mask that is not there");
  }
  const std::uint32_t* of(std::size_t row) const {
    if (!words_ || of_row_->data()[row] < 0) return nullptr;
    return words_->data() + of_row_->data()[row] * words_->shape(1);
  }

 private:
  std::string name_;
  std::optional<Array<const std::uint32_t, 2>> words_;
  std::optional<Int32s> of_row_;
};

// The arrays of `sampling.py` that say how rows are sampled. They are kept, for to take one from
// Python again costs more than a row whose token is known.
class RowArrays {
 public:
  RowArrays(Column<float> temperature, Int32s top_k, Column<double> top_p, Column<double> min_p,
            Column<double> typical_p, Column<std::uint64_t> seed, Column<std::uint64_t> position,
            std::optional<Array<const std::uint32_t, 2>> mask_words,
            std::optional<Int32s> mask_of_row,
            std::optional<Array<const std::uint32_t, 2>> check_words,
            std::optional<Int32s> check_of_row, std::optional<Array<const std::uint8_t, 2>> plain,
            std::optional<Int32s> table_of_row, std::optional<Array<std::int32_t, 2>> others,
            std::optional<Array<const std::uint64_t, 2>> seeds)
      : temperature_(std::move(temperature)),
        top_k_(std::move(top_k)),
        top_p_(std::move(top_p)),
        min_p_(std::move(min_p)),
        typical_p_(std::move(typical_p)),
        seed_(std::move(seed)),
        position_(std::move(position)),
        masks_("masks", rows(), std::move(mask_words), std::move(mask_of_row)),
        checks_("checks", rows(), std::move(check_words), std::move(check_of_row)),
        plain_(std::move(plain)),
        table_of_row_(std::move(table_of_row)),
        others_(std::move(others)),
        seeds_(std::move(seeds)) {
    require(top_k_.shape(0) == rows() && top_p_.shape(0) == rows() && min_p_.shape(0) == rows() &&
                typical_p_.shape(0) == rows() && seed_.shape(0) == rows() &&
                position_.shape(0) == rows(),
            "sampling arrays differ in length");
    require(!plain_ == !table_of_row_ && !plain_ == !others_ &&
                (!others_ || (table_of_row_->shape(0) == rows() && others_->shape(0) == rows())),
            "others need a table or -1, and a place, for each row");
    const bool is_drawn_again = checks_ || others_;
    require(!is_drawn_again ? !seeds_
                            : seeds_ && seeds_->shape(0) == rows() && seeds_->shape(1) > num_others(),
            "checks and others need a seed for each draw");
  }
  std::size_t rows() const { return temperature_.shape(0); }
  void check(const Sampler& sampler) const {
    masks_.check(sampler);
    checks_.check(sampler);
    if (!plain_) return;
    require(plain_->shape(1) >= static_cast<std::size_t>(sampler.num_token_ids()),
            "a table lacks tokens");
    for (std::size_t r = 0; r < rows(); ++r)
      require(table_of_row_->data()[r] < static_cast<std::int64_t>(plain_->shape(0)),
              "a row names a table that is not there");
  }
  SampleParams params_of(std::size_t r) const {
    return {temperature_.data()[r], top_k_.data()[r],     top_p_.data()[r],   min_p_.data()[r],
            typical_p_.data()[r],   seed_.data()[r],      position_.data()[r]};
  }
  const std::uint32_t* mask_of(std::size_t r) const { return masks_.of(r); }
  Again again_of(std::size_t r) const {
    Again again{checks_.of(r), nullptr, nullptr, nullptr, num_others()};
    if (seeds_) again.seeds = seeds_->data() + r * seeds_->shape(1);
    if (others_) again.others = others_->data() + r * num_others();
    if (plain_ && table_of_row_->data()[r] >= 0)
      again.plain = plain_->data() + table_of_row_->data()[r] * plain_->shape(1);
    return again;
  }

 private:
  std::size_t num_others() const { return others_ ? others_->shape(1) : 0; }

  Column<float> temperature_;
  Int32s top_k_;
  Column<double> top_p_, min_p_, typical_p_;
  Column<std::uint64_t> seed_, position_;
  Masks masks_, checks_;
  std::optional<Array<const std::uint8_t, 2>> plain_;
  std::optional<Int32s> table_of_row_;
  std::optional<Array<std::int32_t, 2>> others_;
  std::optional<Array<const std::uint64_t, 2>> seeds_;
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

void sample(Sampler& sampler, const Array<const float, 2>& logits, const RowArrays& arrays,
            std::optional<Int32s> first, std::optional<Int32s> chosen,
            const Array<std::int32_t, 1>& tokens) {
  const std::size_t rows = logits.shape(0);
  check_logits(sampler, logits);
  require(arrays.rows() == rows && tokens.shape(0) == rows, "sampling arrays differ in length");
  arrays.check(sampler);
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
    tokens.data()[r] = sample_row(sampler, logits.data() + r * logits.shape(1), arrays.params_of(r),
                                  arrays.mask_of(r), first ? first->data()[r] : -1,
                                  arrays.again_of(r), refused);
  }
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
  // A copy of another type would not see what changes.
  const auto array = [] { return nb::arg().noconvert(); };
  const auto maybe = [] { return nb::arg().noconvert().none(); };
  nb::class_<RowArrays>(module, "RowArrays")
      .def(nb::init<Column<float>, Int32s, Column<double>, Column<double>, Column<double>,
                    Column<std::uint64_t>, Column<std::uint64_t>,
                    std::optional<Array<const std::uint32_t, 2>>, std::optional<Int32s>,
                    std::optional<Array<const std::uint32_t, 2>>, std::optional<Int32s>,
                    std::optional<Array<const std::uint8_t, 2>>, std::optional<Int32s>,
                    std::optional<Array<std::int32_t, 2>>,
                    std::optional<Array<const std::uint64_t, 2>>>(),
           array(), array(), array(), array(), array(), array(), array(), maybe(), maybe(),
           maybe(), maybe(), maybe(), maybe(), maybe(), maybe());
  nb::class_<Sampler>(module, "Sampler")
      .def("sample", &sample, nb::arg(), nb::arg(), maybe(), maybe(), nb::arg())
      .def("logprobs", &logprobs);
  module.def("make_sampler", &make_sampler, nb::rv_policy::take_ownership);
}

}  // namespace shoal
