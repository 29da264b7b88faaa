#pragma once

#include <filesystem>
#include <string>

namespace einforge::search {

// A worker process: trains the trials that the search gives it, one after the
// other, each as a line "train ID" on its standard input; at the input's end it
// returns. It writes one JSON object per line to its standard output, the
// search's end of which ends up in Child::events():
//
//   {"event": "idle"}                  it wants a trial
//   {"event": "start", "trial": id, "target": steps}
//   {"event": "step", "step": n, "loss": x}
//   {"event": "end", "trial": id}      how it ended is in the store
//   {"event": "refused", "trial": id}  in the store it is not queued
//   {"event": "fatal", "message": s}   a full disk, say: no trial's fault
//
// SIGTERM makes it write a checkpoint, put its trial back in the queue and
// return.
// Trains on `device`, as train.device has it, with `threads` in each process of
// its team (see team.h). Returns the exit code. A trial that cannot be trained
// is recorded as failed with the reason.
int run_worker(
    const std::filesystem::path& directory,
    int threads,
    const std::string& device);

}  // namespace einforge::search
