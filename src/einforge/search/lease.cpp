#include "einforge/search/lease.h"

#include <chrono>
#include <cmath>
#include <exception>

#include "einforge/base/console.h"
#include "einforge/base/error.h"

namespace einforge::search {

Lease::Lease(store::Store& store, const store::Trial& trial, double seconds)
    : store_(store), trial_(trial), seconds_(seconds) {
  if (!std::isnan(seconds)) {
    thread_ = std::thread([this] { keep(); });
  }
}

Lease::~Lease() {
  {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
  }
  ends_.notify_one();
  if (thread_.joinable()) {
    thread_.join();
  }
}

void Lease::keep() {
  // Three may be late or lost.
  const std::chrono::duration<double> between(seconds_ / 4);
  std::unique_lock lock(mutex_);
  while (!ends_.wait_for(lock, between, [this] { return ended_; })) {
    lock.unlock();
    try {
      if (!store_.renew(trial_, seconds_)) {
        lost_ = true;
        return;
      }
    } catch (const std::exception& error) {
      base::note("trial {}: {}\n", trial_.id, base::message_of(error));
      lost_ = true;
      return;
    }
    lock.lock();
  }
}

}  // namespace einforge::search
