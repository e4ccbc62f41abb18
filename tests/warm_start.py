"""A warm start for documented commands: one process imports the package, every command is a fork of it.

Importing torch and transformers takes longer than most commands do. `WarmStart` gives a folder with two commands,
`anople` and `python`, that hand arguments, folder, environment and streams to the waiting process; what runs is a
process of its own. The Hub's address is read at import, so each stand-in needs a warm start of its own.

Run as a program, this file is the waiting process.
"""

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ASK = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({path!r})
    asked = dict(argv=[{name!r}, *sys.argv[1:]], cwd=os.getcwd(), env=dict(os.environ))
    socket.send_fds(line, [json.dumps(asked).encode()], [0, 1, 2])
    code = line.recv(1)
sys.exit(code[0] if code else 1)
"""


PIDS = "WARM_START_PIDS"
"""Environment variable: the file in which commands leave their process numbers, for `end_what_is_left`."""


def end_what_is_left(pids):
    """End commands that still run, such as an app in the background."""
    for pid in pids.read_text().split() if pids.exists() else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)


class WarmStart:
    """`with WarmStart(folder, environment) as commands:` puts `anople` and `python` into the folder `commands`."""

    def __init__(self, folder, environment):
        self.folder, self.environment = Path(folder), environment

    def __enter__(self):
        self.folder.mkdir()
        address = self.folder / "line"
        self.process = subprocess.Popen(
            [sys.executable, __file__, address], env=self.environment, start_new_session=True
        )
        while not address.exists():
            assert self.process.poll() is None, "the warm start ended at once"
            time.sleep(0.05)
        for name in ("anople", "python"):
            command = self.folder / name
            command.write_text(ASK.format(python=sys.executable, path=str(address), name=name))
            command.chmod(0o755)
        return self.folder

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGTERM)  # and what its commands left in the background
        self.process.wait()


def wait_and_fork(address):
    """Give every command that comes a fork; the parent never runs one."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401

    import anople_hf.cli  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        while True:
            line, _ = door.accept()
            if os.fork():
                line.close()
                continue
            if worker := os.fork():  # waits for the command, to pass on its exit code
                code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
                line.send(bytes([code & 255]))
                os._exit(0)
            asked, streams, *_ = socket.recv_fds(line, 1 << 20, 3)
            line.close()
            return json.loads(asked), streams


def run(asked, streams):
    """Be the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    if PIDS in os.environ:
        with open(os.environ[PIDS], "a") as file:
            file.write(f"{os.getpid()}\n")
    name, *arguments = asked["argv"]
    if name == "python" and arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<snippet>", "exec"), {"__name__": "__main__"})
    elif name == "python":
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        from anople_hf.cli import main

        sys.argv = ["anople", *arguments]
        main()


if __name__ == "__main__":
    run(*wait_and_fork(sys.argv[1]))
