"""Writes the table of messages in docs/protocol.md from soma's own catalogue: `python docs/make_protocol.py`.

The direction of each message is written here, by hand; a message that has none is an error. tests/unit/test_docs.py checks that
the page is up to date.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from soma.transport.messages import catalogue

PAGE = Path(__file__).with_name("protocol.md")
BEGIN, END = "<!-- messages:begin -->", "<!-- messages:end -->"

SECTIONS = ((range(1, 20), "Read from the mailbox", "By the thread that waits, so these may be behind the user's code."),
            (range(20, 40), "Read from the side mailbox (`<peer>.s`)", "By the side thread, at once, whatever the user's code does."),
            ([*range(40, 60), *range(80, 90)], "Read by the daemon (mailbox `daemon`)", "By its only thread."),
            (range(90, 110), "Between the head and its machines", "Orders, and what came of them; read by agents and by the head."),
            (range(60, 80), "On the control plane of several machines", "Read from the head's TCP port, and by those who connect to it."))

DIRECTION = {
    "Call": "caller → actor", "Reply": "actor → caller", "Credit": "caller → actor", "ObjectValue": "owner → who asked",
    "ActorUpdate": "daemon → watchers", "Answer": "daemon → who asked", "Deadlock": "daemon → actor", "Stop": "daemon → actor",
    "Said": "actor → caller", "Cancel": "caller → actor", "Fetch": "borrower → owner", "Hold": "any → owner", "PeerDied": "daemon → all",
    "LogLines": "daemon → drivers", "Event": "any → daemon → subscribers",
    "Hello": "any → daemon", "CreateActor": "creator → daemon", "Watch": "any → daemon", "Kill": "any → daemon",
    "FindActor": "any → daemon", "Blocked": "actor → daemon", "Unblocked": "actor → daemon", "ActorReady": "actor → daemon",
    "Leaving": "actor → daemon", "LeaseWorker": "any → daemon", "ReturnWorker": "any → daemon", "Ask": "any → daemon",
    "Join": "member → head", "Welcome": "head → member", "Register": "node → head", "Registered": "head → node",
    "Fenced": "head → node", "Heartbeat": "node → head", "Beat": "head → node", "Leave": "node → head", "Query": "member → head",
    "Report": "head → member", "Refused": "head → member", "Shutdown": "head → node, driver → head", "Drain": "head → node, driver → head",
    "CreateGroup": "any → daemon", "RemoveGroup": "any → daemon", "CheckPlacing": "any → daemon",
    "Launch": "head → node", "EndProcess": "head → node", "ConfirmEnd": "head → node", "Look": "head → node",
    "ForgetActor": "head → node", "ReadLog": "head → node", "Spawned": "node → head", "Halted": "node → head", "Exited": "node → head",
    "Looked": "node → head", "LogPart": "node → head", "Kept": "node → head", "Detach": "driver → head",
}

BETTER = {  # where the docstring, written for readers of the code, does not serve those of the page
    "CreateActor": "Make an actor. `options` says what it needs (see below); the class and its arguments stay with the creator.",
    "Unblocked": "The wait of that epoch is over: the sender takes its CPU again.",
    "Answer": "Answer to a question, the daemon's or to the daemon. `error` is \"\" or an exception's name, with its `text`; a body may "
              "follow. With an empty `request` a head that was started again asks for every question that waits to be asked once more.",
    "Ask": "A question with a plain answer; see below.",
}

VALUE = {
    "Call": "`(args, kwargs)`", "Reply": "the result, or a failure; none with CANCELLED and END",
    "ObjectValue": "the value, or a failure", "ActorUpdate": "a raw frame of fingerprints, then perhaps a failure; none when ready",
    "Answer": "perhaps one raw frame: JSON, or a handle's pickle", "ActorReady": "a failure, if `error` is set",
    "Report": "raw frames: JSON", "LogPart": "a raw frame, if `there`",
}


def meaning(cls: type) -> str:
    """The class's docstring as one line; one that dataclass made up is an error."""
    text = BETTER.get(cls.__name__) or " ".join((cls.__doc__ or "").split())
    if text.startswith(cls.__name__ + "("):
        raise ValueError(f"{cls.__name__} has no docstring")
    return text


def tables() -> str:
    """Every message, by number, in Markdown."""
    lines: list[str] = []
    for numbers, title, who in SECTIONS:
        lines += [f"### {title}", "", who, "", "| no. | message | direction | fields after version and kind | value behind | meaning |",
                  "|---|---|---|---|---|---|"]
        for kind, cls in catalogue():
            if kind in numbers:
                fields = ", ".join(f"`{f.name}: {f.type}`" for f in dataclasses.fields(cls))  # type: ignore[arg-type]
                cells = (str(kind), f"**{cls.__name__}**", DIRECTION[cls.__name__], fields, VALUE.get(cls.__name__, "–"), meaning(cls))
                lines.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def filled(page: str) -> str:
    """The page with its table made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
