#pragma once

#include "einforge/kernels/cuda/two_pass/params.h"

// How the kernels of two_pass/ walk over the rows of a launch.
namespace einforge::kernels::cuda::two_pass {

struct RowSpan {
  int begin;
  int end;
};

__device__ __forceinline__ RowSpan rows_of(const RowList& list, int expert) {
  if (list.offsets == nullptr) {
    return {0, list.rows};
  }
  const int32_t* from = list.offsets + expert * list.bins;
  return {__ldg(from + list.first), __ldg(from + list.last)};
}

// Every worker has one of `copies` parts of the weights and a contiguous span
// of the tiles of all experts, the same span as the workers of the other parts:
// at the same time they read other elements of the same lines of memory. Calls
// work(expert, copy, rows, tile, count) for `count` tiles of one expert, from
// `tile` on.
template <int kTile, typename Work>
__device__ __forceinline__ void for_spans(
    const RowList& list,
    int copies,
    int worker,
    int workers,
    const Work& work) {
  int all = 0;
  for (int e = 0; e < list.experts; ++e) {
    const RowSpan rows = rows_of(list, e);
    all += (rows.end - rows.begin + kTile - 1) / kTile;
  }
  const int groups = workers < copies ? 1 : workers / copies;
  // Where there are fewer workers than parts, each has several.
#pragma unroll 1
  for (int i = worker; i < groups * copies; i += workers) {
    const int copy = i % copies;
    const int group = i / copies;
    const int begin =
        static_cast<int>(static_cast<int64_t>(all) * group / groups);
    const int end =
        static_cast<int>(static_cast<int64_t>(all) * (group + 1) / groups);
    int base = 0;
#pragma unroll 1
    for (int e = 0; e < list.experts && base < end; ++e) {
      const RowSpan rows = rows_of(list, e);
      const int tiles = (rows.end - rows.begin + kTile - 1) / kTile;
      const int from = max(begin, base) - base;
      const int to = min(end, base + tiles) - base;
      if (from < to) {
        work(e, copy, rows, from, to - from);
      }
      base += tiles;
    }
  }
}

// The pair at a place, or -1 past the end.
__device__ __forceinline__ int pair_at(
    const RowList& list, int place, int end) {
  return place >= end            ? -1
         : list.order == nullptr ? place
                                 : __ldg(list.order + place);
}

// The row of an activation that belongs to a pair, or -1.
__device__ __forceinline__ int row_of(int pair, int divisor) {
  return pair < 0       ? -1
         : divisor == 1 ? pair
         : divisor == 2 ? pair >> 1
                        : pair / divisor;
}

}  // namespace einforge::kernels::cuda::two_pass
