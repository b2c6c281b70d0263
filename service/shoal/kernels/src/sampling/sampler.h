// Logits to tokens: temperature, top_k, top_p, typical_p, min_p, one draw; and log-probabilities. A
// row's token depends on its own logits, parameters and (seed, position) alone. Knows no model and
// no threads. Called by bindings/sampler_bindings.cpp.
#pragma once
#include <cstdint>
#include <vector>

#include "isa/kernels.h"

namespace shoal {

struct SampleParams {
  float temperature;  // 0: the best token
  int top_k;          // 0 = off
  double top_p, min_p, typical_p;  // 1, 0, 1 = off
  std::uint64_t seed, position;
};

// A number in [0, 1) with 53 random bits: two rounds of splitmix64's finalizer (Steele, Lea and
// Flood, 2014) over seed and position.
double uniform(std::uint64_t seed, std::uint64_t position);

// Of a mask of the vocabulary.
inline bool allows(const std::uint32_t* mask, int id) { return mask[id / 32] >> id % 32 & 1; }

class Sampler {
 public:
  // Logits are rows of vocab_size; the columns from num_token_ids on are padding of the vocabulary:
  // they are never picked, and count in the sum that normalises log-probabilities only.
  Sampler(int vocab_size, int num_token_ids, const Kernels* kernels);
  int vocab_size() const { return vocab_size_; }
  int num_token_ids() const { return num_token_ids_; }
  int mask_words() const { return (num_token_ids_ + 31) / 32; }

  // A token id; -1 without a finite best logit. `mask`, where not null, allows token i only if bit
  // i % 32 of word i / 32 is set; what is in `without` is not allowed either.
  int sample(const float* logits, const SampleParams& params, const std::uint32_t* mask,
             const std::vector<int>& without = {});
  // As `sample`, right behind it for the same logits, temperature and truncations and a mask that
  // allows no more: mostly without another look at the logits.
  int sample_again(const float* logits, const SampleParams& params, const std::uint32_t* mask,
                   const std::vector<int>& without);
  // `sample_again` will be for another row than the last one.
  void forget_row() { has_weights_ = false; }
  // The log-probability of `token`, and of the `count` best, best first, of equals the lower id.
  // False without a finite best logit: then nothing is written.
  bool logprobs(const float* logits, int token, int count, float* own, std::int32_t* best_ids,
                float* best);

 private:
  static constexpr int kBuckets = 512;
  static constexpr int kFew = 96;  // candidates: up to here sorting all beats finding buckets
  struct Bucket {
    double sum;
    int count;
  };
  struct Cut {  // what is kept: all buckets before, and of this one so many, best first
    int bucket, inside;
    double sum;
  };

  // sampler.cpp
  int best(const float* logits, const std::uint32_t* mask, float* value);
  double exp_shifted(const float* logits, const std::uint32_t* mask, float max, float temperature);
  float padding_max(const float* logits);
  double padding_mass(float max);
  float floor_of(const SampleParams& params, double mass) const;
  float top_p_floor(double top_p, double mass) const;
  float span_floor(int count);
  void gather(float floor);
  int draw(double share) const;
  int draw_allowed(double share, const std::uint32_t* mask, const std::vector<int>& without);
  float allowed_sum(int span, const std::uint32_t* mask) const;
  // truncation.cpp
  int draw_sorted(const SampleParams& params, int top_k, double mass, double share);
  void keep_typical(int count, double typical_p);
  int draw_bucketed(const SampleParams& params, int top_k, float floor, double mass,
                    double share);
  void open_bucket(int bucket);
  Cut cut_at(int count);
  Cut cut_at_sum(double target);
  Cut cut_below(float floor, int bucket);

  const int vocab_size_, num_token_ids_, spans_;
  const Kernels* const kernels_;
  std::vector<float> values_, weights_, span_max_, span_sum_, tail_, spare_;
  std::vector<std::uint32_t> mask_;        // of a row for which more tokens are not allowed
  std::vector<float> padding_;             // logits behind the token ids, padded with -inf
  std::vector<std::int32_t> ids_;          // candidates, in order of ids
  std::vector<std::uint16_t> bucket_of_;   // of each candidate
  std::vector<std::uint64_t> keys_;        // sorted: size of the value, then id
  std::vector<double> probs_, distances_;
  std::vector<Bucket> buckets_;
  int num_candidates_ = 0, opened_ = -1;
  bool has_weights_ = false;  // of the last row, all that its mask allowed
};

}  // namespace shoal
