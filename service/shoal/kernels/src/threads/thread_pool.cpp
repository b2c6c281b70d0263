// Workers between steps: spin, sleep, wake.
#include "threads/thread_pool.h"

#include <chrono>

namespace shoal {

ThreadPool::ThreadPool(int threads, int spin_us) : threads_(threads), spin_us_(spin_us) {
  for (int worker = 1; worker < threads; ++worker)
    workers_.emplace_back([this, worker] { work(worker); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::wait_idle(int stages) {
  while (inside_.load() > 0) std::this_thread::yield();
  const std::size_t wanted = static_cast<std::size_t>(stages) * (threads_ + 1);
  if (counters_.size() < wanted) counters_ = std::vector<Counter>(wanted);
  for (std::size_t i = 0; i < wanted; ++i) counters_[i].value.store(0, std::memory_order_relaxed);
}

void ThreadPool::run(void (*body)(void*, int), void* context, bool wake) {
  if (workers_.empty() || !wake) return body(context, 0);
  body_ = body;
  context_ = context;
  open_.store(true);
  step_.fetch_add(1);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (asleep_ > 0) wake_.notify_all();
  }
  body(context, 0);
  open_.store(false);
}

// A worker announces itself before it looks whether the step is still open; wait_idle() looks for
// announced workers after closing it. So one of the two always sees the other.
void ThreadPool::work(int worker) {
  unsigned seen = 0;
  while (await_step(seen)) {
    inside_.fetch_add(1);
    seen = step_.load();
    if (open_.load()) body_(context_, worker);
    inside_.fetch_sub(1);
  }
}

bool ThreadPool::await_step(unsigned seen) {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + std::chrono::microseconds(spin_us_);
  do {
    for (int i = 0; i < 64; ++i) {
      if (stop_.load(std::memory_order_relaxed)) return false;
      if (step_.load() != seen) return true;
      cpu_relax();
    }
    std::this_thread::yield();  // to another process that waits for this core
  } while (Clock::now() < until);
  std::unique_lock<std::mutex> lock(mutex_);
  ++asleep_;
  wake_.wait(lock, [&] { return stop_.load() || step_.load() != seen; });
  --asleep_;
  return !stop_.load();
}

}  // namespace shoal
