#pragma once

#include <optional>
#include <string>

namespace einforge::distributed {

// The variable that `einforge train --processes` names Place::socket in.
inline constexpr const char* kStoreSocket = "EINFORGE_STORE_SOCKET";

// Where a process stands among those that train one model together.
struct Place {
  int rank = 0;
  int size = 1;
  int local_rank = 0;   // on its machine
  std::string address;  // of rank 0's machine
  int port = 0;
  // Whether the launcher keeps the store at that port, as torchrun does; else
  // rank 0 does.
  bool store_is_there = false;
  // A socket that listens at that port already, for rank 0 to keep the store
  // on: between a launcher's choice of a port and rank 0's start another
  // program could take it.
  std::optional<int> socket;
  // Set apart from those of a start before, in a store that outlives them.
  std::string prefix;
};

// From the variables that torchrun, `einforge train --processes` (RANK,
// WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; the latter kStoreSocket
// too, for rank 0) or srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID,
// SLURM_STEP_NODELIST, SLURM_JOB_ID) set; nothing where there are none. Throws
// base::InvalidInput where they contradict themselves.
std::optional<Place> place_from_environment();

// The first name of a list as Slurm writes them: "gpu[07-09,12],login" is
// "gpu07".
std::string first_host(const std::string& list);

}  // namespace einforge::distributed
