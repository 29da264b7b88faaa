#pragma once

#include "einforge/stable/tensor.h"

// torch's own pool of threads.
#define INTRA_OP_PARALLEL

namespace at {

inline int get_num_threads() {
  std::uint32_t count = 1;
  TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&count));
  return static_cast<int>(count);
}

template <typename Work>
void parallel_for(
    std::int64_t begin,
    std::int64_t end,
    std::int64_t grain,
    const Work& work) {
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(
      begin,
      end,
      grain,
      [](std::int64_t from, std::int64_t to, void* context) {
        (*static_cast<const Work*>(context))(from, to);
      },
      const_cast<void*>(static_cast<const void*>(&work))));
}

}  // namespace at
