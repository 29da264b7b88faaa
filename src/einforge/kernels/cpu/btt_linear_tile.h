// The kernels of btt_linear.h for one instruction set; see vector_tile.h for
// how it is included.
#pragma once

#include "einforge/kernels/cpu/btt_linear_isa.h"
#include "einforge/kernels/cpu/vector_tile.h"

namespace einforge::kernels::cpu {
namespace {

// rows[c] is feature c's offset in a tile of (minor, major, tile), c being
// (major, minor) in memory.
void fill_offsets(
    std::int32_t* offsets,
    Index features,
    Index minor,
    Index minor_stride,
    Index tile) {
  for (Index c = 0; c < features; ++c) {
    offsets[c] =
        static_cast<std::int32_t>(c % minor * minor_stride + c / minor * tile);
  }
}

// (tokens, features) in memory -> a row of `tile` tokens for each feature; the
// tokens that are missing become zeros.
void load_tile(
    const float* from,
    Index stride,
    Index features,
    Index tokens,
    Index tile,
    const std::int32_t* offsets,
    float* to) {
  for (Index t = 0; t < tile; t += kWidth) {
    for (Index c = 0; c < features; c += kWidth) {
      const Index width = features - c < kWidth ? features - c : kWidth;
      Vec rows[kWidth];
      const float* row = from + t * stride + c;
      if (t + kWidth <= tokens && width == kWidth) {
#pragma GCC unroll 16
        for (int i = 0; i < kWidth; ++i) {
          rows[i] = load(row + i * stride);
        }
      } else {
        for (int i = 0; i < kWidth; ++i) {
          rows[i] = t + i < tokens ? load_some(row + i * stride, width) : Vec{};
        }
      }
      transpose(rows);
      for (Index i = 0; i < width; ++i) {
        store(to + offsets[c + i] + t, rows[i]);
      }
    }
  }
}

// The way back for `features` features that lie together in memory.
void store_tile(
    const float* from,
    const std::int32_t* offsets,
    const float* bias,
    Index features,
    Index tokens,
    Index tile,
    Index stride,
    float* to) {
  for (Index t = 0; t < tile && t < tokens; t += kWidth) {
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
      float* row = to + t * stride + c;
      if (width == kWidth) {
        const Vec add = bias != nullptr ? load(bias + c) : Vec{};
        for (Index i = 0; i < height; ++i) {
          store(row + i * stride, rows[i] + add);
        }
      } else {
        const Vec add = bias != nullptr ? load_some(bias + c, width) : Vec{};
        for (Index i = 0; i < height; ++i) {
          store_some(row + i * stride, rows[i] + add, width);
        }
      }
    }
  }
}

// rows x `tile` -> (tile, columns), columns being rows rounded up to whole
// vectors with zeros.
void transpose_rows(
    const float* from, Index rows, Index tile, Index columns, float* to) {
  for (Index n = 0; n < columns; n += kWidth) {
    for (Index t = 0; t < tile; t += kWidth) {
      Vec block[kWidth];
      for (Index i = 0; i < kWidth; ++i) {
        block[i] = n + i < rows ? load(from + (n + i) * tile + t) : Vec{};
      }
      transpose(block);
      for (Index i = 0; i < kWidth; ++i) {
        store(to + (t + i) * columns + n, block[i]);
      }
    }
  }
}

Index round_to_vectors(Index count) {
  return (count + kWidth - 1) / kWidth * kWidth;
}

// What the passes share: the layout, and the tile at hand.
struct Tile {
  const BttShape& s;
  BttLayout l;
  float* memory;
  Index tile;    // tokens of the tile, padding included
  Index tokens;  // of them, real ones

