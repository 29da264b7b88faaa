#include "einforge/ops/reference/btt_moe_linear.h"

#include <algorithm>

#include "einforge/ops/contraction.h"
#include "einforge/ops/moe_routing.h"
#include "einforge/ops/reference/einsum_linear.h"

namespace einforge::ops {
namespace {

using torch::Tensor;

// Elements of a run of blocks' operands and intermediates: 256 MiB in float32.
constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 26;
constexpr std::int64_t kLargestBlock = 128;

// Pairs of a token and an expert in blocks that share an expert. There are as
// many blocks as the most uneven choice could need; those that this one leaves
// over are empty.
struct Blocks {
  std::int64_t rows = 1;   // of each block
  std::int64_t count = 0;  // blocks
  Tensor expert;           // (count)
  Tensor pair;             // (count rows); T k where a row is empty
  Tensor token;            // (count rows); T - 1 where it is empty
  Tensor empty;            // (count rows, 1) bool
  Tensor gate;             // (count rows, 1); 0 where it is empty

  Blocks(const BttMoeProblem& problem, const BttMoeOperands& operands) {
    const std::int64_t tokens = problem.expert.tokens;
    const std::int64_t pairs = tokens * problem.active;
    // About half of an expert's mean share, so that filling up costs little.
    while (rows < kLargestBlock && rows * 4 * problem.experts <= pairs) {
      rows *= 2;
    }
    count = pairs / rows + std::min(problem.experts, pairs);
    const MoeDispatch dispatch =
        moe_dispatch(operands.experts, problem.experts);
    const Tensor offsets = dispatch.offsets.to(torch::kInt64);
    const Tensor block_counts =
        (offsets.diff() + (rows - 1)).floor_divide(rows);  // (E)
    const Tensor ends = block_counts.cumsum(0);            // (E)
    const Tensor block = torch::arange(count, ends.options());
    expert =
        torch::searchsorted(ends, block, /*out_int32=*/false, /*right=*/true)
            .clamp_max(problem.experts - 1);
    const Tensor in_expert =
        (block - (ends - block_counts).index_select(0, expert)) * rows;
    const Tensor place =
        (offsets.index_select(0, expert) + in_expert).unsqueeze(1) +
        torch::arange(rows, ends.options());  // (count, rows), in the order
    empty = (place >= offsets.index_select(0, expert + 1).unsqueeze(1))
                .view({-1, 1});
    pair = dispatch.order.index_select(0, place.view({-1}).clamp_max(pairs - 1))
               .to(torch::kInt64)
               .masked_fill_(empty.view({-1}), pairs);
    token = pair.floor_divide(problem.active).clamp_max_(tokens - 1);
    gate = operands.gates.view({-1})
               .index_select(0, pair.clamp_max(pairs - 1))
               .unsqueeze(1)
               .masked_fill_(empty, 0);
  }

  // Those from `begin` on, `size` of them.
  Blocks run(std::int64_t begin, std::int64_t size) const {
    Blocks result = *this;
    result.count = size;
    result.expert = expert.narrow(0, begin, size);
    for (Tensor Blocks::*rowwise :
         {&Blocks::pair, &Blocks::token, &Blocks::empty, &Blocks::gate}) {
      result.*rowwise = (this->*rowwise).narrow(0, begin * rows, size * rows);
    }
    return result;
  }

  // The tokens' rows; zeros where there is none, whatever the last token holds.
  Tensor gather(const Tensor& tokens) const {
    return tokens.index_select(0, token).masked_fill_(empty, 0);
  }
};

// What the pairs get, in their own order and in `dtype`; empty rows go to a row
// at the end.
class Pairs {
 public:
  Pairs(const BttMoeProblem& problem, std::int64_t width, const Tensor& like)
      : tokens_(problem.expert.tokens),
        active_(problem.active),
        rows_(like.new_empty({tokens_ * active_ + 1, width})) {}

  void put(const Blocks& blocks, const Tensor& rows) {
    rows_.index_copy_(0, blocks.pair, rows.to(rows_.scalar_type()));
  }

  // (T, k, width)
  Tensor by_token() const {
    return rows_.narrow(0, 0, tokens_ * active_)
        .view({tokens_, active_, rows_.size(1)});
  }

 private:
  std::int64_t tokens_;
  std::int64_t active_;
  Tensor rows_;
};

// All experts' cores as BlockCores with a block for each.
struct ExpertCores {
  Contraction c;
  BlockCores packed;  // (gamma, E, ..), (phi, E, ..)

  ExpertCores(const BttMoeProblem& problem, const BttMoeOperands& operands)
      : c(problem.expert.sizes) {
    const auto [first, second] = c.ordered(operands.core_a, operands.core_b);
    packed.first =
        first.permute({2, 0, 1, 3, 4, 5})
            .reshape({c.gamma, -1, c.first_in, c.first_out * c.phi * c.rho});
    packed.second =
        second.permute({4, 0, 1, 2, 5, 3})
            .reshape({c.phi, -1, c.second_in * c.gamma * c.rho, c.second_out});
  }

