#pragma once

#include <vector>

namespace einforge::search {

// A loss that was measured, and what the law explains it by.
struct LossPoint {
  double width = 1;
  double tokens = 1;
  double omega = 0;  // of the model's layers
  double psi = 1;
  double loss = 1;
};

// What the loss of a trial is before anything is known of its structure but its
// taxonomy:
//   L = E + (A w^-a + B D^-b) exp(c_omega max(omega, 0) + c_psi (1 - psi))
// with w the width and D the tokens; E, a and b are shared by all structures.
// Source: Hoffmann et al., arXiv 2203.15556, equation 2, with the width for the
// size; the taxonomy is that of arXiv 2410.02117, section 4.
class CurveLaw {
 public:
  // The parameters of the largest posterior density under broad priors, with
  // Huber's loss, so that trials whose learning rate is wrong count little.
  // Defined from one point on. Losses must be above 0.
  explicit CurveLaw(const std::vector<LossPoint>& points);

  // `point.loss` is not read.
  double loss(const LossPoint& point) const;
  // E
  double floor() const { return floor_; }

 private:
  double least_ = 1;  // loss
  double floor_ = 0;
  double log_width_ = 0;  // ln w and ln D at which A and B are meant
  double log_tokens_ = 0;
  std::vector<double> at_;  // E's share, ln A, ln a, ln B, ln b, c_omega, c_psi

  double loss(const LossPoint& point, const std::vector<double>& at) const;
};

}  // namespace einforge::search
