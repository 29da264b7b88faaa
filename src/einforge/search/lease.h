#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "einforge/store/store.h"

namespace einforge::search {

// Renews the lease of a claimed trial from a thread of its own while it lives.
// The references must outlive it.
class Lease {
 public:
  // `seconds` from the last renewal others wait; NaN: there is no lease, and it
  // is never lost.
  Lease(store::Store& store, const store::Trial& trial, double seconds);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

  // Another has claimed the trial, or the store cannot be reached: what is
  // trained here is of no use any more.
  bool lost() const { return lost_; }

 private:
  void keep();

  store::Store& store_;
  const store::Trial& trial_;
  double seconds_;
  std::atomic<bool> lost_ = false;
  std::mutex mutex_;
  std::condition_variable ends_;
  bool ended_ = false;
  std::thread thread_;
};

}  // namespace einforge::search
