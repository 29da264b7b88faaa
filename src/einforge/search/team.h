#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "einforge/base/json.h"
#include "einforge/distributed/world.h"
#include "einforge/search/process.h"

namespace einforge::search {

// The processes that train a worker's trials together: the worker, rank 0, and
// others that it starts, which live as long as it does. Of one process it is
// the worker alone.
class Team {
 public:
  struct Options {
    int size = 1;
    int threads = 1;
    std::string device;  // as train.device; each takes the GPU of its rank
    std::filesystem::path directory;  // the search's
    std::filesystem::path log;
  };
  // Waits for the others. Throws base::IoError or distributed::PeerFailed where
  // they do not come.
  explicit Team(const Options& options);

  // That train() takes; null for one process.
  distributed::World* world() { return world_.get(); }
  // They train too: the config, in the folder, up to `stop_at_step`. This
  // process is to do the same.
  void train(
      const base::Json& config,
      const std::filesystem::path& directory,
      std::int64_t stop_at_step);
  // Ends the others. Without it they are killed.
  void leave();

 private:
  std::vector<Child> others_;
  std::unique_ptr<distributed::World> world_;
};

// The life of another one: trains what it is told until its input ends.
// Returns the exit code.
int run_member(int threads, const std::string& device);

}  // namespace einforge::search
