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

// The pairs and gates of one tile after the other, read ahead: a lane has every
// 32nd row of a tile.
template <int kTile>
struct RowsAhead {
  static constexpr int kRows = (kTile + 31) / 32;

  const RowList& list;
  const float* gates;  // or null: 1
  int end;             // of the expert's places
  int place;           // of this lane's first row in the tile after the next
  int pair[kRows];     // -1 past the end
  float gate[kRows];
  int next_pair[kRows];

  // From the place of a tile's first row on.
  __device__ RowsAhead(
      const RowList& rows, const float* all_gates, int first, int last)
      : list(rows),
        gates(all_gates),
        end(last),
        place(first + static_cast<int>(threadIdx.x) % 32) {
    fetch();
    next();
  }
  __device__ void fetch() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool inside =
          kTile % 32 == 0 || static_cast<int>(threadIdx.x) % 32 < kTile;
      const int at = place + 32 * i;
      next_pair[i] = !inside || at >= end    ? -1
                     : list.order == nullptr ? at
                                             : __ldg(list.order + at);
    }
    place += kTile;
  }
  // To the next tile: its pairs have come, its gates are on their way.
  __device__ void next() {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      pair[i] = next_pair[i];
      gate[i] = 1.0F;
      if (gates != nullptr && pair[i] >= 0) {
        gate[i] = __ldg(gates + pair[i]);
      }
    }
    fetch();
  }
};

// The row of an activation that belongs to a pair, or -1.
__device__ __forceinline__ int row_of(int pair, int divisor) {
  return pair < 0       ? -1
         : divisor == 1 ? pair
         : divisor == 2 ? pair >> 1
                        : pair / divisor;
}

}  // namespace einforge::kernels::cuda::two_pass
