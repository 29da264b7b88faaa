#include "einforge/distributed/place.h"

#include <cstdlib>
#include <limits>

#include "einforge/base/error.h"
#include "einforge/base/text.h"

namespace einforge::distributed {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

int number(const char* name, int least, int most) {
  const std::string text = variable(name);
  const auto value = base::parse_integer(name, text);
  base::check(
      value >= least && value <= most,
      "{}: expected {} to {}; got {}",
      name,
      least,
      most,
      value);
  return static_cast<int>(value);
}

constexpr int kMostRanks = 1 << 20;
constexpr int kMostPorts = 65535;

void take_address(Place& place) {
  place.address = variable("MASTER_ADDR");
  if (!variable("MASTER_PORT").empty()) {
    place.port = number("MASTER_PORT", 1, kMostPorts);
  }
}

}  // namespace

std::string first_host(const std::string& list) {
  const std::size_t end = list.find_first_of("[,");
  std::string host = list.substr(0, end);
  if (end != std::string::npos && list[end] == '[') {
    const std::size_t number_end = list.find_first_of("-,]", end);
    host += list.substr(
        end + 1,
        number_end == std::string::npos ? number_end : number_end - end - 1);
  }
  return host;
}

std::optional<Place> place_from_environment() {
  Place place;
  if (!variable("WORLD_SIZE").empty() && !variable("RANK").empty()) {
    place.size = number("WORLD_SIZE", 1, kMostRanks);
    place.rank = number("RANK", 0, place.size - 1);
    place.local_rank = variable("LOCAL_RANK").empty()
                           ? 0
                           : number("LOCAL_RANK", 0, place.size - 1);
    take_address(place);
    base::check(
        !place.address.empty() && place.port > 0,
        "RANK and WORLD_SIZE are set: expected MASTER_ADDR and MASTER_PORT "
        "too, as torchrun sets them");
    place.store_is_there = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
    place.prefix = variable("TORCHELASTIC_RESTART_COUNT");
    if (place.rank == 0 && !variable(kStoreSocket).empty()) {
      place.socket = number(kStoreSocket, 0, std::numeric_limits<int>::max());
    }
    return place;
  }
  // Of a step, that is of srun: a batch script alone runs once.
  if (!variable("SLURM_STEP_NUM_TASKS").empty() &&
      !variable("SLURM_PROCID").empty()) {
    place.size = number("SLURM_STEP_NUM_TASKS", 1, kMostRanks);
    place.rank = number("SLURM_PROCID", 0, place.size - 1);
    place.local_rank = number("SLURM_LOCALID", 0, place.size - 1);
    take_address(place);
    if (place.address.empty()) {
      const std::string nodes = variable("SLURM_STEP_NODELIST");
      place.address =
          first_host(nodes.empty() ? variable("SLURM_JOB_NODELIST") : nodes);
    }
    base::check(
        !place.address.empty(),
        "expected SLURM_STEP_NODELIST or MASTER_ADDR, for the address of rank "
        "0's machine; neither is set");
    if (place.port == 0) {
      // Jobs that share a machine have ports of their own.
      constexpr int kFirst = 20000;
      constexpr int kPorts = 10000;
      const std::string job = variable("SLURM_JOB_ID");
      const auto id =
          job.empty() ? 0 : base::parse_integer("SLURM_JOB_ID", job);
      place.port = kFirst + static_cast<int>(id % kPorts);
    }
    place.prefix = variable("SLURM_STEP_ID");
    return place;
  }
  return std::nullopt;
}

}  // namespace einforge::distributed
