#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "einforge/structure/theta.h"

namespace einforge::structure {

// A structure before it meets a width: a name, and what theta it stands for.
struct Spec {
  std::string text;    // as written, normalised: "btt:0.25"
  std::string family;  // "btt"; the name before the colon
  Theta theta;
  // Dense is built as one matrix, not as a core and an identity.
  bool dense = false;
  bool operator==(const Spec&) const = default;
};

// "dense", "low_rank:R", "kronecker", "tensor_train:R", "monarch", "btt:R",
// "theta:a,b,g,d,e,f,r"; R the rank exponent, defaulted where left out; the
// split may be given too: "btt:0.25,alpha=0.33,epsilon=0.67" (see
// docs/structures.md).
// Throws base::InvalidInput for an unknown name, with the nearest known one,
// or for parameters that make no valid theta.
Spec parse(std::string_view text);

struct FactorOptions {
  // Among factorisations about equally near, prefer sizes that are multiples
  // of this; hardware likes 8 and 16.
  std::int64_t preferred_multiple = 8;
  // The largest allowed |log(size / d^t)| / log(d) of any size.
  double tolerance = 0.15;
};

// A structure at a width: exact integer sizes, no feature dropped or padded.
struct Structure {
  Spec spec;
  std::int64_t d_in = 0;
  std::int64_t d_out = 0;
  Sizes sizes;
  bool dense = false;
  bool operator==(const Structure&) const = default;
};

// Chooses the sizes whose products are exactly d_in and d_out and that are
// nearest to theta in log space. Throws base::InvalidInput where none is near
// enough (a prime width), naming the nearest width that has one.
Structure realise(
    const Spec& spec,
    std::int64_t d_in,
    std::int64_t d_out,
    const FactorOptions& options = {});

enum class Order { kAB, kBA };

// Multiply-accumulates for one input vector, contracting A (kAB) or B (kBA)
// first. Exact.
std::int64_t macs(const Sizes& sizes, Order order);
// The order with fewer MACs; AB on a tie.
Order cheaper_order(const Sizes& sizes);

// Of the layer as built: dense counts one matrix.
std::int64_t macs(const Structure& structure);
std::int64_t parameters(const Structure& structure);

// omega: parameter sharing, FLOPs / parameters = d^omega; 0 is none.
// psi: rank = d^psi; 1 is full.
// nu: FLOPs per vector = d^(1 + nu); dense is 1.
struct Taxonomy {
  double omega = 0;
  double psi = 1;
  double nu = 1;
};

// Asymptotic, for d_in = d_out. Source: arXiv 2410.02117, section 4.
Taxonomy taxonomy(const Theta& theta);
// Of the realised sizes, from exact counts: log_d of MACs / parameters, of the
// generic rank, and of MACs / d, with d = sqrt(d_in d_out) (min for the rank).
Taxonomy taxonomy(const Structure& structure);

// True when t_rho > min(t_alpha, t_epsilon) after the cheaper order's role
// exchange: costs more than dense and adds nothing.
bool degenerate(const Theta& theta);

// The 23 structures of the paper's GPT-2 sweep, BTT first.
const std::vector<Theta>& paper_sweep();

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

// One entry for dense (the matrix), two otherwise: core A, core B.
// `base_width` is the d_in at which a dense layer's multiplier is 1.
std::vector<CoreParametrisation> parametrisation(
    const Structure& structure, std::int64_t base_width = 768);

}  // namespace einforge::structure
