#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "einforge/base/listener.h"
#include "einforge/distributed/world.h"

namespace einforge::distributed::testing {

// Runs action(world) in each of `size` threads, which stand for processes.
template <typename F>
void in_world(int size, F action) {
  base::Listener listener;
  const int socket = listener.release();
  std::vector<std::string> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        World world(
            {.rank = rank,
             .size = size,
             .local_rank = rank,
             .address = "127.0.0.1",
             .port = listener.port(),
             .socket = socket},
            torch::kCPU,
            std::chrono::seconds(120));
        action(world);
        world.leave();
      } catch (const std::exception& error) {
        errors[static_cast<std::size_t>(rank)] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(errors, std::vector<std::string>(errors.size()));
}

}  // namespace einforge::distributed::testing
