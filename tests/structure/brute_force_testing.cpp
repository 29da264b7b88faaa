#include <Eigen/SVD>

#include "tests/structure/brute_force.h"

namespace einforge::structure::testing {

std::int64_t numerical_rank(const Eigen::MatrixXd& w) {
  Eigen::BDCSVD<Eigen::MatrixXd> svd(w);
  // Random cores have singular values far above this or rounding below it.
  svd.setThreshold(1e-10);
  return svd.rank();
}

}  // namespace einforge::structure::testing