  BlockCores of(const Blocks& blocks) const {
    return {
        packed.first.index_select(1, blocks.expert),
        packed.second.index_select(1, blocks.expert)};
  }

  // Back to the shape of the operator's cores.
  Tensor unpack_first(const Tensor& first) const {
    return first.view({c.gamma, -1, c.first_in, c.first_out, c.phi, c.rho})
        .permute({1, 2, 0, 3, 4, 5});
  }
  Tensor unpack_second(const Tensor& second) const {
    return second.view({c.phi, -1, c.second_in, c.gamma, c.rho, c.second_out})
        .permute({1, 2, 3, 5, 0, 4});
  }
};

// Calls work(blocks) for runs of blocks, each small enough for the memory.
template <typename Work>
void for_each_run(const Blocks& all, const Contraction& c, Work work) {
  const std::int64_t z = c.second_in * c.gamma * c.first_out * c.phi * c.rho;
  const std::int64_t elements =
      all.rows * (2 * c.d_in() + 2 * c.d_out() + 2 * z) +
      z / c.second_in * c.first_in + z / c.first_out * c.second_out;
  const std::int64_t size =
      std::max<std::int64_t>(1, kElementsAtOnce / elements);
  for (std::int64_t begin = 0; begin < all.count; begin += size) {
    work(all.run(begin, std::min(size, all.count - begin)));
  }
}

bool supports(const BttMoeProblem&) {
  return true;
}

Tensor forward(const BttMoeProblem& problem, const BttMoeOperands& operands) {
  const ExpertCores cores(problem, operands);
  const Blocks all(problem, operands);
  Pairs y(problem, cores.c.d_out(), operands.x);
  for_each_run(all, cores.c, [&](const Blocks& blocks) {
    y.put(
        blocks,
        blocks_forward(cores.c, blocks.gather(operands.x), cores.of(blocks)) *
            blocks.gate);
  });
  return y.by_token().sum(1);
}

// With M the expert's matrix, g its gate: y = g M x, so dx = g M^T dy,
// dg = (M^T dy) . x, and the gradients of the cores are those for x scaled by
// g and dy.
BttMoeGradients backward(
    const BttMoeProblem& problem,
    const Tensor& grad,
    const BttMoeOperands& operands,
    const GradientMask& mask) {
  const ExpertCores cores(problem, operands);
  const Contraction& c = cores.c;
  const Blocks all(problem, operands);
  const Tensor& x = operands.x;
  const auto [first_asked, second_asked] = c.ordered(mask[1], mask[2]);
  Pairs grad_x(problem, mask[0] ? c.d_in() : 0, x);
  Pairs grad_gates(problem, mask[3] ? 1 : 0, operands.gates);
  const auto sum_of = [&](bool asked, const Tensor& packed) {
    return asked ? torch::zeros(packed.sizes(), operands.gates.options())
                 : Tensor();
  };
  BlockCores sums{
      sum_of(first_asked, cores.packed.first),
      sum_of(second_asked, cores.packed.second)};
  for_each_run(all, c, [&](const Blocks& blocks) {
    const Tensor rows = blocks.gather(x);
    const auto [unscaled, core_grads] = blocks_backward(
        c,
        blocks.gather(grad),
        (rows * blocks.gate).to(x.scalar_type()),
        cores.of(blocks),
        mask[0] || mask[3],
        first_asked,
        second_asked);
    if (mask[0]) {
      grad_x.put(blocks, unscaled * blocks.gate);
    }
    if (mask[3]) {
      grad_gates.put(
          blocks,
          (unscaled.to(operands.gates.scalar_type()) * rows)
              .sum(1, /*keepdim=*/true));
    }
    // Blocks of an expert are summed by a matmul, whose order is fixed.
    const Tensor membership =
        (torch::arange(problem.experts, blocks.expert.options()).unsqueeze(1) ==
         blocks.expert)
            .to(operands.gates.scalar_type());  // (E, blocks)
    const auto add = [&](const Tensor& sum, const Tensor& part) {
      sum.flatten(2).add_(
          torch::matmul(membership, part.flatten(2).to(sum.scalar_type())));
    };
    if (first_asked) {
      add(sums.first, core_grads.first);
    }
    if (second_asked) {
      add(sums.second, core_grads.second);
    }
  });
  const Tensor first = first_asked
                           ? cores.unpack_first(sums.first.to(x.scalar_type()))
                           : Tensor();
  const Tensor second =
      second_asked ? cores.unpack_second(sums.second.to(x.scalar_type()))
                   : Tensor();
  const auto [grad_a, grad_b] = c.ordered(first, second);
  return {
      .x = mask[0] ? grad_x.by_token().sum(1) : Tensor(),
      .core_a = grad_a,
      .core_b = grad_b,
      .gates = mask[3] ? grad_gates.by_token().squeeze(2) : Tensor()};
}

}  // namespace

BttMoeKernel moe_bmm_kernel() {
  return {"bmm", supports, forward, backward};
}

}  // namespace einforge::ops
