#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/base/random.h"
#include "einforge/structure/theta.h"

namespace einforge::structure {

// Of `experts` layers of one structure a router picks `active` for each token.
struct Mixture {
  std::int64_t experts = 1;
  std::int64_t active = 1;
  bool operator==(const Mixture&) const = default;
};

// A structure before it meets a width: a name, and what theta it stands for.
struct Spec {
  std::string text;    // as written, normalised: "btt:0.25"
  std::string family;  // "btt"; the name before the colon
  Theta theta;         // of one expert where there are several
  // Dense is built as one matrix, not as a core and an identity.
  bool dense = false;
  std::optional<Mixture> mixture;
  // n_rho itself, whatever the width, in place of theta.rho, which is 0 then.
  std::optional<std::int64_t> rank;
  // n_rho = min(d_in, d_out) / experts, rounded up; theta.rho is 1 then.
  bool shared_rank = false;
  // Rounds a width without a near factorisation up to one that has one.
  bool pad = false;
  bool operator==(const Spec&) const = default;
};

// "dense", "low_rank:R", "kronecker", "tensor_train:R", "monarch", "btt:R",
// "theta:a,b,g,d,e,f,r"; R the rank exponent, defaulted where left out; the
// split may be given too: "btt:0.25,alpha=0.33,epsilon=0.67" (see
// docs/structures.md). Mixtures of experts: "btt_moe:E=16,k=2",
// "low_rank_moe:", "dense_moe:" and "ffn_moe:" (dense experts, for both
// matrices of a feed-forward network at once; see docs/moe.md).
// A last parameter "pad" sets pad: "monarch:pad", "btt:0.25,pad".
// Throws base::InvalidInput for an unknown name, with the nearest known one,
// or for parameters that make no valid theta.
Spec parse(std::string_view text);

// The names that parse() knows.
std::vector<std::string> families();

// The spec of a point, under the name of the family that it belongs to:
// (1/2,0,1/2, 0,1/2,1/2, 0) is monarch. Never dense, whose one matrix is no
// pair of cores. As in parse(), 0.33 and 0.67 mean thirds. Throws
// base::InvalidInput for an invalid theta.
Spec to_spec(const Theta& theta);

struct FactorOptions {
  // Among factorisations about equally near, prefer sizes that are multiples
  // of this; hardware likes 8 and 16.
  std::int64_t preferred_multiple = 8;
  // The largest allowed |log(size / d^t)| / log(d) of any size. Just above
  // 1/6, so that 8 = 2 x 4 passes for a square.
  double tolerance = 0.17;
};

// A structure at a width: exact integer sizes, no feature dropped or padded
// but where the spec says so. Then sizes.d_in() and sizes.d_out() may be more
// than d_in and d_out: zero features join the input, and the last features of
// the output are dropped.
struct Structure {
  Spec spec;
  std::int64_t d_in = 0;
  std::int64_t d_out = 0;
  Sizes sizes;  // of one expert where there are several
  bool dense = false;
  bool operator==(const Structure&) const = default;
};

// Chooses the sizes whose products are exactly d_in and d_out and that are
// nearest to theta in log space; an exponent of exactly 0 gives size 1. Both
// sides are chosen together, so that a theta of full rank (psi = 1) keeps it
// wherever some factorisation within the tolerance does. n_rho is rounded and
// need not divide anything. Throws base::InvalidInput where none is near
// enough (a prime width), naming the nearest width that has one, and for a
// rank or a mixture that is too large. With spec.pad such a width becomes the
// next multiple of the preferred one that has a factorisation.
Structure realise(
    const Spec& spec,
    std::int64_t d_in,
    std::int64_t d_out,
    const FactorOptions& options = {});

// The layer inside a padded one, from sizes.d_in() to sizes.d_out() features;
// of another structure, itself.
Structure padded(const Structure& structure);

// The exponents of the sizes, log(size) / log(width, padded); the asked ones at
// width 1.
Theta realised_theta(const Structure& structure);

enum class Order { kAB, kBA };

// Multiply-accumulates for one input vector, contracting A (kAB) or B (kBA)
// first. Exact.
std::int64_t macs(const Sizes& sizes, Order order);
// The order with fewer MACs; AB on a tie.
Order cheaper_order(const Sizes& sizes);

std::int64_t parameters(const Sizes& sizes);

// The rank of the layer's matrix for almost all values of its cores. Exact:
// at most the bottlenecks of both contraction orders,
//   min(n_b n_g min(n_a, n_d n_f n_r), n_d n_f min(n_b n_g n_r, n_e))
// and the same with the roles of A and B exchanged, and in rare cases, such as
// (2,2,2, 3,3,1, 1), less; rank.cpp says why.
std::int64_t generic_rank(const Sizes& sizes);

// One of a mixture's experts; of another structure, itself.
Structure expert(const Structure& structure);

// Of a mixture's router: its parameters, which are its MACs for one vector
// too. 0 where there is none.
std::int64_t router_parameters(const Structure& structure);

// Of the layer as built: dense counts one matrix. A mixture has the parameters
// of all its experts and does the MACs of the active ones, and in both the
// router's; its rank is that of the sum of the active ones. A padded layer
// has the parameters and does the MACs of the layer inside; its rank is at most
// the number given.
std::int64_t macs(const Structure& structure);
std::int64_t parameters(const Structure& structure);
std::int64_t generic_rank(const Structure& structure);

// omega: parameter sharing, FLOPs / parameters = d^omega; 0 is none, and below
// 0 are mixtures, which do not use all parameters for a vector.
// psi: rank = d^psi; 1 is full.
// nu: FLOPs per vector = d^(1 + nu); dense is 1.
struct Taxonomy {
  double omega = 0;
  double psi = 1;
  double nu = 1;
};

// Asymptotic, for d_in = d_out; the constants of a mixture do not show. Source:
// arXiv 2410.02117, section 4.
Taxonomy taxonomy(const Theta& theta);
// Of the realised sizes, from exact counts: log_d of MACs / parameters, of the
// generic rank, and of MACs / d, with d = sqrt(d_in d_out) (min for the rank).
Taxonomy taxonomy(const Structure& structure);

// True when t_rho > min(t_alpha, t_epsilon) after the cheaper order's role
// exchange: costs more than dense and adds nothing.
bool degenerate(const Theta& theta);

// The 23 structures of the paper's GPT-2 sweep, BTT first.
const std::vector<Theta>& paper_sweep();

// The non-degenerate points whose exponents are multiples of 1 / steps, one of
// each pair that differs only by the names of the cores.
// Throws base::InvalidInput for steps outside 1 to 16.
std::vector<Theta> grid(int steps);

// A random non-degenerate point. Each side of theta is uniform on a face of
// its triangle, the face being drawn first, and half of all n_rho are 1: the
// named structures, and all with omega = 0, lie on faces, which a draw from the
// inside would never hit.
Theta sample(base::Random& random);

// The widths of a core seen as a batched matmul, in the order contracted.
struct CoreShape {
  std::int64_t d_in = 0;
  std::int64_t d_out = 0;
};

// How to initialise a core and scale its learning rate, so that one base
// learning rate serves all structures and widths.
// Source: arXiv 2410.02117, section 5; docs/structures.md.
struct CoreParametrisation {
  CoreShape shape;
  // sqrt(min(d_in, d_out) / d_in^2), also the cap on the core's RMS.
  double init_std = 0;
  // Multiplies the base Adam learning rate.
  double lr_multiplier = 0;
};

// One entry for dense (the matrix), two otherwise: core A, core B; of a
// mixture, those of each expert.
// `base_width` is the d_in at which a dense layer's multiplier is 1.
std::vector<CoreParametrisation> parametrisation(
    const Structure& structure, std::int64_t base_width = 768);

// A router is a matrix that starts at zero, with the learning rate of dense.
double router_lr_multiplier(
    const Structure& structure, std::int64_t base_width = 768);

}  // namespace einforge::structure