  float* at(Index offset) const { return memory + offset; }
  std::int32_t* offsets(Index offset) const {
    return reinterpret_cast<std::int32_t*>(memory + offset);
  }
};

// z of the group of phi from f0: (group, gamma rho, tile).
void first_stage(const Tile& k, const float* first, Index f0, Index group) {
  const BttShape& s = k.s;
  const Index columns = s.phi * s.rho;
  for (Index g = 0; g < s.gamma; ++g) {
    product<false, false>(
        group * s.rho,
        s.in,
        k.tile,
        first + g * s.in * columns + f0 * s.rho,
        columns,
        k.at(k.l.x) + g * k.l.x_stride,
        k.tile,
        k.at(k.l.z) + g * s.rho * k.tile,
        {k.tile, s.rho, k.l.z_stride});
  }
}

// A worker's tokens, cut into tiles: calls each(first token, tokens, padded).
template <typename Each>
void for_each_tile(
    Index tokens, const BttTiling& tiling, Index worker, Each each) {
  const Index tile = tiling.tile;
  const Index workers = tiling.workers;
  const Index tiles = (tokens + tile - 1) / tile;
  for (Index i = tiles * worker / workers; i < tiles * (worker + 1) / workers;
       ++i) {
    const Index begin = i * tile;
    const Index real = tokens - begin < tile ? tokens - begin : tile;
    each(begin, real, round_to_vectors(real));
  }
}

void forward(const BttForward& args, Index worker, float* workspace) {
  const BttShape& s = args.shape;
  const BttLayout l = layout_of(
      s, args.tiling.tile, args.tiling.phi_group, BttPass::kForward, kWidth);
  Tile k{s, l, workspace, 0, 0};
  Index last_tile = 0;
  for_each_tile(
      s.tokens,
      args.tiling,
      worker,
      [&](Index begin, Index tokens, Index tile) {
        k.tile = tile;
        k.tokens = tokens;
        if (tile != last_tile) {
          fill_offsets(
              k.offsets(l.x_offsets), s.d_in(), s.gamma, l.x_stride, tile);
          fill_offsets(
              k.offsets(l.y_offsets), s.d_out(), s.phi, l.y_stride, tile);
          last_tile = tile;
        }
        load_tile(
            args.x + begin * s.d_in(),
            s.d_in(),
            s.d_in(),
            tokens,
            tile,
            k.offsets(l.x_offsets),
            k.at(l.x));
        for (Index f0 = 0; f0 < s.phi; f0 += args.tiling.phi_group) {
          const Index group = s.phi - f0 < args.tiling.phi_group
                                  ? s.phi - f0
                                  : args.tiling.phi_group;
          first_stage(k, args.first, f0, group);
          for (Index f = 0; f < group; ++f) {
            product<false, false>(
                s.out,
                s.gamma * s.rho,
                tile,
                args.second + (f0 + f) * s.gamma * s.rho * s.out,
                s.out,
                k.at(l.z) + f * l.z_stride,
                tile,
                k.at(l.y) + f * l.y_stride,
                {tile, s.out, 0});
          }
          // Features (v, f0 .. f0 + group) lie together: one run, if the group
          // is all of phi, else one for each v.
          const bool whole = group == s.phi;
          const Index runs = whole ? 1 : s.out;
          for (Index run = 0; run < runs; ++run) {
            const Index c = run * s.phi + f0;
            store_tile(
                k.at(l.y) - f0 * l.y_stride,
                k.offsets(l.y_offsets) + c,
                args.bias == nullptr ? nullptr : args.bias + c,
                whole ? s.d_out() : group,
                tokens,
                tile,
                s.d_out(),
                args.y + begin * s.d_out() + c);
          }
        }
      });
}

// The gradient of z for the group: (gamma, group rho, tile).
void second_stage_backward(
    const Tile& k, const float* second, Index f0, Index group) {
  const BttShape& s = k.s;
  for (Index f = 0; f < group; ++f) {
    product<true, false>(
        s.gamma * s.rho,
        s.out,
        k.tile,
        second + (f0 + f) * s.gamma * s.rho * s.out,
        s.out,
        k.at(k.l.y) + (f0 + f) * k.l.y_stride,
        k.tile,
        k.at(k.l.dz) + f * s.rho * k.tile,
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
  const float* x = k.at(k.l.transposed);
  if (add) {
    product<true, true>(
        rows,
        k.tile,
        columns,
        w,
        k.tile,
        x,
        columns,
        result,
        {stride, rows, 0});
  } else {
    product<true, false>(
        rows,
        k.tile,
        columns,
        w,
        k.tile,
        x,
        columns,
        result,
        {stride, rows, 0});
  }
}

void second_gradient(const Tile& k, bool add, Index f0, Index group) {
  const BttShape& s = k.s;
  const Index depth = s.gamma * s.rho;
  for (Index f = 0; f < group; ++f) {
    transpose_rows(
        k.at(k.l.y) + (f0 + f) * k.l.y_stride,
        s.out,
        k.tile,
        k.l.second_columns,
        k.at(k.l.transposed));
    weight_gradient(
        k,
        add,
        depth,
        k.at(k.l.z) + f * k.l.z_stride,
        k.l.second_columns,
        k.at(k.l.second) + (f0 + f) * depth * k.l.second_columns,
        k.l.second_columns);
  }
}

void first_gradient(const Tile& k, bool add, Index f0, Index group) {
  const BttShape& s = k.s;
  const Index columns = round_to_vectors(group * s.rho);
  for (Index g = 0; g < s.gamma; ++g) {
    transpose_rows(
        k.at(k.l.dz) + g * k.l.dz_stride,
        group * s.rho,
        k.tile,
        columns,
        k.at(k.l.transposed));
    weight_gradient(
        k,
        add,
        s.in,
        k.at(k.l.x) + g * k.l.x_stride,
        columns,
        k.at(k.l.first) + g * s.in * k.l.first_columns + f0 * s.rho,
        k.l.first_columns);
  }
}

void input_gradient(const Tile& k, const float* first, Index f0, Index group) {
  const BttShape& s = k.s;
  const Index columns = s.phi * s.rho;
  for (Index g = 0; g < s.gamma; ++g) {
    const auto run = f0 == 0 ? product<true, false> : product<true, true>;
    run(s.in,
        group * s.rho,
        k.tile,
        first + g * s.in * columns + f0 * s.rho,
        columns,
        k.at(k.l.dz) + g * k.l.dz_stride,
        k.tile,
        k.at(k.l.dx) + g * k.l.x_stride,
        {k.tile, s.in, 0});
  }
}

void bias_gradient(
    const float* grad, Index features, Index tokens, bool add, float* result) {
  Index c = 0;
  for (; c + kWidth <= features; c += kWidth) {
    Vec sum = add ? load(result + c) : Vec{};
    for (Index t = 0; t < tokens; ++t) {
      sum += load(grad + t * features + c);
    }
    store(result + c, sum);
  }
  for (; c < features; ++c) {
    float sum = add ? result[c] : 0;
    for (Index t = 0; t < tokens; ++t) {
      sum += grad[t * features + c];
    }
    result[c] = sum;
  }
}

void backward(const BttBackward& args, Index worker, float* workspace) {
  const BttShape& s = args.shape;
  const BttLayout l = layout_of(
      s, args.tiling.tile, args.tiling.phi_group, BttPass::kBackward, kWidth);
  Tile k{s, l, workspace, 0, 0};
  Index last_tile = 0;
  bool add = false;
  for_each_tile(
      s.tokens,
      args.tiling,
      worker,
      [&](Index begin, Index tokens, Index tile) {
        k.tile = tile;
        k.tokens = tokens;
        if (tile != last_tile) {
          fill_offsets(
              k.offsets(l.x_offsets), s.d_in(), s.gamma, l.x_stride, tile);
          fill_offsets(
              k.offsets(l.y_offsets), s.d_out(), s.phi, l.y_stride, tile);
          last_tile = tile;
        }
        const bool needs_x =
            args.grad_first != nullptr || args.grad_second != nullptr;
        const bool needs_dz =
            args.grad_x != nullptr || args.grad_first != nullptr;
        const float* grad = args.grad + begin * s.d_out();
        load_tile(
            grad,
            s.d_out(),
            s.d_out(),
            tokens,
            tile,
            k.offsets(l.y_offsets),
            k.at(l.y));
        if (args.grad_bias != nullptr) {
          bias_gradient(grad, s.d_out(), tokens, add, k.at(l.bias));
        }
        if (needs_x) {
          load_tile(
              args.x + begin * s.d_in(),
              s.d_in(),
              s.d_in(),
              tokens,
              tile,
              k.offsets(l.x_offsets),
              k.at(l.x));
        }
        for (Index f0 = 0; f0 < s.phi; f0 += args.tiling.phi_group) {
          const Index group = s.phi - f0 < args.tiling.phi_group
                                  ? s.phi - f0
                                  : args.tiling.phi_group;
          if (args.grad_second != nullptr) {
            first_stage(k, args.first, f0, group);
            second_gradient(k, add, f0, group);
          }
          if (needs_dz) {
            second_stage_backward(k, args.second, f0, group);
          }
          if (args.grad_first != nullptr) {
            first_gradient(k, add, f0, group);
          }
          if (args.grad_x != nullptr) {
            input_gradient(k, args.first, f0, group);
          }
        }
        if (args.grad_x != nullptr) {
          store_tile(
              k.at(l.dx),
              k.offsets(l.x_offsets),
              nullptr,
              s.d_in(),
              tokens,
              tile,
              s.d_in(),
              args.grad_x + begin * s.d_in());
        }
        add = true;
      });
}

}  // namespace
}  // namespace einforge::kernels::cpu
