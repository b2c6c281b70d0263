// Sampling without sorting the vocabulary: what a truncation cannot keep is passed over by a bound,
// the rest falls into buckets by value, and only the buckets that hold an edge are sorted.
#include "sampling/sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <numeric>

#include "sampling/keys.h"

namespace shoal {
namespace {

constexpr float kNegligible = -87.0f;  // of exp: below float's normal numbers

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

double uniform(std::uint64_t seed, std::uint64_t position) {
  constexpr std::uint64_t golden = 0x9E3779B97F4A7C15u;
  return static_cast<double>(mix(mix(seed + golden) + position * golden) >> 11) * 0x1p-53;
}

Sampler::Sampler(int vocab_size, int num_token_ids, const Kernels* kernels)
    : vocab_size_(vocab_size),
      num_token_ids_(num_token_ids),
      spans_((num_token_ids + kSpan - 1) / kSpan),
      kernels_(kernels),
      values_(spans_ * kSpan),
      weights_(spans_ * kSpan),
      span_max_(spans_),
      span_sum_(spans_),
      tail_(kSpan, -INFINITY),
      padding_(round_up(vocab_size - num_token_ids, kPanel), -INFINITY),
      ids_(spans_ * kSpan),
      bucket_of_(spans_ * kSpan),
      buckets_(kBuckets) {
  spare_.reserve(spans_);
  keys_.reserve(spans_ * kSpan);
  probs_.reserve(spans_ * kSpan);
}

int Sampler::sample(const float* logits, const SampleParams& params, const std::uint32_t* mask,
                    const std::vector<int>& without) {
  has_weights_ = false;
  if (!without.empty()) {
    mask_.assign(mask_words(), ~0u);
    if (mask) std::copy(mask, mask + mask_words(), mask_.begin());
    for (const int id : without) mask_[id / 32] &= ~(1u << id % 32);
    mask = mask_.data();
  }
  float max;
  int best_id = best(logits, nullptr, &max);
  // Mostly the best of all is allowed.
  if (mask && (best_id < 0 || !allows(mask, best_id))) best_id = best(logits, mask, &max);
  if (best_id < 0 || !(params.temperature > 0.0f)) return best_id;
  const double mass = exp_shifted(logits, mask, max, std::max(params.temperature, FLT_MIN));
  const double share = uniform(params.seed, params.position);
  const int top_k = params.top_k > 0 && params.top_k < num_token_ids_ ? params.top_k : 0;
  const bool typical = params.typical_p < 1.0;
  // A top_k above the vocabulary cuts nothing, but its rows are drawn in order of probability too.
  if (!typical && params.top_k <= 0 && params.top_p >= 1.0 && params.min_p <= 0.0) {
    has_weights_ = true;
    return draw(share * mass);
  }
  const float floor = top_k ? std::max(span_floor(top_k), kNegligible)
                            : floor_of(params, mass);
  gather(floor);
  if (typical || num_candidates_ <= kFew) return draw_sorted(params, top_k, mass, share);
  return draw_bucketed(params, top_k, floor, mass, share);
}

int Sampler::sample_again(const float* logits, const SampleParams& params,
                          const std::uint32_t* mask, const std::vector<int>& without) {
  if (has_weights_) {
    const int id = draw_allowed(uniform(params.seed, params.position), mask, without);
    if (id >= 0) return id;
  }
  return sample(logits, params, mask, without);
}

bool Sampler::logprobs(const float* logits, int token, int count, float* own,
                       std::int32_t* best_ids, float* best_values) {
  float max;
  if (best(logits, nullptr, &max) < 0) return false;
  max = std::max(max, padding_max(logits));
  const double mass = exp_shifted(logits, nullptr, max, 1.0f) + padding_mass(max);
  if (!std::isfinite(mass)) return false;
  const float log_mass = static_cast<float>(std::log(mass));
  // The token of a prompt may be a padding column.
  const float value = token < num_token_ids_ ? values_[token] : logits[token] - max;
  *own = value - log_mass;
  if (count <= 0) return true;
  // Subtracting may make neighbours equal, and of equals the lower id is first: a little below the
  // bound there may be more of them.
  const float bound = span_floor(count);
  gather(bound - 1e-5f * (1.0f + std::fabs(bound) + log_mass));
  keys_.clear();
  for (int i = 0; i < num_candidates_; ++i) {
    const int id = ids_[i];
    keys_.push_back(key_of(std::min(values_[id] - log_mass, 0.0f), id));
  }
  std::partial_sort(keys_.begin(), keys_.begin() + count, keys_.end());
  for (int i = 0; i < count; ++i) {
    best_ids[i] = id_of(keys_[i]);
    best_values[i] = value_of(keys_[i]);
  }
  return true;
}

// Lowest id of the largest logit; -1 where it is not finite, a NaN anywhere included.
int Sampler::best(const float* logits, const std::uint32_t* mask, float* value) {
  const int full = num_token_ids_ / kSpan;
  kernels_->span_max(logits, mask, full, span_max_.data());
  if (full < spans_) {
    for (int id = full * kSpan; id < num_token_ids_; ++id)
      tail_[id - full * kSpan] = !mask || allows(mask, id) ? logits[id] : -INFINITY;
    kernels_->span_max(tail_.data(), nullptr, 1, span_max_.data() + full);
  }
  int span = 0;
  bool is_number = true;
  for (int s = 0; s < spans_; ++s) {
    is_number &= span_max_[s] == span_max_[s];
    if (span_max_[s] > span_max_[span]) span = s;
  }
  const float max = span_max_[span];
  if (!is_number || !std::isfinite(max)) return -1;
  *value = max;
  int id = span * kSpan;
  while (logits[id] != max || (mask && !allows(mask, id))) ++id;
  return id;
}

// Fills values and weights, -inf and 0 behind the token ids; the sum of the weights.
double Sampler::exp_shifted(const float* logits, const std::uint32_t* mask, float max,
                            float temperature) {
  const int full = num_token_ids_ / kSpan;
  kernels_->exp_shifted(logits, mask, max, temperature, full, values_.data(), weights_.data(),
                        span_max_.data(), span_sum_.data());
  if (full < spans_) {  // best() has filled the tail
    for (int id = full * kSpan; mask && id < num_token_ids_; ++id)
      if (!allows(mask, id)) tail_[id - full * kSpan] = -INFINITY;
    kernels_->exp_shifted(tail_.data(), nullptr, max, temperature, 1,
                          values_.data() + full * kSpan, weights_.data() + full * kSpan,
                          span_max_.data() + full, span_sum_.data() + full);
  }
  double mass = 0.0;
  for (const float sum : span_sum_) mass += sum;
  return mass;
}

// Largest logit of the padding; -inf without any.
float Sampler::padding_max(const float* logits) {
  if (padding_.empty()) return -INFINITY;
  std::copy(logits + num_token_ids_, logits + vocab_size_, padding_.begin());
  return kernels_->max(padding_.data(), static_cast<int>(padding_.size()) / kPanel);
}

// What it adds to the sum of the weights; NaN for a NaN or a logit of +inf.
double Sampler::padding_mass(float max) {
  if (padding_.empty()) return 0.0;
  return kernels_->sum_exp(padding_.data(), max, static_cast<int>(padding_.size()) / kPanel);
}
// The token at `target` of the mass, in order of ids.
int Sampler::draw(double target) const {
  double before = 0.0, sum = 0.0;  // of the spans before this one; with it
  int span = 0;
  for (int s = 0; s < spans_ && sum <= target; ++s) {
    if (span_sum_[s] <= 0.0f) continue;
    span = s;
    before = sum;
    sum += span_sum_[s];
  }
  // Rounding may leave the target behind the last one that weighs something.
  int found = span * kSpan;
  sum = 0.0;
  for (int id = span * kSpan; id < (span + 1) * kSpan; ++id) {
    if (weights_[id] <= 0.0f) continue;
    found = id;
    sum += weights_[id];
    if (sum > target - before) break;
  }
  return found;
}

// What these tokens weigh that the mask allows.
float Sampler::allowed_sum(int span, const std::uint32_t* mask) const {
  constexpr int bits = 32;
  float sum = 0.0f;
  bool is_all = true;
  const int end = std::min((span + 1) * kSpan, num_token_ids_);
  for (int start = span * kSpan; start < end; start += bits) {
    const std::uint32_t word = mask ? mask[start / bits] : ~0u;
    is_all &= word == ~0u;
    if (word == 0) continue;
    for (int id = start; id < std::min(start + bits, end); ++id)
      if (word >> (id - start) & 1) sum += weights_[id];
  }
  return is_all ? span_sum_[span] : sum;
}

// The token at that share of what is left of the weights; -1 where that is too little to be exact.
int Sampler::draw_allowed(double share, const std::uint32_t* mask,
                          const std::vector<int>& without) {
  constexpr double least_mass = 1e-25;
  for (const int id : without) {
    if (weights_[id] == 0.0f) continue;
    weights_[id] = 0.0f;
    const auto span = weights_.begin() + id / kSpan * kSpan;
    span_sum_[id / kSpan] = std::accumulate(span, span + kSpan, 0.0f);
  }
  double mass = 0.0;
  for (int s = 0; s < spans_; ++s) mass += span_sum_[s] > 0.0f ? allowed_sum(s, mask) : 0.0f;
  if (!(mass > least_mass)) return -1;
  const double target = share * mass;
  double before = 0.0, sum = 0.0;
  int found = -1;
  for (int s = 0; s < spans_ && sum <= target; ++s) {
    const float own = span_sum_[s] > 0.0f ? allowed_sum(s, mask) : 0.0f;
    if (own <= 0.0f) continue;
    found = s;
    before = sum;
    sum += own;
  }
  int last = -1;
  sum = before;
  for (int id = found * kSpan; id < std::min((found + 1) * kSpan, num_token_ids_); ++id) {
    if (weights_[id] <= 0.0f || (mask && !allows(mask, id))) continue;
    last = id;
    sum += weights_[id];
    if (sum > target) break;
  }
  return last;
}

// No token below it can be kept.
float Sampler::floor_of(const SampleParams& params, double mass) const {
  float floor = kNegligible;
  if (params.top_p < 1.0) floor = std::max(floor, top_p_floor(params.top_p, mass));
  if (params.min_p > 0.0 && params.typical_p >= 1.0)
    floor = std::max(floor, least_kept(std::min(params.min_p, 1.0)));
  return std::min(floor, 0.0f);
}

// Tokens below log((1 - top_p) * mass / vocab) weigh less than 1 - top_p together, so top_p is
// reached before them. A few halvings towards the best find a closer bound; the margins are wider
// than the rounding of the sums.
float Sampler::top_p_floor(double top_p, double mass) const {
  constexpr double margin = 1.001;
  constexpr int halvings = 4;
  float low = static_cast<float>(std::log((1.0 - top_p) * mass / num_token_ids_)) - 0.01f;
  float high = 0.0f;
  if (top_p * margin >= 1.0) return low;
  for (int i = 0; i < halvings && low < high; ++i) {
    const float middle = 0.5f * (low + high);
    const float weight = kernels_->sum_above(weights_.data(), std::exp(middle), spans_);
    (weight >= top_p * mass * margin ? low : high) = middle;
  }
  return low - 1e-4f * (1.0f - low);
}

// A value that at least `count` tokens reach: as many spans have their best there.
float Sampler::span_floor(int count) {
  if (count > spans_) return -INFINITY;
  spare_ = span_max_;
  std::nth_element(spare_.begin(), spare_.begin() + (count - 1), spare_.end(),
                   std::greater<float>());
  return spare_[count - 1];
}

void Sampler::gather(float floor) {
  int n = 0;
  for (int s = 0; s < spans_; ++s) {
    if (span_max_[s] < floor) continue;
    const int end = std::min((s + 1) * kSpan, num_token_ids_);
    for (int id = s * kSpan; id < end; ++id) {
      ids_[n] = id;
      n += values_[id] >= floor;
    }
  }
  num_candidates_ = n;
}

}  // namespace shoal
