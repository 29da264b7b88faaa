#pragma once

namespace einforge::cli {

// Runs this command line `processes` times, as torchrun does: RANK, WORLD_SIZE,
// LOCAL_RANK, MASTER_ADDR and MASTER_PORT say which is which. SIGINT, SIGTERM
// and SIGHUP go to all; where one fails, the others are ended, and a signal
// that ended it is named. They end with this process. Returns the exit code of
// the first that failed, else 0. Throws base::IoError when one cannot be
// started.
int launch(int processes);

// Whether this process was started by launch(), which names what fails.
bool is_launched();

}  // namespace einforge::cli
