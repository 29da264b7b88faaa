#pragma once

#include <cstdint>

#include "einforge/kernels/cuda/routed_rows.h"

// How kernels walk over the rows of a mixture of experts.
namespace einforge::kernels::cuda {

// Tiles of kTile rows of one expert each; all tiles of all experts are dealt
// out in `workers` chunks of the same length.
template <int kTile>
struct RoutedTiles {
  const RoutedRows& rows;

  // Where an expert's rows begin and end in the order.
  __device__ int begin(int expert) const {
    return __ldg(rows.offsets + expert * rows.bins + rows.first);
  }
  __device__ int end(int expert) const {
    return __ldg(rows.offsets + expert * rows.bins + rows.last);
  }

  __device__ int tiles(int expert) const {
    return expert < rows.experts
               ? (end(expert) - begin(expert) + kTile - 1) / kTile
               : 0;
  }
  __device__ int all() const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    int sum = 0;
    for (int first = 0; first < rows.experts; first += 32) {
      sum += __reduce_add_sync(0xFFFFFFFFU, tiles(first + lane));
    }
    return sum;
  }
  // Where the chunk of one worker among `items` starts.
  __device__ static int chunk(int items, int worker, int workers) {
    return static_cast<int>(static_cast<int64_t>(items) * worker / workers);
  }

  // Calls work(expert, first tile, end) for what one worker does; tiles count
  // from the expert's first. By whole warps.
  template <typename Work>
  __device__ __forceinline__ void for_spans(
      int worker, int workers, const Work& work) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int items = all();
    const int begin = chunk(items, worker, workers);
    const int end = chunk(items, worker + 1, workers);
    int base = 0;
#pragma unroll 1
    for (int first = 0; first < rows.experts && base < end; first += 32) {
      const int mine = tiles(first + lane);
      int sum = mine;
      for (int hop = 1; hop < 32; hop *= 2) {
        const int other = __shfl_up_sync(0xFFFFFFFFU, sum, hop);
        sum += lane >= hop ? other : 0;
      }
      const int start = base + sum - mine;
      const int from = max(begin, start) - start;
      const int to = min(end, start + mine) - start;
      uint32_t with_work = __ballot_sync(0xFFFFFFFFU, from < to);
#pragma unroll 1
      while (with_work != 0) {
        const int owner = __ffs(static_cast<int>(with_work)) - 1;
        with_work &= with_work - 1;
        work(
            first + owner,
            __shfl_sync(0xFFFFFFFFU, from, owner),
            __shfl_sync(0xFFFFFFFFU, to, owner));
      }
      base += __shfl_sync(0xFFFFFFFFU, sum, 31);
    }
  }

  // The pair in a row of a tile, or `pairs` past the expert's last.
  __device__ int pair(int expert, int tile, int row) const {
    const int place = begin(expert) + tile * kTile + row;
    return place < end(expert) ? __ldg(rows.order + place) : rows.pairs;
  }
};

}  // namespace einforge::kernels::cuda
