#pragma once

// The two stages of the register-resident kernels; btt_resident.cuh includes
// this.
namespace einforge::kernels::cuda {

template <typename S, bool kRouted>
__device__ __forceinline__ void BttResident<S, kRouted>::stage_one() const {
  constexpr ResidentStage kStage = S::kOne;
  constexpr int kTiles = kStage.tiles();
  constexpr int kCopies = S::kExchange ? S::kSplit : 1;
  const ResidentUnit unit = resident_unit(kStage, warp);
  const int row = lane / 4;
  const int q = lane % 4;
  // Rows of odd tokens read their alphas in another order, into other banks;
  // the order of the PRMT sets it right.
  const int odd = row & 1;
  const uint32_t low = odd != 0 ? 0x1054U : 0x5410U;
  const uint32_t high = odd != 0 ? 0x3276U : 0x7632U;
  uint32_t from[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int alpha = 4 * (i ^ odd) + q;
    from[i] =
        shared + static_cast<uint32_t>(
                     S::kX + swizzled(
                                 row * S::kXToken + alpha * S::kGammas * 2 +
                                     unit.batch * 2,
                                 S::kXMask));
  }
  // Which of a lane's two tokens it writes first.
  const int first = S::kSplitK ? odd : 0;
  // Blocks that get the z of 8 rows, where, and from there to their
  // barrier of buffer 0.
  uint32_t to[kTiles][2][kCopies];
  uint32_t to_barrier[kTiles][2];
  uint32_t own = 0;  // bits of those that go to this block itself
#pragma unroll
  for (int k = 0; k < kTiles; ++k) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const ResidentRows rows =
          resident_rows(2 * (unit.row_tile + k) + half, S::kRho);
      const int depth =
          (rows.rho * S::kGammas2 + (S::kExchange ? member * S::kGammas : 0) +
           unit.batch) /
          8;
      const auto offset = static_cast<uint32_t>(
          S::kZ + depth * S::kZVector + rows.phi % S::kPhis * 128 +
          S::z_place(row, q, first));
      to_barrier[k][half] =
          static_cast<uint32_t>(S::kBarriers + 8 * 12) - offset;
#pragma unroll
      for (int r = 0; r < kCopies; ++r) {
        const int receiver =
            part * S::kGroup + rows.phi / S::kPhis * S::kSplit + r;
        if (!S::kExchange || receiver == rank) {
          to[k][half][r] = shared + offset;
          own |= 1U << ((k * 2 + half) * kCopies + r);
        } else {
          to[k][half][r] =
              ptx::peer_address(shared, static_cast<uint32_t>(receiver)) +
              offset;
        }
      }
    }
  }
  // From a lane's first token to its second: in z_offset() that is the other
  // line, the other half of it.
  const int other =
      S::kSplitK ? (odd != 0 ? -16 : 16) : 128 + (odd != 0 ? -64 : 64);

  Ring<S::kXBuffers> x(0);
  Ring<S::kZBuffers> z(1);
  for_spans([&](int chunk, int begin, int end, int hop) {
    Weights<kStage> weights;
    weights.load(
        p.weights_one + weights_of(chunk),
        member * S::kGammas + unit.batch,
        (chunk_of(chunk) * S::kParts + part) * kStage.row_tiles + unit.row_tile,
        S::kPhi * S::kRho / kFragmentRows,
        {kStage.steps, kStage.steps, 0, 0},
        lane);
    [[maybe_unused]] int first_pair = 0;  // of the expert's, for this lane
    [[maybe_unused]] int end_pair = 0;
    if constexpr (kRouted) {
      const RoutedTiles<kResidentTokens> tiles{p.rows};
      first_pair = tiles.begin(chunk) + 2 * q;
      end_pair = tiles.end(chunk);
    }
    for (int tile = begin; tile < end; tile += hop) {
      ptx::barrier_wait(x_full(x.slot), x.phase);
      bool may_store = false;
#pragma unroll 1
      for (int n_tile = unit.n_tile; n_tile < kResidentNTiles;
           n_tile += kStage.sharing()) {
        // Of tokens 2 q and 2 q + 1. A token's gate may as well be z's.
        [[maybe_unused]] float gate[2];
        if constexpr (kRouted) {
          const int at = first_pair + tile * kResidentTokens + n_tile * 8;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            gate[i] = p.gates != nullptr && at + i < end_pair
                          ? __ldg(p.gates + at + i)
                          : 1.0F;
          }
        }
        const auto place = static_cast<uint32_t>(
            x.slot * S::kXBytes + n_tile * 8 * S::kXToken);
        float sums[8][kTiles][4] = {};
        uint4 v[2][4];  // one step ahead
        const auto fetch = [&](int step) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            v[step % 2][i] = ptx::load_shared(
                place + swizzled_from(
                            from[i % 2],
                            (16 * step + i / 2 * 8) * S::kGammas * 2,
                            S::kXMask));
          }
        };
        fetch(0);
#pragma unroll
        for (int step = 0; step < kStage.steps; ++step) {
          if (step + 1 < kStage.steps) {
            fetch(step + 1);
          }
          uint32_t b[8][2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const uint4& u = v[step % 2][2 * i];
            const uint4& w = v[step % 2][2 * i + 1];
            b[0][i] = __byte_perm(u.x, w.x, low);
            b[1][i] = __byte_perm(u.x, w.x, high);
            b[2][i] = __byte_perm(u.y, w.y, low);
            b[3][i] = __byte_perm(u.y, w.y, high);
            b[4][i] = __byte_perm(u.z, w.z, low);
            b[5][i] = __byte_perm(u.z, w.z, high);
            b[6][i] = __byte_perm(u.w, w.w, low);
            b[7][i] = __byte_perm(u.w, w.w, high);
          }
#pragma unroll
          for (int n = 0; n < 8; ++n) {
#pragma unroll
            for (int k = 0; k < kTiles; ++k) {
              ptx::mma(sums[n][k], weights.of[k][step][n], b[n][0], b[n][1]);
            }
          }
        }
        if (!may_store) {
          ptx::barrier_wait(z_empty(z.slot), z.phase);
          may_store = true;
        }
        const auto z_place =
            static_cast<uint32_t>(z.slot * S::kZBytes + n_tile * S::kZNTile);
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if constexpr (kRouted) {
#pragma unroll
              for (int n = 0; n < 8; ++n) {
                sums[n][k][i] *= gate[i % 2];
              }
            }
          }
          const auto rounded = [&](int i) {
            return uint4{
                ptx::round_pair(sums[0][k][i], sums[1][k][i]),
                ptx::round_pair(sums[2][k][i], sums[3][k][i]),
                ptx::round_pair(sums[4][k][i], sums[5][k][i]),
                ptx::round_pair(sums[6][k][i], sums[7][k][i])};
          };
