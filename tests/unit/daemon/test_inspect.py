"""Clusters are found from outside and asked; one that does not answer, or answers nonsense, is listed as such."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading

import pytest

from soma.daemon.inspect import ask_status, clusters
from soma.errors import ClusterError
from soma.ids import DAEMON
from soma.transport import messages as m
from soma.transport.endpoint import ZmqWire
from soma.transport.frames import pack, unpack
from soma.transport.security import create_runtime_dir, write_owner


@pytest.fixture
def directory(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="si-", dir="/tmp") as base:
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
        yield create_runtime_dir()


@contextlib.contextmanager
def answering(directory, reply):
    """A daemon's mailbox; `reply(ask)` gives the messages (lists of frames) to send back."""
    wire = ZmqWire(directory)
    mailbox, outlet = wire.mailbox(DAEMON), wire.outlet(DAEMON)

    def serve():
        frames = mailbox.recv(None)
        if frames is not None:
            ask = unpack(frames[1])
            for message in reply(ask):
                outlet.send(ask.peer, message)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        mailbox.wake()
        thread.join()
        outlet.close()
        mailbox.close()
        wire.close()


def status(ask, value):
    return [pack(m.Answer(ask.request, "", "", {})), json.dumps(value).encode()]


def test_what_the_daemon_says_of_itself(directory):
    def reply(ask):
        assert (type(ask), ask.what) == (m.Ask, "status")
        return [[pack(m.Answer(b"another", "", "", {}))], [pack(m.Stop("what?"))], status(ask, {"pid": 7, "actors": []})]

    with answering(directory, reply):
        assert clusters(timeout=10) == [{"pid": 7, "actors": []}]
    assert sorted(p.name for p in directory.iterdir()) == ["owner"]


@pytest.mark.parametrize(("reply", "text"), [
    (lambda ask: [[pack(m.Answer(ask.request, "ValueError", "unknown question", {}))]], "refuses: unknown question"),
    (lambda ask: [[pack(m.Answer(ask.request, "", "", {}))]], "holds no status"),
    (lambda ask: [status(ask, [1])], "holds no status"),
    (lambda ask: [[pack(m.Answer(ask.request, "", "", {})), b"{"]], "cannot be read"),
    (lambda ask: [[b"garbage"]], "cannot be read"),
    (lambda ask: [], r"did not answer within 0\.3 s"),
])
def test_bad_answers_are_errors(directory, reply, text):
    with answering(directory, reply), pytest.raises(ClusterError, match=text):
        ask_status(directory, 0.3)


def test_one_that_is_only_starting_is_listed_as_such(directory):
    [found] = clusters()
    assert found["directory"] == str(directory) and "no daemon listens" in found["error"]


def test_the_dead_are_not_asked(directory):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_owner(directory, driver=gone.pid)
    (directory / DAEMON).touch()
    assert clusters() == []
    write_owner(directory, daemon=os.getpid())
    assert len(clusters(timeout=0.1)) == 1
