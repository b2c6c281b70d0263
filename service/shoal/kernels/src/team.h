// A persistent team of threads that walks through the stages of a step together.
// A stage is a list of tasks taken by whoever is free; it ends when its last task is done, not when
// every thread has arrived, so a thread that wakes late or loses its core holds nobody up.
#pragma once
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace shoal {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

class Team {
 public:
  // `threads` counts the caller. Between steps a worker spins for `spin_us`, then sleeps.
  Team(int threads, int spin_us);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }

  // Waits until no worker is inside the last step and makes room for `stages` stages.
  // What the step's body reads may be changed between this call and run().
  void settle(int stages);
  // Runs body(context, member) as member 0, and on the workers too if `wake`.
  void run(void (*body)(void*, int), void* context, bool wake);

  // Called in the body, by every member in the same order: does tasks 0..count-1 of stage `index`.
  template <class Work>
  void stage(int index, int count, const Work& work) {
    Stage& stage = stages_[index];
    for (int i; (i = stage.next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      work(i);
      stage.done.fetch_add(1, std::memory_order_release);
    }
    for (int spins = 0; stage.done.load(std::memory_order_acquire) < count; ++spins)
      if (spins < 4000) cpu_relax();
      else std::this_thread::yield();
  }

 private:
  struct alignas(64) Stage {
    std::atomic<int> next{0};
    alignas(64) std::atomic<int> done{0};
  };

  void work(int member);
  bool await_step(unsigned seen);

  const int threads_, spin_us_;
  std::vector<Stage> stages_;
  void (*body_)(void*, int) = nullptr;
  void* context_ = nullptr;
  std::atomic<unsigned> step_{0};
  std::atomic<bool> open_{false}, stop_{false};
  std::atomic<int> inside_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  int asleep_ = 0;
  std::vector<std::thread> workers_;
};

}  // namespace shoal
