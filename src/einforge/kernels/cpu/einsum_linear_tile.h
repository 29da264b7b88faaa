// The kernels of einsum_linear.h for one instruction set; see vector_tile.h for
// how it is included.
#pragma once

#include "einforge/kernels/cpu/einsum_linear_isa.h"
#include "einforge/kernels/cpu/vector_tile.h"

namespace einforge::kernels::cpu {
namespace {

// offsets[c] is feature c's offset in a tile of ((p, m), q, tile), c being
// (p, q, m) in memory.
void fill_offsets(
    std::int32_t* offsets,
    Index p,
    Index q,
    Index m,
    Index stride,
    Index tile) {
  for (Index c = 0; c < p * q * m; ++c) {
    const Index row = c / (q * m) * m + c % m;
    offsets[c] = static_cast<std::int32_t>(row * stride + c / m % q * tile);
  }
}

// Where a tile's tokens lie in memory.
struct TileRows {
  const EinsumRows& rows;  // of all tokens
  Index begin;             // the tile's first token
  Index stride;            // floats from a row to the next

  Index operator()(Index token) const {
    const Index t = begin + token;
    return (rows.numbers == nullptr ? t : rows.numbers[t]) * stride;
  }
  bool is_scaled() const { return rows.scale != nullptr; }
  float scale(Index token) const { return rows.scale[begin + token]; }
  bool adds(Index token) const { return rows.adds[begin + token] != 0; }
};

// (tokens, features) in memory -> a row of `tile` tokens for each feature; the
// tokens that are missing become zeros.
void load_tile(
    const float* from,
    const TileRows& at,
    Index features,
    Index tokens,
    Index tile,
    const std::int32_t* offsets,
    float* to) {
  for (Index t = 0; t < tile; t += kWidth) {
    const float* row[kWidth];
    for (Index i = 0; i < kWidth; ++i) {
      row[i] = from + (t + i < tokens ? at(t + i) : 0);
    }
    for (Index c = 0; c < features; c += kWidth) {
      const Index width = features - c < kWidth ? features - c : kWidth;
      Vec rows[kWidth];
      if (t + kWidth <= tokens && width == kWidth) {
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) {
          rows[i] = load(row[i] + c);
        }
      } else {
        for (int i = 0; i < kWidth; ++i) {
          rows[i] = t + i < tokens ? load_some(row[i] + c, width) : Vec{};
        }
      }
      transpose(rows);
      for (Index i = 0; i < width; ++i) {
        store(to + offsets[c + i] + t, rows[i]);
      }
    }
  }
}

// The way back for `features` features that lie together in memory: each row
// plus `bias` or, with kScaled, times its scale plus what is there or `bias`.
template <bool kScaled>
void store_tile(
    const float* from,
    const std::int32_t* offsets,
    const float* bias,
    Index features,
    Index tokens,
    Index tile,
    const TileRows& at,
    float* to) {
  for (Index t = 0; t < tile && t < tokens; t += kWidth) {
    float* row[kWidth] = {};
    const float* base[kWidth] = {};
    float scale[kWidth] = {};
    for (Index i = 0; i < kWidth && t + i < tokens; ++i) {
      row[i] = to + at(t + i);
      base[i] = bias;
      if constexpr (kScaled) {
        base[i] = at.adds(t + i) ? row[i] : bias;
        scale[i] = at.scale(t + i);
      }
    }
    for (Index c = 0; c < features; c += kWidth) {
      const Index width = features - c < kWidth ? features - c : kWidth;
      const Index height = tokens - t < kWidth ? tokens - t : kWidth;
      Vec rows[kWidth];
      for (Index i = 0; i < width; ++i) {
        rows[i] = load(from + offsets[c + i] + t);
      }
      for (Index i = width; i < kWidth; ++i) {
        rows[i] = Vec{};
      }
      transpose(rows);
      for (Index i = 0; i < height; ++i) {
        Vec sum = rows[i];
        if constexpr (kScaled) {
          sum *= scale[i];
        }
        if (width == kWidth) {
          if (base[i] != nullptr) {
            sum += load(base[i] + c);
          }
          store(row[i] + c, sum);
        } else {
          if (base[i] != nullptr) {
            sum += load_some(base[i] + c, width);
          }
          store_some(row[i] + c, sum, width);
        }
      }
    }
  }
}

// rows x `tile` -> (tile, columns), columns being rows rounded up to whole
// vectors with zeros; with kScaled each token times its scale.
template <bool kScaled>
void transpose_rows(
    const float* from,
    const TileRows& at,
    Index rows,
    Index tokens,
    Index tile,
    Index columns,
    float* to) {
  for (Index t = 0; t < tile; t += kWidth) {
    float scale[kWidth] = {};
    for (Index i = 0; kScaled && i < kWidth && t + i < tokens; ++i) {
      scale[i] = at.scale(t + i);
    }
    for (Index n = 0; n < columns; n += kWidth) {
      Vec block[kWidth];
      for (Index i = 0; i < kWidth; ++i) {
        block[i] = n + i < rows ? load(from + (n + i) * tile + t) : Vec{};
      }
      transpose(block);
      for (Index i = 0; i < kWidth; ++i) {
        store(
            to + (t + i) * columns + n,
            kScaled ? scale[i] * block[i] : block[i]);
      }
    }
  }
}

Index round_to_vectors(Index count) {
  return (count + kWidth - 1) / kWidth * kWidth;
}

// What the passes share: the layout, and the tile at hand.
struct Tile {
  const EinsumShape& s;
  EinsumLayout l;
  float* memory;
  Index tile;    // tokens of the tile, padding included
  Index tokens;  // of them, real ones

