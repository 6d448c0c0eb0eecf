"""Where questions that come to the control port are answered: what `soma status --address` shows."""

from __future__ import annotations

import json
from typing import Any

from soma.daemon.head import Head
from soma.daemon.orders import LogPiece
from soma.transport import messages as m
from soma.transport.control import ControlServer
from soma.transport.visitors import Letter

REPORT_FRAME = 512 * 1024
"""Bytes of JSON in one frame of a report."""


class Desk:
    def __init__(self, head: Head, server: ControlServer) -> None:
        self._head, self._server = head, server

    def on_query(self, letter: Letter) -> None:
        msg: m.Query = letter.msg
        questions = self._head.questions
        match msg.what:
            case "status":
                questions.gather(lambda held: self.report(letter.client, msg.request, {
                    **questions.status(held), "control": {"address": self._server.address, **self._server.counters()}}))
            case "machines":
                self.report(letter.client, msg.request, questions.machines())
            case "log":
                self._log(letter, msg)
            case other:
                self._server.reply(letter.client, m.Report(msg.request, "ValueError", f"unknown question {other!r}"))

    def _log(self, letter: Letter, msg: m.Query) -> None:
        def then(piece: LogPiece | None) -> None:
            if piece is None:
                why = f"{actor!r} has printed nothing, or its machine is gone"
                self._server.reply(letter.client, m.Report(msg.request, "ValueError", why))
            else:
                self._server.reply(letter.client, m.Report(msg.request, "", str(piece[1])), [piece[0]])

        actor, offset = msg.args.get("actor"), msg.args.get("offset")
        r = self._head.residents.called(str(actor))
        if r is None or r.machine is None or type(offset) is not int:
            self._server.reply(letter.client, m.Report(msg.request, "ValueError", f"there is no actor {actor!r}; `soma status` lists them"))
        else:
            r.machine.read_log(r.peer, offset, then)

    def report(self, client: bytes, request: bytes, told: Any) -> None:
        """Answer with JSON, in as many frames as it takes."""
        body = json.dumps(told).encode()
        frames = [body[i:i + REPORT_FRAME] for i in range(0, len(body), REPORT_FRAME)]
        self._server.reply(client, m.Report(request, "", ""), frames)
