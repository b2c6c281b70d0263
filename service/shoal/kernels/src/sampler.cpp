// Sampling without sorting the vocabulary: what a truncation cannot keep is passed over by a bound,
// the rest falls into buckets by value, and only the buckets that hold an edge are sorted.
#include "sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

namespace shoal {
namespace {

constexpr float kNegligible = -87.0f;  // of exp: below float's normal numbers

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Values are not above 0: the larger the bits without their sign, the smaller the value.
std::uint64_t key_of(float value, int id) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<std::uint64_t>(bits & 0x7fffffffu) << 32 | static_cast<std::uint32_t>(id);
}

float value_of(std::uint64_t key) {
  const std::uint32_t bits = static_cast<std::uint32_t>(key >> 32);
  float size;
  std::memcpy(&size, &bits, 4);
  return -size;
}

int id_of(std::uint64_t key) { return static_cast<int>(key & 0xffffffffu); }

// The least value whose exp is not below min_p <= 1, found among the bits of its size.
float least_kept(double min_p) {
  std::uint32_t kept = 0, cut = 0x44800000u;  // 0 and 1024
  while (cut - kept > 1) {
    const std::uint32_t middle = kept + (cut - kept) / 2;
    const double value = value_of(static_cast<std::uint64_t>(middle) << 32);
    (std::exp(value) >= min_p ? kept : cut) = middle;
  }
  return value_of(static_cast<std::uint64_t>(kept) << 32);
}

}  // namespace

double uniform(std::uint64_t seed, std::uint64_t position) {
  constexpr std::uint64_t golden = 0x9E3779B97F4A7C15u;
  return static_cast<double>(mix(mix(seed + golden) + position * golden) >> 11) * 0x1p-53;
}

Sampler::Sampler(int vocab, const Kernels* kernels)
    : vocab_(vocab),
      spans_((vocab + kSpan - 1) / kSpan),
      kernels_(kernels),
      values_(spans_ * kSpan),
      weights_(spans_ * kSpan),
      span_max_(spans_),
      span_sum_(spans_),
      tail_(kSpan, -INFINITY),
      ids_(spans_ * kSpan),
      bucket_of_(spans_ * kSpan),
      buckets_(kBuckets) {
  spare_.reserve(spans_);
  keys_.reserve(spans_ * kSpan);
  probs_.reserve(spans_ * kSpan);
}

int Sampler::sample(const float* logits, const SampleParams& params) {
  float max;
  const int best_id = best(logits, &max);
  if (best_id < 0 || !(params.temperature > 0.0f)) return best_id;
  const double mass = weigh(logits, max, std::max(params.temperature, FLT_MIN));
  const double share = uniform(params.seed, params.position);
  const int top_k = params.top_k > 0 && params.top_k < vocab_ ? params.top_k : 0;
  const bool typical = params.typical_p < 1.0;
  // A top_k above the vocabulary cuts nothing, but its rows are drawn in order of probability too.
  if (!typical && params.top_k <= 0 && params.top_p >= 1.0 && params.min_p <= 0.0)
    return draw(share * mass);
  const float floor = top_k ? std::max(span_floor(top_k), kNegligible)
                            : floor_of(params, mass);
  gather(floor);
  if (typical || num_candidates_ <= kFew) return draw_sorted(params, top_k, mass, share);
  return draw_bucketed(params, top_k, floor, mass, share);
}

