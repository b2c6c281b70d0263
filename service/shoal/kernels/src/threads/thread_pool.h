// A persistent pool of threads that walks through the stages of a model step together. A stage is a
// list of tasks. Every thread has a part of it, whose tasks follow each other so that what one
// prefetches is what it needs next; a thread that is done with its own tasks takes from the others.
// A stage ends when its last task is done, not when every thread has arrived, so a thread that
// wakes late or loses its core holds nobody up. Used by model/.
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

class ThreadPool {
 public:
  // `threads` counts the caller, who is worker 0. Between steps a worker spins for `spin_us`, then
  // sleeps.
  ThreadPool(int threads, int spin_us);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Waits until no worker is inside the last step and makes room for `stages` stages.
  // What the step's body reads may be changed between this call and run().
  void wait_idle(int stages);
  // Runs body(context, worker) as worker 0, and on the other workers too if `wake`.
  void run(void (*body)(void*, int), void* context, bool wake);

  // One stage by itself, between steps: does tasks 0..count-1 and waits for the last one.
  template <class Work>
  void for_each(int count, const Work& work) {
    struct Tasks {
      ThreadPool& pool;
      int count;
      const Work& work;
    } tasks{*this, count, work};
    wait_idle(1);
    run(
        [](void* context, int worker) {
          const Tasks& t = *static_cast<Tasks*>(context);
          t.pool.stage(worker, 0, t.count, t.work);
        },
        &tasks, count > 1);
    wait_idle(0);  // a worker that comes late still looks at the tasks
  }

  // Called in the body, by every worker in the same order: does tasks 0..count-1 of stage `index`.
  template <class Work>
  void stage(int worker, int index, int count, const Work& work) {
    std::atomic<int>& done = counters_[index * (threads_ + 1)].value;
    for (int j = 0; j < threads_; ++j) {
      const int part = (worker + j) % threads_;
      const int begin = count * part / threads_, end = count * (part + 1) / threads_;
      std::atomic<int>& taken = counters_[index * (threads_ + 1) + 1 + part].value;
      if (taken.load(std::memory_order_relaxed) >= end - begin) continue;
      for (int i; (i = begin + taken.fetch_add(1, std::memory_order_relaxed)) < end;) {
        work(i);
        done.fetch_add(1, std::memory_order_release);
      }
    }
    for (int spins = 0; done.load(std::memory_order_acquire) < count; ++spins)
      if (spins < 4000) cpu_relax();
      else std::this_thread::yield();
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int> value{0};
  };

  void work(int worker);
  bool await_step(unsigned seen);

  const int threads_, spin_us_;
  std::vector<Counter> counters_;  // of each stage: tasks done, tasks taken of each part
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