#pragma unroll
          for (int i = 0; i < 4; ++i) {  // rows + 8 (i / 2), token 2 q + i % 2
            uint4 value = rounded(i);
            if constexpr (S::kSplitK) {
              value = ptx::selected(first == 0, value, rounded(i ^ 1));
            }
            const uint32_t offset =
                z_place + static_cast<uint32_t>(i % 2 != 0 ? other : 0);
#pragma unroll
            for (int r = 0; r < kCopies; ++r) {
              const uint32_t at = to[k][i / 2][r] + offset;
              if constexpr (S::kExchange) {
                const uint32_t bit = 1U << ((k * 2 + i / 2) * kCopies + r);
                ptx::store_async(
                    (own & bit) != 0,
                    at,
                    value,
                    to[k][i / 2][r] + to_barrier[k][i / 2] +
                        static_cast<uint32_t>(8 * z.slot));
              } else {
                ptx::store_shared(at, value);
              }
            }
          }
        }
      }
      arrive(x_empty(x.slot), member, S::kGroup, S::kParts);
      if constexpr (S::kSplitK) {
        ptx::async_fence();  // products of a warpgroup read it as copies do
      }
      ptx::barrier_arrive(z_full(z.slot));
      x.next();
      z.next();
    }
  });
}

template <typename S, bool kRouted>
__device__ __forceinline__ void BttResident<S, kRouted>::stage_two() const {
  constexpr ResidentStage kStage = S::kTwo;
  constexpr int kTiles = kStage.tiles();
  const int worker = warp - kResidentStageWarps;
  const ResidentUnit unit = resident_unit(kStage, worker);
  const int row = lane / 4;
  const int q = lane % 4;
  const int epsilon = first_epsilon() + unit.row_tile * kFragmentRows;
  constexpr int kQuads = kStage.batches / 4;
  // The loads of one quad cost less than a loop around them.
  const int some = p.bias != nullptr ? 1 : 0;
  const int with_bias = kQuads == 1 ? some : ptx::warp_uniform(some);
  constexpr int kPairs = (kStage.steps + 1) / 2;      // of steps
  constexpr int kHalves = kStage.steps == 1 ? 1 : 2;  // of a pair
  // Lanes 8 m to 8 m + 7 give the 8 tokens of depth vector m of four (two).
  const uint32_t from =
      shared +
      static_cast<uint32_t>(
          S::kZ + (lane / 8 % (2 * kHalves) * S::kPhis + unit.batch) * 128 +
          z_offset(0, lane % 8 / 2, lane % 2));
  uint32_t to[2];  // token 2 q + j
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    to[j] = shared + static_cast<uint32_t>(
                         S::kY +
                         swizzled(
                             (2 * q + j) * S::kYToken + row * S::kPhis * 2 +
                                 unit.batch / 8 * 16,
                             S::kYMask) +
                         unit.batch % 8 * 2);
  }

  Ring<S::kZBuffers> z(0);
  Ring<S::kYBuffers> y(1);
  for_spans([&](int chunk, int begin, int end, int hop) {
    const int phi = first_phi(chunk_of(chunk)) + unit.batch;
    Weights<kStage> weights;
    weights.load(
        p.weights_two + weights_of(chunk),
        phi,
        epsilon / kFragmentRows,
        S::kEpsilon / kFragmentRows,
        {kStage.steps, kStage.steps, 0, 0},
        lane);
    for (int tile = begin; tile < end; tile += hop) {
      if constexpr (S::kExchange) {
        ptx::barrier_wait(z_full(z.slot), z.phase);
        // Ready for its next use, before anybody is told that it is free.
        if (worker == 0 && lane == 0) {
          ptx::barrier_expect(z_full(z.slot), S::kZFromOthers);
        }
      } else {
        ptx::barrier_wait(z_full(z.slot), z.phase);
      }
      if (p.z != nullptr && member % S::kSplit == 0) {
        save_z(
            shared + static_cast<uint32_t>(S::kZ + z.slot * S::kZBytes),
            first_phi(chunk_of(chunk)),
            tile,
            worker * 32 + lane);
      }
      bool may_store = false;
#pragma unroll 1
      for (int n_tile = unit.n_tile; n_tile < kResidentNTiles;
           n_tile += kStage.sharing()) {
        const uint32_t here =
            from +
            static_cast<uint32_t>(z.slot * S::kZBytes + n_tile * S::kZNTile);
        uint32_t values[kTiles][4][2 * kQuads];
        uint32_t operands[2][4][4];  // one pair of steps ahead
        const auto fetch = [&](int quad, int pair) {
#pragma unroll
          for (int n = 0; n < 4; ++n) {
            uint32_t(&b)[4] = operands[(quad * kPairs + pair) % 2][n];
            const int f = 4 * quad + n;
            const uint32_t place =
                (here ^ (f % 2 != 0 ? 64U : 0U)) +
                static_cast<uint32_t>(pair * 4 * S::kZVector + f / 2 * 256);
            if constexpr (kHalves == 2) {
              ptx::load_matrix(place, b[0], b[1], b[2], b[3]);
            } else {
              ptx::load_matrix(place, b[0], b[1]);
            }
          }
        };
        fetch(0, 0);
#pragma unroll
        for (int quad = 0; quad < kQuads; ++quad) {
          float sums[4][kTiles][4];
          start_y(with_bias, p.bias, epsilon + row, phi + 4 * quad, sums);
#pragma unroll
          for (int pair = 0; pair < kPairs; ++pair) {
            if (pair + 1 < kPairs) {
              fetch(quad, pair + 1);
            } else if (quad + 1 < kQuads) {
              fetch(quad + 1, 0);
            }
            const uint32_t(&b)[4][4] = operands[(quad * kPairs + pair) % 2];
#pragma unroll
            for (int half = 0; half < kHalves; ++half) {
#pragma unroll
              for (int n = 0; n < 4; ++n) {
#pragma unroll
                for (int k = 0; k < kTiles; ++k) {
                  ptx::mma(
                      sums[n][k],
                      weights.of[k][2 * pair + half][4 * quad + n],
                      b[n][2 * half],
                      b[n][2 * half + 1]);
                }
              }
            }
          }
#pragma unroll
          for (int k = 0; k < kTiles; ++k) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              values[k][i][2 * quad] =
                  ptx::round_pair(sums[0][k][i], sums[1][k][i]);
              values[k][i][2 * quad + 1] =
                  ptx::round_pair(sums[2][k][i], sums[3][k][i]);
            }
          }
        }
        if (!may_store) {
          ptx::barrier_wait(y_empty(y.slot), y.phase);
          may_store = true;
        }
        const auto place = static_cast<uint32_t>(
            y.slot * S::kYBytes + n_tile * 8 * S::kYToken);
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int epsilons =
                (unit.row_tile + k) * kFragmentRows + i / 2 * 8;
            const uint32_t(&v)[2 * kQuads] = values[k][i];
            const uint32_t at =
                place +
                swizzled_from(to[i % 2], epsilons * S::kPhis * 2, S::kYMask);
            if constexpr (kQuads == 2) {
              ptx::store_shared(at, {v[0], v[1], v[2], v[3]});
            } else {
              ptx::store_shared_half(at, v[0], v[1]);
            }
          }
        }
      }
      if constexpr (S::kExchange) {
        arrive(z_empty(z.slot), part * S::kGroup, 1, kZSources);
      } else {
        ptx::barrier_arrive(z_empty(z.slot));
      }
      ptx::async_fence();
      __syncwarp();
      if (lane == 0) {
        ptx::barrier_arrive(y_full(y.slot));
      }
      z.next();
      y.next();
    }
  });
}