bool Sampler::logprobs(const float* logits, int token, int count, float* own,
                       std::int32_t* best_ids, float* best_values) {
  float max;
  if (best(logits, &max) < 0) return false;
  const float log_mass = static_cast<float>(std::log(weigh(logits, max, 1.0f)));
  *own = values_[token] - log_mass;
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
int Sampler::best(const float* logits, float* value) {
  const int full = vocab_ / kSpan;
  kernels_->span_max(logits, full, span_max_.data());
  if (full < spans_) {
    std::copy(logits + full * kSpan, logits + vocab_, tail_.begin());
    kernels_->span_max(tail_.data(), 1, span_max_.data() + full);
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
  while (logits[id] != max) ++id;
  return id;
}

// Fills values and weights, -inf and 0 behind the vocabulary; the sum of the weights.
double Sampler::weigh(const float* logits, float max, float temperature) {
  const int full = vocab_ / kSpan;
  kernels_->weigh(logits, max, temperature, full, values_.data(), weights_.data(),
                  span_max_.data(), span_sum_.data());
  if (full < spans_)  // best() has filled the tail
    kernels_->weigh(tail_.data(), max, temperature, 1, values_.data() + full * kSpan,
                    weights_.data() + full * kSpan, span_max_.data() + full,
                    span_sum_.data() + full);
  double mass = 0.0;
  for (const float sum : span_sum_) mass += sum;
  return mass;
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
  float low = static_cast<float>(std::log((1.0 - top_p) * mass / vocab_)) - 0.01f, high = 0.0f;
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
    const int end = std::min((s + 1) * kSpan, vocab_);
    for (int id = s * kSpan; id < end; ++id) {
      ids_[n] = id;
      n += values_[id] >= floor;
    }
  }
  num_candidates_ = n;
}

// --- few candidates: all of them sorted --------------------------------------------------------

int Sampler::draw_sorted(const SampleParams& params, int top_k, double mass, double share) {
  keys_.clear();
  for (int i = 0; i < num_candidates_; ++i)
    keys_.push_back(key_of(values_[ids_[i]], ids_[i]));
  std::sort(keys_.begin(), keys_.end());
  probs_.clear();
  double all = 0.0;
  for (const std::uint64_t key : keys_) {
    if (top_k && static_cast<int>(probs_.size()) == top_k) break;
    probs_.push_back(std::exp(static_cast<double>(value_of(key))));
    all += probs_.back();
  }
  int count = static_cast<int>(probs_.size());
  if (params.top_p < 1.0) {
    const double target = params.top_p * (top_k ? all : mass);
    double sum = probs_[0];
    int i = 1;
    for (; i < count && sum < target; ++i) sum += probs_[i];
    count = i;
  }
  if (params.typical_p < 1.0) keep_typical(count, params.typical_p);
  const double least =
      params.min_p * *std::max_element(probs_.begin(), probs_.begin() + count);
  double sum = 0.0;
  for (int i = 0; i < count; ++i) {
    if (probs_[i] < least) probs_[i] = 0.0;
    sum += probs_[i];
  }
  const double target = share * sum;
  int found = 0;
  sum = 0.0;
  for (int i = 0; i < count; ++i) {
    if (probs_[i] <= 0.0) continue;
    found = i;
    sum += probs_[i];
    if (sum > target) break;
  }
  return id_of(keys_[found]);
}

// Keeps the tokens whose surprise is closest to the entropy until their share reaches typical_p;
// the others get probability 0.
void Sampler::keep_typical(int count, double typical_p) {
  double all = 0.0, entropy = 0.0;
  for (int i = 0; i < count; ++i) all += probs_[i];
  distances_.resize(count);
  for (int i = 0; i < count; ++i) {
    const double part = probs_[i] / all;
    distances_[i] = -std::log(part);
    entropy += part * distances_[i];
  }
  // Best first, so the distance falls up to `right` and rises from there: walk outwards.
  int right = 0;
  while (right < count && distances_[right] < entropy) ++right;
  for (int i = 0; i < count; ++i) distances_[i] = std::fabs(distances_[i] - entropy);
  int left = right;  // kept: [left, right)
  double sum = 0.0;
  while (left > 0 || right < count) {
    if (left == 0 || (right < count && distances_[right] < distances_[left - 1])) {
      if (sum >= typical_p && right > left) break;
      sum += probs_[right++] / all;
      continue;
    }
    int group = left - 1;  // of equal distance the better is first
    while (group > 0 && distances_[group - 1] == distances_[left - 1]) --group;
    for (int i = group; i < left; ++i) {
      if (sum >= typical_p && (right > left || i > group)) probs_[i] = 0.0;
      else sum += probs_[i] / all;
    }
    left = group;
  }
  std::fill(probs_.begin(), probs_.begin() + left, 0.0);
  std::fill(probs_.begin() + right, probs_.begin() + count, 0.0);
}

// --- many candidates: buckets by value ---------------------------------------------------------

int Sampler::draw_bucketed(const SampleParams& params, int top_k, float floor, double mass,
                           double share) {
  const float scale = floor < 0.0f ? static_cast<float>(kBuckets) / -floor : 0.0f;
  const auto bucket_at = [&](float value) {
    return std::min(static_cast<int>(-value * scale), kBuckets - 1);
  };
  std::fill(buckets_.begin(), buckets_.end(), Bucket{0.0, 0});
  for (int i = 0; i < num_candidates_; ++i) {
    const int id = ids_[i], b = bucket_at(values_[id]);
    bucket_of_[i] = static_cast<std::uint16_t>(b);
    buckets_[b].sum += weights_[id];
    ++buckets_[b].count;
  }
  opened_ = -1;
  Cut kept = cut_at(top_k ? std::min(top_k, num_candidates_) : num_candidates_);
  const auto keep_less = [&](const Cut& cut) {
    if (std::make_pair(cut.bucket, cut.inside) < std::make_pair(kept.bucket, kept.inside))
      kept = cut;
  };
  if (params.top_p < 1.0) keep_less(cut_at_sum(params.top_p * (top_k ? kept.sum : mass)));
  if (params.min_p > 0.0 && top_k) {
    const float least = least_kept(std::min(params.min_p, 1.0));
    keep_less(cut_below(least, bucket_at(std::min(least, 0.0f))));
  }
  const double target = share * kept.sum;
  double before = 0.0, sum = 0.0;  // of the buckets before the one found; with it
  int found = 0, size = 0;
  for (int b = 0; b <= kept.bucket && sum <= target; ++b) {
    const int inside = b == kept.bucket ? kept.inside : buckets_[b].count;
    if (inside == 0) continue;
    found = b;
    size = inside;
    before = sum;
    sum += b == kept.bucket ? kept.sum : buckets_[b].sum;
  }
  open_bucket(found);
  sum = before;
  int i = 0;
  while (i + 1 < size && (sum += weights_[id_of(keys_[i])]) <= target) ++i;
  return id_of(keys_[i]);
}

// Its candidates in order.
void Sampler::open_bucket(int bucket) {
  if (opened_ == bucket) return;
  opened_ = bucket;
  keys_.resize(buckets_[bucket].count + 1);  // one place more: written before it is known to count
  int n = 0;
  for (int i = 0; i < num_candidates_; ++i) {
    keys_[n] = key_of(values_[ids_[i]], ids_[i]);
    n += bucket_of_[i] == bucket;
  }
  keys_.resize(buckets_[bucket].count);
  std::sort(keys_.begin(), keys_.end());
}

// Keeps so many; 1 <= count <= candidates.
Sampler::Cut Sampler::cut_at(int count) {
  Cut cut{0, 0, 0.0};
  while (buckets_[cut.bucket].count < count) {
    count -= buckets_[cut.bucket].count;
    cut.sum += buckets_[cut.bucket++].sum;
  }
  cut.inside = count;
  if (count == buckets_[cut.bucket].count) {
    cut.sum += buckets_[cut.bucket].sum;
    return cut;
  }
  open_bucket(cut.bucket);
  for (int i = 0; i < count; ++i) cut.sum += weights_[id_of(keys_[i])];
  return cut;
}

// Keeps the fewest whose sum reaches the target, one at least.
Sampler::Cut Sampler::cut_at_sum(double target) {
  Cut cut{0, 0, 0.0};
  for (; cut.bucket < kBuckets; ++cut.bucket) {
    const Bucket& bucket = buckets_[cut.bucket];
    if (bucket.count && cut.sum + bucket.sum >= target) break;
    cut.sum += bucket.sum;
  }
  if (cut.bucket == kBuckets) return cut;
  open_bucket(cut.bucket);
  do cut.sum += weights_[id_of(keys_[cut.inside++])];
  while (cut.inside < buckets_[cut.bucket].count && cut.sum < target);
  return cut;
}

// Keeps those not below the floor, which lies in that bucket.
Sampler::Cut Sampler::cut_below(float floor, int bucket) {
  Cut cut{bucket, 0, 0.0};
  for (int b = 0; b < bucket; ++b) cut.sum += buckets_[b].sum;
  open_bucket(bucket);
  for (; cut.inside < buckets_[bucket].count; ++cut.inside) {
    if (value_of(keys_[cut.inside]) < floor) break;
    cut.sum += weights_[id_of(keys_[cut.inside])];
  }
  return cut;
}

}  // namespace shoal
