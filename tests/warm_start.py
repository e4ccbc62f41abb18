"""A warm start for commands in tests: one process imports the package, every command is a fork of it.

Importing torch and transformers takes longer than most commands do. `WarmStart` gives a folder with the commands
`anople`, `python`, `torchrun` and `accelerate`, which hand arguments, folder, environment and streams to the waiting
process. What runs is a process of its own, ended by SIGKILL when its command is; the processes that a launcher starts
are warm, too. The Hub's address is read at import, so it is that of the environment which the warm start was given.

Run as a program, this file is the waiting process.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from importlib import import_module
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
COMMANDS = {
    "anople": "anople_hf.cli",
    "torchrun": "torch.distributed.run",
    "accelerate": "accelerate.commands.accelerate_cli",
}
"""Commands and the modules whose `main` they are."""
WARM = (
    "datasets",
    "matplotlib.figure",
    "anople_hf.data",
    "anople_hf.training.run",
    "anople_hf.evaluation.measurement",
    "anople_hf.inspection.report",
    "anople_hf.inspection.results",
    "anople_hf.pictures.sheets",
    *COMMANDS.values(),
)


class WarmStart:
    """`with WarmStart(folder, environment) as commands:` puts the commands into the folder `commands`."""

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
        for name in (*COMMANDS, "python"):
            command = self.folder / name
            command.write_text(ASK.format(python=sys.executable, path=str(address), name=name))
            command.chmod(0o755)
        return self.folder

    def __exit__(self, *_):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


def wait_and_fork(address):
    """Give every command that comes a fork; the parent never runs one."""
    for name in WARM:
        import_module(name)
    gc.collect()
    gc.freeze()  # a fork copies every page that it touches
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        while True:
            line, _ = door.accept()
            if os.fork():
                line.close()
                continue
            asked, streams, *_ = socket.recv_fds(line, 1 << 20, 3)
            alive, end = os.pipe()  # closes with the worker
            if worker := os.fork():
                os.close(end)
                gone, _, _ = select.select([line, alive], [], [])
                if alive not in gone:  # the command was killed
                    os.kill(worker, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
                if alive in gone:
                    line.send(bytes([code & 255]))
                os._exit(0)
            line.close()
            os.close(alive)
            return json.loads(asked), streams


def run(asked, streams):
    """Be the command."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.executable = str(Path(sys.argv[1]).with_name("python"))  # launchers start warm processes
    sys.path[0:1] = ["", *filter(None, asked["env"].get("PYTHONPATH", "").split(os.pathsep))]
    name, *arguments = asked["argv"]
    if name in COMMANDS:
        sys.argv = [name, *arguments]
        import_module(COMMANDS[name]).main()
        return
    start, *rest = arguments[1:] if arguments[0] == "-u" else arguments  # torchrun's; streams are flushed at the end
    sys.argv = [start, *rest]
    if start == "-c":
        sys.argv = [start, *rest[1:]]
        exec(compile(rest[0], "<snippet>", "exec"), {"__name__": "__main__"})
    elif start == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(start).resolve().parent)
        runpy.run_path(start, run_name="__main__")


def run_to_the_end(asked, streams):
    """Be the command, and end as Python does, but for a second of taking the libraries apart."""
    code = 0
    try:
        run(asked, streams)
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
        if isinstance(done.code, str):
            sys.stderr.write(f"{done.code}\n")
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run_to_the_end(*wait_and_fork(sys.argv[1]))
