#pragma once

// The process that the program is: its standard streams and signals.
namespace einforge::base {

// What main() calls before all else.
// - Descriptors 0, 1 and 2 that are closed lead to /dev/null, so that no file
//   that is opened later gets one of these numbers, and our words with it.
// - A closed pipe (SIGPIPE) and a file size limit (SIGXFSZ) are errors of the
//   write, not the end of the process. Child processes inherit that.
// - A memory-mapped file that another program cuts short while it is read
//   (SIGBUS) is one line and exit code 1.
// - An exception that nobody catches is one line and exit code 1.
void prepare_process();

// While there is one, SIGINT, SIGTERM and SIGHUP (a terminal that hung up) ask
// the process to stop instead of ending it. A second SIGINT or SIGTERM ends it.
// SIGHUP stays ignored where it was, as under nohup. One at a time.
class StopSignals {
 public:
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  // Signals do again what they did before.
  ~StopSignals();

  static bool requested();
};

}  // namespace einforge::base