// Stage two of a member's own gammas, by products of the whole warpgroup: 64
// epsilons, of which a warp has a row tile, and the tile's tokens.
template <typename S, bool kRouted>
__device__ __forceinline__ void BttResident<S, kRouted>::stage_two_sums()
    const {
  constexpr ResidentStage kStage = S::kTwo;
  const int row_tile = warp - kResidentStageWarps;
  const int epsilon = row_tile * kFragmentRows + lane / 4;
  const int with_bias =
      ptx::warp_uniform(p.bias != nullptr && member == 0 ? 1 : 0);
  constexpr int kRun = S::kGammas2 / kFragmentDepth;
  const ResidentDepth depth{
      S::kGamma * S::kRho / kFragmentDepth,
      kRun,
      S::kGamma / kFragmentDepth,
      member * kRun};
  const int receiver = row_tile / S::kSumTiles;
  const bool own = receiver == member;
  const uint32_t peer = ptx::peer_address(
      shared, static_cast<uint32_t>(part * S::kGroup + receiver));
  const uint32_t to = (own ? shared : peer) +
                      static_cast<uint32_t>(
                          S::kSum + member * S::kYBytes +
                          sum_offset(row_tile % S::kSumTiles, 0, 0, lane));

  Ring<S::kZBuffers> z(0);
  Ring<S::kSumBuffers> sum(1);
  for_spans([&](int chunk, int begin, int end, int hop) {
    const int phi = first_phi(chunk_of(chunk));
    Weights<kStage> weights;
    weights.load(
        p.weights_two + weights_of(chunk),
        phi,
        row_tile,
        S::kEpsilon / kFragmentRows,
        depth,
        lane);
    float sums[kStage.batches][4 * kResidentNTiles] = {};
#pragma unroll 1
    for (int tile = begin; tile < end; tile += hop) {
#pragma unroll 1
      for (int left = with_bias; left > 0; --left) {
#pragma unroll
        for (int n = 0; n < kStage.batches; ++n) {
#pragma unroll
          for (int i = 0; i < 4 * kResidentNTiles; ++i) {
            const int row = epsilon + i / 2 % 2 * 8;
            sums[n][i] = __bfloat162float(p.bias[row * S::kPhi + phi + n]);
          }
        }
      }
      ptx::barrier_wait(z_full(z.slot), z.phase);
      const uint64_t tokens = ptx::matrix_descriptor(
          shared + static_cast<uint32_t>(S::kZ + z.slot * S::kZBytes),
          S::kZVector,
          S::kZNTile);
      ptx::warpgroup_fence_operands(sums);
      ptx::warpgroup_fence();
#pragma unroll
      for (int n = 0; n < kStage.batches; ++n) {
#pragma unroll
        for (int step = 0; step < kStage.steps; ++step) {
          ptx::warpgroup_mma(
              sums[n],
              weights.of[0][step][n],
              tokens +
                  static_cast<uint64_t>(
                      (plain_z_offset(n, 0, 0) + step * 2 * S::kZVector) / 16),
              step == 0 ? with_bias : 1);
        }
      }
      ptx::warpgroup_wait();
      ptx::warpgroup_fence_operands(sums);
      if (p.z != nullptr) {
        save_z(
            shared + static_cast<uint32_t>(S::kZ + z.slot * S::kZBytes),
            phi,
            tile,
            row_tile * 32 + lane);
      }
      ptx::barrier_arrive(z_empty(z.slot));
      ptx::barrier_wait(sum_empty(sum.slot), sum.phase);
      const auto place = static_cast<uint32_t>(sum.slot * S::kSumBytes);
      const uint32_t barrier = peer + (sum_full(sum.slot) - shared);
#pragma unroll
      for (int n_tile = 0; n_tile < kResidentNTiles; ++n_tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 4 * n_tile + i;
          ptx::store_async(
              own,
              to + place + static_cast<uint32_t>(sum_offset(0, n_tile, i, 0)),
              {ptx::round_pair(sums[0][at], sums[1][at]),
               ptx::round_pair(sums[2][at], sums[3][at]),
               ptx::round_pair(sums[4][at], sums[5][at]),
               ptx::round_pair(sums[6][at], sums[7][at])},
              barrier);
        }
      }
      ptx::barrier_arrive(sum_full(sum.slot));
      z.next();
      sum.next();
    }
  });
}

}  // namespace einforge::kernels::cuda
