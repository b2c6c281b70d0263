// The traits of every format at run time. Called by linear/packed_matrix and model/.
#include "formats/all.h"

namespace shoal {
namespace {

template <class Traits>
constexpr FormatTraits at_run_time() {
  return {Traits::has_scale, Traits::panel_bytes, Traits::pack, Traits::unpack,
          Traits::pack_groups};
}

}  // namespace

const FormatTraits& traits_of(Format format) {
  static constexpr FormatTraits table[kNumFormats] = {
#define SHOAL_FORMAT_TRAITS(name, Traits) at_run_time<Traits>(),
      SHOAL_FORMATS(SHOAL_FORMAT_TRAITS)
#undef SHOAL_FORMAT_TRAITS
  };
  return table[static_cast<int>(format)];
}

}  // namespace shoal
