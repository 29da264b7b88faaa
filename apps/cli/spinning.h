#pragma once

namespace einforge::cli {

// OpenMP's threads wait for each other by spinning, for milliseconds by
// default. Where another process has the CPU of one of them, the others spin
// away the time that it needs, and training is many times slower than with
// threads that sleep at once (OMP_WAIT_POLICY=passive), which are slower on an
// idle machine. So threads spin longer where nothing else runs at the start
// than where something does; benchmarks/cpu_threads.py measures both.
//
// The OpenMP runtime reads its environment before main(): this starts the
// program again, once, with `arguments`, unless the environment says already
// how threads are to wait. Returns if nothing is to be done or that fails.
void limit_spinning(char** arguments);

}  // namespace einforge::cli
