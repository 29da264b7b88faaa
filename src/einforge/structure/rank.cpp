#include <algorithm>
#include <cstdint>
#include <utility>

#include "einforge/structure/structure.h"

// The generic rank of sum_r A_r (x) B_r over all blocks (gamma, phi).
//
// The bottlenecks of the two contraction orders bound it from above and are
// nearly always reached, but not always: with n_gamma = 2, two tensor products
// of planes in a 3 x 3 space meet in a line, so (2,2,2, 3,3,1, 1) has rank 7
// and not 8. Exactly, the layer is Hom(P0, W) -> Hom(P1, W) for
// representations of the bipartite quiver with n_gamma sources, n_phi sinks
// and n_rho arrows from each to each: W is core B, (n_beta at the sources,
// n_epsilon at the sinks), and core A presents V = coker(P1 -> P0), (n_alpha,
// n_alpha n_gamma n_rho - n_delta). Hence rank = d_in - hom(V, W), with V and W
// generic, and reflection functors bring hom down to simple representations.
//
// Sources: Bernstein, Gelfand, Ponomarev, "Coxeter functors and Gabriel's
// theorem" (1973); Schofield, "General representations of quivers" (1992).
namespace einforge::structure {
namespace {

// Dimensions reach d_in n_rho and forms their squares: over 64 bits.
__extension__ using Wide = __int128;

struct Quiver {
  Wide sources;
  Wide sinks;
  Wide arrows;  // from each source to each sink
};

// The same dimension at all sources, and at all sinks.
struct Dimensions {
  Wide source;
  Wide sink;
  bool zero() const { return source == 0 && sink == 0; }
};

// dim hom(v, w) - dim ext(v, w).
Wide euler_form(const Quiver& q, const Dimensions& v, const Dimensions& w) {
  return q.sources * v.source * w.source + q.sinks * v.sink * w.sink -
         q.sources * q.sinks * q.arrows * v.source * w.sink;
}

// In this order, hom vanishes from right to left and ext from left to right.
enum class Kind { kPreprojective, kRegular, kPreinjective };

Kind kind(const Quiver& q, const Dimensions& v) {
  if (q.sources * q.sinks * q.arrows * q.arrows < 4) {
    return Kind::kPreprojective;  // finite type: all are
  }
  if (euler_form(q, v, v) <= 0) {
    return Kind::kRegular;
  }
  return 2 * v.sink > q.sources * q.arrows * v.source ? Kind::kPreprojective
                                                      : Kind::kPreinjective;
}

// dim Hom(V, W) of generic representations of these dimensions.
Wide generic_hom(Quiver q, Dimensions v, Dimensions w) {
  Wide hom = 0;
  while (!v.zero() && !w.zero()) {
    const Kind kind_v = kind(q, v);
    const Kind kind_w = kind(q, w);
    if (kind_v > kind_w) {
      return hom;
    }
    if (kind_v < kind_w || kind_v == Kind::kRegular) {
      return hom + std::max<Wide>(0, euler_form(q, v, w));
    }
    if (kind_v == Kind::kPreprojective) {
      // Split off what the sources do not reach, simple projectives at the
      // sinks, then reflect at the sinks, which become sources.
      const Wide reach = q.sources * q.arrows;
      const Wide split = std::max<Wide>(0, v.sink - reach * v.source);
      hom += q.sinks * split * w.sink;
      v = {std::max<Wide>(0, reach * v.source - v.sink), v.source};
      w = {std::max<Wide>(0, reach * w.source - w.sink), w.source};
    } else {
      // The same, dually, at the sources.
      const Wide reach = q.sinks * q.arrows;
      const Wide split = std::max<Wide>(0, w.source - reach * w.sink);
      hom += q.sources * split * v.source;
      v = {v.sink, std::max<Wide>(0, reach * v.sink - v.source)};
      w = {w.sink, std::max<Wide>(0, reach * w.sink - w.source)};
    }
    std::swap(q.sources, q.sinks);
  }
  return hom;
}

}  // namespace

std::int64_t generic_rank(const Sizes& n) {
  const Wide reach = Wide{n.alpha} * n.gamma * n.rho;
  const Dimensions v = {n.alpha, std::max<Wide>(0, reach - n.delta)};
  const Dimensions w = {n.beta, n.epsilon};
  const Wide kernel = generic_hom({n.gamma, n.phi, n.rho}, v, w);
  return static_cast<std::int64_t>(n.d_in() - kernel);
}

}  // namespace einforge::structure
