"""Where a result comes from: what each JSON under results/ states."""

import os
import platform
import shlex
import subprocess
import sys


def _cpu():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return ""


def provenance(program):
    """The command typed, the machine and the versions, as a dict."""
    version = subprocess.run([program, "--version"], check=True,
                             capture_output=True, text=True).stdout.strip()
    script = os.path.relpath(sys.argv[0])
    return {
        "command": shlex.join(["python3", script, *sys.argv[1:]]),
        "hardware": {"cpu": _cpu(), "cpus": len(os.sched_getaffinity(0)),
                     "machine": platform.machine()},
        "versions": {"einforge": version, "python": platform.python_version()},
    }
