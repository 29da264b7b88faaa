"""A search from Python: a thin client of `einforge search ask` and `tell`.

    from einforge.search import Search

    search = Search("search.toml", out="runs/mine")

    # Another optimiser proposes, einforge trains.
    [result] = search.train([{"structure": "btt:0.25", "width": 256}])
    print(result["loss"], result["flops"])

    # einforge proposes, another program trains.
    while trials := search.ask():
        search.tell([{"id": t["id"], "loss": mine(t)} for t in trials])

All trials are in the store of the folder `out`, from which `einforge report`
makes its report. docs/search.md describes the keys.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence


class Search:
    """A search's folder and configuration.

    config: path of a TOML or JSON file, as `einforge search` takes it.
    out: folder of the store; the configuration's where it is None.
    settings: {"budget.tokens": 1e6}, as `--set`.
    program: the einforge program; EINFORGE_PROGRAM or the one on the PATH
        where it is None.
    """

    def __init__(
        self,
        config: str | os.PathLike,
        out: str | os.PathLike | None = None,
        settings: Mapping[str, object] | None = None,
        program: str | os.PathLike | None = None,
    ):
        program = program or os.environ.get("EINFORGE_PROGRAM", "einforge")
        self._program = [os.fspath(program), "search"]
        self._options = [os.fspath(config)]
        if out is not None:
            self._options += ["--out", os.fspath(out)]
        for key, value in (settings or {}).items():
            self._options += ["--set", f"{key}={json.dumps(value)}"]

    def ask(self, count: int = 1) -> list[dict]:
        """At most `count` trials that the scheduler wants trained next.

        Each has "id", what it is ("structure", "width", "layers",
        "learning_rate", "seed", "config") and how far it is to be trained
        ("steps", "tokens", "flops", "rung"). The same again until tell() has
        had their results; none when the search is over.
        """
        return self._run("ask", ["--count", str(count)])

    def tell(self, results: Iterable[Mapping[str, object]]) -> list[dict]:
        """Records {"id", "loss"} (and "seconds") or {"id", "failed"} each."""
        return self._run("tell", lines=list(results))

    def train(self, trials: Sequence[Mapping[str, object]]) -> list[dict]:
        """Trains what is proposed, `workers` trials side by side.

        trials: {"structure", "width", "layers", "learning_rate", "seed",
            "rungs"} each; what is left out is as in the configuration. A trial
            that the store knows is not trained again, one that has passed fewer
            rungs is trained on.
        Returns, in their order, {"id", "status", "reason", "rung", "loss",
        "flops", "seconds", "curve"} each.
        """
        return self._run("tell", lines=list(trials))

    def _run(
        self,
        command: str,
        options: Sequence[str] = (),
        lines: Sequence[Mapping[str, object]] = (),
    ) -> list[dict]:
        """Raises RuntimeError with what the program says of an error."""
        done = subprocess.run(
            [*self._program, command, *self._options, *options],
            input="".join(json.dumps(line) + "\n" for line in lines),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(
                done.stderr.strip()
                or f"einforge exited with code {done.returncode}"
            )
        return [json.loads(line) for line in done.stdout.splitlines()]
