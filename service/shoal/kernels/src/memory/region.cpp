// Pages from mmap.
#include "memory/region.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

namespace shoal {

Region::Region(std::size_t bytes, bool huge_pages) : bytes_(bytes) {
  if (bytes == 0) return;
  constexpr std::size_t kHugePage = std::size_t{1} << 21;
  if (bytes < kHugePage) huge_pages = false;
  mapped_bytes_ = bytes + (huge_pages ? kHugePage : 0);
  mapped_ =
      mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped_ == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<char*>(mapped_);
  if (!huge_pages) return;
  data_ += (kHugePage - reinterpret_cast<std::uintptr_t>(mapped_) % kHugePage) % kHugePage;
#if defined(MADV_HUGEPAGE)
  madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}

Region::~Region() {
  if (data_) munmap(mapped_, mapped_bytes_);
}

Region::Region(Region&& other) noexcept { *this = std::move(other); }

Region& Region::operator=(Region&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

void Region::release(std::size_t offset, std::size_t bytes) {
  const std::size_t page = sysconf(_SC_PAGESIZE);
  const std::uintptr_t first = reinterpret_cast<std::uintptr_t>(data_) + offset;
  const std::uintptr_t start = (first + page - 1) / page * page;
  const std::uintptr_t end = (first + bytes) / page * page;
  if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
}

char* Arena::take(std::size_t bytes) {
  constexpr std::size_t kFurther = std::size_t{16} << 20;  // a page costs memory once it is written
  bytes = (bytes + 63) / 64 * 64;
  if (regions_.empty() || taken_ + bytes > regions_.back().bytes()) {
    regions_.emplace_back(std::max(bytes, regions_.empty() ? first_bytes_ : kFurther), true);
    taken_ = 0;
  }
  taken_ += bytes;
  return regions_.back().data() + taken_ - bytes;
}

}  // namespace shoal
