// What a caller must get right: std::invalid_argument, a ValueError in Python. Included by all that
// take sizes, indices or weights from outside.
#pragma once
#include <stdexcept>
#include <string>

namespace shoal {

inline void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

inline void require(bool holds, const std::string& what) { require(holds, what.c_str()); }

}  // namespace shoal
