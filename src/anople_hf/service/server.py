"""Starts the service and ends it: on SIGTERM and Ctrl-C no new request is taken, and those that run are answered."""

import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 picks a free one.

    Raises:
        OSError: The port is taken, or there is no such address; says so.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port} ({error.strerror}); choose another --port.") from error


def serve(application: FastAPI, listening: socket.socket, *, grace: float, access_log: bool) -> None:
    """Serve until SIGTERM, which returns, or Ctrl-C, which raises KeyboardInterrupt.

    Args:
        application: From `build`.
        listening: From `listen`.
        grace: Seconds that running requests get to end.
        access_log: Log each request.
    """
    config = uvicorn.Config(
        application, log_config=None, access_log=access_log, timeout_graceful_shutdown=max(1, round(grace))
    )
    server = uvicorn.Server(config)

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    earlier = signal.signal(signal.SIGTERM, end)  # uvicorn raises the signal again when it is done: no reason to die
    try:
        server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, earlier)


__all__ = ["listen", "serve"]