  float* at(Index offset) const { return memory + offset; }
  std::int32_t* offsets(Index offset) const {
    return reinterpret_cast<std::int32_t*>(memory + offset);
  }
};

void fill_offsets(const Tile& k) {
  const EinsumShape& s = k.s;
  std::int32_t* x = k.offsets(k.l.x_offsets);
  std::int32_t* y = k.offsets(k.l.y_offsets);
  if (s.ab) {
    fill_offsets(x, 1, s.first_in, s.first_count(), k.l.x_stride, k.tile);
    fill_offsets(y, s.first_out, s.second_out, s.phi, k.l.y_stride, k.tile);
  } else {
    fill_offsets(x, s.second_in, s.first_in, s.gamma, k.l.x_stride, k.tile);
    fill_offsets(y, 1, s.second_out, s.second_count(), k.l.y_stride, k.tile);
  }
}

// Calls each(first, count) for all groups of pairs (u, f); none straddles two
// u unless it holds all f of them (order AB).
template <typename Each>
void for_each_group(const EinsumShape& s, Index largest, Each each) {
  const Index all = s.second_count();
  const Index together = s.ab ? s.phi : all;
  for (Index first = 0; first < all;) {
    const Index left =
        largest >= together ? all - first : together - first % together;
    const Index count = left < largest ? left : largest;
    each(first, count);
    first += count;
  }
}

// The matrix of first that pair sg uses, from the columns of pair f0 on.
const float* first_matrix(
    const EinsumShape& s, const float* first, Index sg, Index f0) {
  return first + sg % s.gamma * s.first_in * s.first_columns() + f0 * s.rho;
}

// The matrix of second that pair uf uses.
const float* second_matrix(
    const EinsumShape& s, const float* second, Index uf) {
  return second + uf % s.phi * s.second_depth() * s.second_out;
}

// z of the group from pair f0: (group, (s, g, r), tile).
void first_stage(const Tile& k, const float* first, Index f0, Index group) {
  const EinsumShape& s = k.s;
  for (Index sg = 0; sg < s.first_count(); ++sg) {
    product<false, false>(
        group * s.rho,
        s.first_in,
        k.tile,
        first_matrix(s, first, sg, f0),
        s.first_columns(),
        k.at(k.l.x) + sg * k.l.x_stride,
        k.tile,
        k.at(k.l.z) + sg * s.rho * k.tile,
        {k.tile, s.rho, k.l.z_stride});
  }
}

// The group's part of y, as (group, v, tile).
void second_stage(const Tile& k, const float* second, Index f0, Index group) {
  const EinsumShape& s = k.s;
  for (Index uf = 0; uf < group; ++uf) {
    product<false, false>(
        s.second_out,
        s.second_depth(),
        k.tile,
        second_matrix(s, second, f0 + uf),
        s.second_out,
        k.at(k.l.z) + uf * k.l.z_stride,
        k.tile,
        k.at(k.l.y) + uf * k.l.y_stride,
        {k.tile, s.second_out, 0});
  }
}

// The group's part of y to memory: one run of features if it holds whole u,
// else one for each v.
void store_group(
    const Tile& k,
    const float* bias,
    Index f0,
    Index group,
    const TileRows& at,
    float* y) {
  const EinsumShape& s = k.s;
  const Index together = s.ab ? s.phi : s.second_count();
  const bool whole = group % together == 0;
  const Index first = f0 / together * together * s.second_out + f0 % together;
  const Index runs = whole ? 1 : s.second_out;
  for (Index run = 0; run < runs; ++run) {
    const Index c = first + run * together;
    const auto store = at.is_scaled() ? store_tile<true> : store_tile<false>;
    store(
        k.at(k.l.y) - f0 * k.l.y_stride,
        k.offsets(k.l.y_offsets) + c,
        bias == nullptr ? nullptr : bias + c,
        whole ? group * s.second_out : group,
        k.tokens,
        k.tile,
        at,
        y + c);
  }
}

// A worker's tokens, whole vectors of them as equal as can be, cut into tiles:
// calls each(first token).
template <typename Each>
void for_each_tile(
    Tile& k, const EinsumTiling& tiling, Index worker, Each each) {
  const Index vectors = (k.s.tokens + kWidth - 1) / kWidth;
  const Index share = vectors * (worker + 1) / tiling.workers * kWidth;
  const Index end = share < k.s.tokens ? share : k.s.tokens;
  for (Index begin = vectors * worker / tiling.workers * kWidth; begin < end;
       begin += tiling.tile) {
    const Index left = end - begin;
    k.tokens = left < tiling.tile ? left : tiling.tile;
    const Index tile = round_to_vectors(k.tokens);
    if (tile != k.tile) {
      k.tile = tile;
      fill_offsets(k);
    }
    each(begin);
  }
}

void forward(const EinsumForward& args, Index worker, float* workspace) {
  const EinsumShape& s = args.shape;
  const EinsumTiling& tiling = args.tiling;
  const EinsumLayout l =
      layout_of(s, tiling.tile, tiling.group, EinsumPass::kForward, kWidth);
  Tile k{s, l, workspace, 0, 0};
  for_each_tile(k, tiling, worker, [&](Index begin) {
    load_tile(
        args.x,
        {args.rows, begin, s.d_in()},
        s.d_in(),
        k.tokens,
        k.tile,
        k.offsets(l.x_offsets),
        k.at(l.x));
    const TileRows y_rows{args.rows, begin, s.d_out()};
    for_each_group(s, tiling.group, [&](Index f0, Index group) {
      first_stage(k, args.first, f0, group);
      second_stage(k, args.second, f0, group);
      store_group(k, args.bias, f0, group, y_rows, args.y);
    });
  });
}

// The gradient of z for the group: ((s, g), group rho, tile).
void second_stage_backward(
    const Tile& k, const float* second, Index f0, Index group) {
  const EinsumShape& s = k.s;
  for (Index uf = 0; uf < group; ++uf) {
    product<true, false>(
        s.second_depth(),
        s.second_out,
        k.tile,
        second_matrix(s, second, f0 + uf),
        s.second_out,
        k.at(k.l.y) + (f0 + uf) * k.l.y_stride,
        k.tile,
        k.at(k.l.dz) + uf * s.rho * k.tile,
        {k.tile, s.rho, k.l.dz_stride});
  }
}

// (+)= a product over tokens: rows of w times `transposed`.
void weight_gradient(
    const Tile& k,
    bool add,
    Index rows,
    const float* w,
    Index columns,
    float* result,
    Index stride) {
  const auto run = add ? product<true, true> : product<true, false>;
  run(rows,
      k.tile,
      columns,
      w,
      k.tile,
      k.at(k.l.transposed),
      columns,
      result,
      {stride, rows, 0});
}

// `add`: an earlier tile has written the sums. The pairs (u, f) of the same f
// share a matrix; those after u = 0 add to it.
void second_gradient(
    const Tile& k, const TileRows& at, bool add, Index f0, Index group) {
  const EinsumShape& s = k.s;
  const Index stride = k.l.second_stride;
  for (Index uf = 0; uf < group; ++uf) {
    const auto transposed =
        at.is_scaled() ? transpose_rows<true> : transpose_rows<false>;
    transposed(
        k.at(k.l.y) + (f0 + uf) * k.l.y_stride,
        at,
        s.second_out,
        k.tokens,
        k.tile,
        stride,
        k.at(k.l.transposed));
    weight_gradient(
        k,
        add || f0 + uf >= s.phi,
        s.second_depth(),
        k.at(k.l.z) + uf * k.l.z_stride,
        stride,
        k.at(k.l.second) + (f0 + uf) % s.phi * s.second_depth() * stride,
        stride);
  }
}

// As second_gradient, for the pairs (s, g).
void first_gradient(
    const Tile& k, const TileRows& at, bool add, Index f0, Index group) {
  const EinsumShape& s = k.s;
  const Index stride = k.l.first_stride;
  const Index columns = round_to_vectors(group * s.rho);
  for (Index sg = 0; sg < s.first_count(); ++sg) {
    const auto transposed =
        at.is_scaled() ? transpose_rows<true> : transpose_rows<false>;
    transposed(
        k.at(k.l.dz) + sg * k.l.dz_stride,
        at,
        group * s.rho,
        k.tokens,
        k.tile,
        columns,
        k.at(k.l.transposed));
    weight_gradient(
        k,
        add || sg >= s.gamma,
        s.first_in,
        k.at(k.l.x) + sg * k.l.x_stride,
        columns,
        k.at(k.l.first) + sg % s.gamma * s.first_in * stride + f0 * s.rho,
        stride);
  }
}

void input_gradient(const Tile& k, const float* first, Index f0, Index group) {
  const EinsumShape& s = k.s;
  const auto run = f0 == 0 ? product<true, false> : product<true, true>;
  for (Index sg = 0; sg < s.first_count(); ++sg) {
    run(s.first_in,
        group * s.rho,
        k.tile,
        first_matrix(s, first, sg, f0),
        s.first_columns(),
        k.at(k.l.dz) + sg * k.l.dz_stride,
        k.tile,
        k.at(k.l.dx) + sg * k.l.x_stride,
        {k.tile, s.first_in, 0});
  }
}

// The gradient of each token's scale: x . dx before it is scaled.
void scale_gradient(const Tile& k, float* result) {
  const EinsumShape& s = k.s;
  for (Index t = 0; t < k.tokens; t += kWidth) {
    Vec sum{};
    for (Index sg = 0; sg < s.first_count(); ++sg) {
      const float* x = k.at(k.l.x) + sg * k.l.x_stride + t;
      const float* dx = k.at(k.l.dx) + sg * k.l.x_stride + t;
      Vec part{};
      for (Index i = 0; i < s.first_in; ++i) {
        part += load(x + i * k.tile) * load(dx + i * k.tile);
      }
      sum += part;
    }
    const Index left = k.tokens - t;
    store_some(result + t, sum, left < kWidth ? left : kWidth);
  }
}

void bias_gradient(
    const float* grad,
    const TileRows& at,
    Index features,
    Index tokens,
    bool add,
    float* result) {
  Index c = 0;
  for (; c + kWidth <= features; c += kWidth) {
    Vec sum = add ? load(result + c) : Vec{};
    for (Index t = 0; t < tokens; ++t) {
      sum += load(grad + at(t) + c);
    }
    store(result + c, sum);
  }
  for (; c < features; ++c) {
    float sum = add ? result[c] : 0;
    for (Index t = 0; t < tokens; ++t) {
      sum += grad[at(t) + c];
    }
    result[c] = sum;
  }
}

void backward(const EinsumBackward& args, Index worker, float* workspace) {
  const EinsumShape& s = args.shape;
  const EinsumTiling& tiling = args.tiling;
  const EinsumLayout l =
      layout_of(s, tiling.tile, tiling.group, EinsumPass::kBackward, kWidth);
  const bool needs_z = args.grad_second != nullptr;
  const bool needs_dx = args.grad_x != nullptr || args.grad_scale != nullptr;
  const bool needs_dz = needs_dx || args.grad_first != nullptr;
  Tile k{s, l, workspace, 0, 0};
  bool add = false;
  for_each_tile(k, tiling, worker, [&](Index begin) {
    const TileRows grad_rows{args.rows, begin, s.d_out()};
    const TileRows x_rows{args.rows, begin, s.d_in()};
    load_tile(
        args.grad,
        grad_rows,
        s.d_out(),
        k.tokens,
        k.tile,
        k.offsets(l.y_offsets),
        k.at(l.y));
    if (args.grad_bias != nullptr) {
      bias_gradient(
          args.grad, grad_rows, s.d_out(), k.tokens, add, k.at(l.bias));
    }
    if (needs_z || args.grad_first != nullptr || args.grad_scale != nullptr) {
      load_tile(
          args.x,
          x_rows,
          s.d_in(),
          k.tokens,
          k.tile,
          k.offsets(l.x_offsets),
          k.at(l.x));
    }
    for_each_group(s, tiling.group, [&](Index f0, Index group) {
      if (needs_z) {
        first_stage(k, args.first, f0, group);
        second_gradient(k, grad_rows, add, f0, group);
      }
      if (needs_dz) {
        second_stage_backward(k, args.second, f0, group);
      }
      if (args.grad_first != nullptr) {
        first_gradient(k, grad_rows, add, f0, group);
      }
      if (needs_dx) {
        input_gradient(k, args.first, f0, group);
      }
    });
    if (args.grad_scale != nullptr) {
      scale_gradient(k, args.grad_scale + begin);
    }
    if (args.grad_x != nullptr) {
      const auto store =
          x_rows.is_scaled() ? store_tile<true> : store_tile<false>;
      store(
          k.at(l.dx),
          k.offsets(l.x_offsets),
          nullptr,
          s.d_in(),
          k.tokens,
          k.tile,
          x_rows,
          args.grad_x);
    }
    add = true;
  });
}

}  // namespace
}  // namespace einforge::kernels::cpu
