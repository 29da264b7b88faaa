"""What the scripts that run whole experiments through the program share."""

import lzma
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys


def environment(program):
    """With the libraries of a bundle and of the torch that this Python has."""
    result = dict(os.environ)
    folders = [program.parent.parent / "lib"]
    for site in sys.path:
        torch = pathlib.Path(site) / "torch/lib"
        if torch.is_dir():
            folders += [torch, *pathlib.Path(site).glob("nvidia/*/lib")]
            break
    known = result.get("LD_LIBRARY_PATH")
    result["LD_LIBRARY_PATH"] = os.pathsep.join(
        [str(folder) for folder in folders] + ([known] if known else []))
    return result


def rows(store, query):
    if not store.exists():
        return []
    connection = sqlite3.connect(store)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def copy_store(source, target):
    """Whole, even while somebody writes to it."""
    if not source.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_suffix(".new")
    new.unlink(missing_ok=True)
    a, b = sqlite3.connect(source), sqlite3.connect(new)
    a.backup(b)
    b.execute("PRAGMA journal_mode=DELETE")
    a.close()
    b.close()
    new.replace(target)


def prepare_text(program, text, data, name):
    """The tokens of a text, a document a line, unless they are there; a message
    of `name` ends the script where they cannot be."""
    if (data / "meta.json").exists():
        return
    if text is None:
        sys.exit(f"{name}: expected --text or a prepared {data}")
    process = subprocess.Popen(
        [program, "data", "prepare", "-", "--tokens", "chars96",
         "--document-separator", "line", "--out", data],
        stdin=subprocess.PIPE, env=environment(program))
    with (lzma.open(text) if text.suffix == ".xz" else
          open(text, "rb")) as file:
        shutil.copyfileobj(file, process.stdin, 1 << 20)
    process.stdin.close()
    if process.wait() != 0:
        sys.exit(f"{name}: the text could not be prepared")
