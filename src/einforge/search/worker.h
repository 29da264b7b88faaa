#pragma once

#include <filesystem>

namespace einforge::search {

// A worker process: claims queued trials from the search's store and trains
// them, one after the other. It writes one JSON object a line to its standard
// output, the search's end of which ends up in Child::events():
//
//   {"event": "start", "trial": id, "target": steps}
//   {"event": "step", "step": n, "loss": x}
//   {"event": "end", "trial": id}      how it ended is in the store
//   {"event": "idle"}                  the queue is empty
//   {"event": "fatal", "message": s}   the disk is full: no trial's fault
//
// When idle it waits for a line on its standard input, and looks again; at the
// input's end it returns. SIGTERM makes it write a checkpoint, put its trial
// back in the queue and return.
// Returns the exit code. A trial that cannot be trained is recorded as failed
// with the reason.
int run_worker(const std::filesystem::path& directory, int threads);

}  // namespace einforge::search
