// What truncations keep of a row's candidates, and the draw from it: all candidates sorted where
// they are few, else buckets by value of which only those that hold an edge are sorted.
#include <algorithm>
#include <cmath>
#include <utility>

#include "sampling/keys.h"
#include "sampling/sampler.h"

namespace shoal {

// Found among the bits of its size.
float least_kept(double min_p) {
  std::uint32_t kept = 0, cut = 0x44800000u;  // 0 and 1024
  while (cut - kept > 1) {
    const std::uint32_t middle = kept + (cut - kept) / 2;
    const double value = value_of(static_cast<std::uint64_t>(middle) << 32);
    (std::exp(value) >= min_p ? kept : cut) = middle;
  }
  return value_of(static_cast<std::uint64_t>(kept) << 32);
}

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
