// Memory straight from the system, for weights, the KV cache and activations. Used by model/ and
// linear/packed_matrix.
#pragma once
#include <cstddef>
#include <vector>

namespace shoal {

// Zeroed pages from the system; a page costs memory once it is written. 64-byte aligned, with huge
// pages aligned to one of them. Throws std::bad_alloc.
class Region {
 public:
  Region() = default;
  explicit Region(std::size_t bytes, bool huge_pages = false);
  ~Region();
  Region(Region&& other) noexcept;
  Region& operator=(Region&& other) noexcept;

  // Gives the whole pages of a part back to the system: they are zero again.
  void release(std::size_t offset, std::size_t bytes);

  std::size_t bytes() const { return bytes_; }
  char* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
  void* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
};

// Pieces of large regions: matrices smaller than a huge page share them.
class Arena {
 public:
  Arena() = default;
  explicit Arena(std::size_t bytes) : first_bytes_(bytes) {}  // of the first region
  char* take(std::size_t bytes);                              // 64-byte aligned

 private:
  std::size_t first_bytes_ = 0, taken_ = 0;  // taken of the last region
  std::vector<Region> regions_;
};

}  // namespace shoal
