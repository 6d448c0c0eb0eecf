"""Who may do what at the head: roles, names, tokens, rates, and the file that remembers."""

from __future__ import annotations

import logging
import math
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from soma.cli.keys import LONGEST_DAYS, keygen, keys, token
from soma.daemon.access import ENTRIES, NAMES, RATES, SAYS, Access, Audit, Book, Key, Rates, Token, check_versions, user_id
from soma.daemon.gate import BookFile, Gate, create_token, revoke, state_dir, versions
from soma.errors import SecurityError, VersionMismatchError
from soma.transport import control, visitors
from soma.transport import messages as m
from soma.transport.keys import JoinToken, key_of, load_key, own_key
from soma.transport.messages import catalogue
from soma.transport.visitors import Refusal, User, Verdict

NODE, DRIVER, READER, JOINER, OTHER = (bytes([n]) * 32 for n in range(1, 6))
OURS = {"protocol": 1, "soma": "0.1.0", "python": "3.11.7"}
WALL = 1_000_000.0

BEAT = m.Heartbeat("n1", 0, 1, {}, False)
SAMPLES: list[Any] = [
    m.Join(b"r", "node", "n1", NODE, OURS), m.Register(b"r", "n1", 0, "p", {}, {}, {}, (), 1), BEAT,
    m.Leave("n1", 0, ""), m.Query(b"r", "status", {}), m.Query(b"r", "secrets", {}), m.Drain(b"r", "n1", 1.0, ""), m.Shutdown(""),
    m.Welcome(b"r", "c", OTHER, OTHER, "head", 1.0, 10.0, {}), m.Registered(b"r", "n1", 0, 1, 1, 0), m.Fenced(b"r", "n1", "", 0, 1),
    m.Beat(1, 1), m.Report(b"r", "", ""), m.Refused(b"r", "", "")]

MAY = {  # by hand, from docs/security.md
    "node": {"Join", "Register", "Heartbeat", "Leave", "Query"},
    "driver": {"Join", "Query", "Drain", "Shutdown"},
    "reader": {"Query"},
    "join": {"Join"},
}


def book(**changes: Any) -> Book:
    made = Book({k.id: k for k in (Key(NODE, "node", WALL, ("n1",)), Key(DRIVER, "driver", WALL), Key(READER, "reader", WALL))},
                {user_id(JOINER): Token(JOINER, "node", WALL + 3600)})
    return replace(made, **changes)


def joining(role: str = "node", name: str | None = "n2", public: bytes = OTHER) -> m.Join:
    return m.Join(b"r", role, name, public, OURS)


class TestRoles:
    def test_every_control_message_has_a_sample(self) -> None:
        assert {type(s) for s in SAMPLES} == {cls for kind, cls in catalogue() if 60 <= kind < 80}

    @pytest.mark.parametrize("public", [NODE, DRIVER, READER, JOINER], ids=["node", "driver", "reader", "join"])
    def test_what_each_role_may_send(self, public: bytes) -> None:
        access = Access(book())
        user = access.decide(public, 0.0, WALL)
        assert isinstance(user, User)
        passed = {type(s).__name__ for s in SAMPLES if access.may(user, s) is None}
        assert passed == MAY[user.role]
        assert {cls.__name__ for cls in SAYS[user.role]} == passed

    def test_a_reader_reads_what_readers_may(self) -> None:
        access, user = Access(book()), User(user_id(READER), "reader")
        asked = ("status", "events", "logs", "network", "", "Status")
        assert {what for what in asked if access.may(user, m.Query(b"r", what, {})) is None} == {"status", "events", "logs"}

    def test_a_refusal_says_what_was_asked_and_by_whom(self) -> None:
        refusal = Access(book()).may(User(user_id(READER), "reader"), m.Shutdown("now"))
        assert refusal == Refusal("Shutdown is not for a reader")

    @pytest.mark.parametrize("msg", SAMPLES[1:4], ids=lambda s: type(s).__name__)
    def test_a_node_speaks_only_for_machines_of_its_own(self, msg: Any) -> None:
        access, user = Access(book()), User(user_id(NODE), "node")
        assert access.may(user, msg) is None
        refusal = access.may(user, replace(msg, node_id="n9"))
        assert refusal is not None and "n9" in refusal.why

    @given(st.binary(min_size=32, max_size=32))
    def test_a_key_that_is_not_listed_is_nobody(self, public: bytes) -> None:
        access = Access(book())
        assert isinstance(access.decide(public, 0.0, WALL), Refusal) == (public not in (NODE, DRIVER, READER, JOINER))

    def test_a_key_that_was_removed_is_nobody(self) -> None:
        access = Access(book())
        access.book = access.book.without_key(user_id(NODE))
        assert isinstance(access.who(user_id(NODE), WALL), Refusal)


class TestTokens:
    def test_they_end(self) -> None:
        access = Access(book())
        for wall, good in ((WALL, True), (WALL + 3599.9, True), (WALL + 3600, False), (WALL + 1e9, False)):
            assert isinstance(access.decide(JOINER, 0.0, wall), User) == good

    def test_a_revoked_one_is_nobody(self) -> None:
        access = Access(book(tokens={user_id(JOINER): Token(JOINER, "node", WALL + 3600, revoked=True)}))
        refusal = access.decide(JOINER, 0.0, WALL)
        assert isinstance(refusal, Refusal) and "revoked" in refusal.why

    @given(st.integers(1, 5), st.lists(st.integers(10, 20), max_size=30))
    def test_they_admit_as_many_keys_as_they_may(self, uses: int, comers: list[int]) -> None:
        """Whoever was admitted may ask again and again: the answer may have been lost."""
        access = Access(book(tokens={user_id(JOINER): Token(JOINER, "node", WALL + 3600, uses)}))
        admitted: set[int] = set()
        for n in comers:
            user = access.decide(JOINER, 0.0, WALL)
            assert isinstance(user, User)
            try:
                access.book = access.admit(user, joining(name=f"n{n}", public=bytes([n]) * 32), WALL)
            except SecurityError:
                assert n not in admitted and len(admitted) == uses
            else:
                admitted.add(n)
        assert len(admitted) == min(uses, len(set(comers)))
        assert {k.public[0] for k in access.book.keys.values()} == {1, 2, 3} | admitted

    def test_what_they_admit_may_come_with_its_own_key(self) -> None:
        access = Access(book())
        user = access.decide(JOINER, 0.0, WALL)
        assert isinstance(user, User) and isinstance(access.decide(OTHER, 0.0, WALL), Refusal)
        access.book = access.admit(user, joining(), WALL + 5)
        assert access.decide(OTHER, 0.0, WALL + 1e9) == User(user_id(OTHER), "node")
        assert access.book.keys[user_id(OTHER)] == Key(OTHER, "node", WALL + 5, ("n2",))

    @pytest.mark.parametrize(("msg", "said"), [
        (joining("driver", None), "only as node"), (joining("node", None), "with a name"), (joining("driver", "n2"), "with a name"),
        (joining("reader", None), "reader"), (joining("head", None), "head"), (joining("join", "n2"), "join"),
        (joining(name="n1"), "another key"), (joining(public=DRIVER), "already"), (joining(public=JOINER), "own key"),
    ])
    def test_what_they_do_not_admit(self, msg: m.Join, said: str) -> None:
        access = Access(book())
        user = access.decide(JOINER, 0.0, WALL)
        assert isinstance(user, User)
        with pytest.raises(SecurityError, match=said):
            access.admit(user, msg, WALL)

    def test_a_known_key_joins_again_for_itself_only(self) -> None:
        access, user = Access(book()), User(user_id(NODE), "node")
        assert access.admit(user, joining(name="n1", public=NODE), WALL) == book()
        assert access.admit(user, joining(name="n7", public=NODE), WALL).keys[user.id].names == ("n1", "n7")
        with pytest.raises(SecurityError, match="only for itself"):
            access.admit(user, joining(name="n1", public=OTHER), WALL)
        with pytest.raises(SecurityError, match="only as driver"):
            access.admit(User(user_id(DRIVER), "driver"), joining(name="n8", public=DRIVER), WALL)

    @given(st.lists(st.tuples(st.integers(10, 13), st.integers(0, 5)), max_size=40))
    def test_a_name_has_one_holder(self, claims: list[tuple[int, int]]) -> None:
        access, first = Access(book()), dict[str, int]()
        user = User(user_id(JOINER), "join", "node")
        for key, name in claims:
            try:
                access.book = access.admit(user, joining(name=f"m{name}", public=bytes([key]) * 32), WALL)
            except SecurityError:
                assert first[f"m{name}"] != key
            else:
                assert first.setdefault(f"m{name}", key) == key
        held = {name: k.public[0] for k in access.book.keys.values() for name in k.names if name != "n1"}
        assert held == first

    def test_names_and_entries_are_bounded(self) -> None:
        access, user = Access(book()), User(user_id(NODE), "node")
        for n in range(NAMES + 10):
            access.book = access.admit(user, joining(name=f"x{n}", public=NODE), WALL)
        assert access.book.keys[user.id].names == tuple(f"x{n}" for n in range(10, NAMES + 10))
        full = Book({str(n): Key(n.to_bytes(32, "big"), "node", WALL) for n in range(ENTRIES)})
        with pytest.raises(SecurityError, match="soma keys revoke"):
            full.with_key(Key(OTHER, "node", WALL))
        tokens = {str(n): Token(n.to_bytes(32, "big"), "node", WALL + 1) for n in range(ENTRIES)}
        with pytest.raises(SecurityError, match="expire"):
            Book({}, tokens).with_token(Token(OTHER, "node", WALL + 9), WALL)
        assert list(Book({}, tokens).with_token(Token(OTHER, "node", WALL + 9), WALL + 2).tokens) == [user_id(OTHER)]


class TestVersions:
    @pytest.mark.parametrize("changes", [{}, {"soma": "0.2.0"}, {"python": "3.11.0"}])
    def test_what_fits(self, changes: dict[str, Any]) -> None:
        check_versions({**OURS, **changes}, OURS)

    @pytest.mark.parametrize(("changes", "said"), [({"protocol": 2}, "protocol 2"), ({"python": "3.12.7"}, "3.12.7"),
                                                   ({"python": "3"}, "Python 3;"), ({"python": "4.11.7"}, "4.11.7")])
    def test_what_does_not_fit_names_both(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(VersionMismatchError) as caught:
            check_versions({**OURS, **changes}, OURS)
        text = str(caught.value)
        assert said in text and "the head runs soma 0.1.0 with protocol 1 on Python 3.11.7" in text and "install" in text or "need" in text


class TestRates:
    RATES = Rates(per_second=10, burst=20, patience=50, penalty=30)

    @given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 60)), max_size=30))
    def test_what_passes_is_what_was_saved_up(self, bursts: list[tuple[float, int]]) -> None:
        """Against the same sum, done for every message by itself."""
        access = Access(book(), replace(self.RATES, patience=10**9))
        now, level, passed, expected = 0.0, 20.0, 0, 0
        for pause, count in bursts:
            now += pause
            level = min(20.0, level + pause * 10)
            for _ in range(count):
                passed += access.spend("u", now) is Verdict.PASS
            through = min(count, math.floor(level + 1e-9))
            level, expected = level - through, expected + through
        assert abs(passed - expected) <= len(bursts)  # the two round differently

    def test_a_flood_is_cut_off_for_a_while(self) -> None:
        access = Access(book(), self.RATES)
        user = user_id(NODE)
        said = [access.spend(user, 0.0) for _ in range(75)]
        assert said == [Verdict.PASS] * 20 + [Verdict.WARN] + [Verdict.DROP] * 48 + [Verdict.CUT] * 6
        refusal = access.decide(NODE, 10.0, WALL)
        assert isinstance(refusal, Refusal) and "20 s more" in refusal.why
        assert access.spend(user, 29.9) is Verdict.CUT
        assert isinstance(access.decide(NODE, 30.0, WALL), User) and access.spend(user, 30.0) is Verdict.PASS

    def test_others_are_not_limited(self) -> None:
        access = Access(book(), self.RATES)
        for _ in range(1000):
            access.spend("flood", 0.0)
        assert all(access.spend("other", 0.0) is Verdict.PASS for _ in range(20))

    def test_who_pauses_is_forgiven(self) -> None:
        access = Access(book(), self.RATES)
        for second in range(0, 1000, 10):
            assert [access.spend("u", float(second)) for _ in range(60)].count(Verdict.CUT) == 0

    def test_dear_messages_cost_more(self) -> None:
        access = Access(book(), self.RATES)
        assert access.spend("u", 0.0, 20) is Verdict.PASS and access.spend("u", 0.0) is Verdict.WARN
        assert access.spend("u", 0.0, 50) is Verdict.CUT

    def test_a_clock_that_stands_or_runs_back_gives_nothing(self) -> None:
        access = Access(book(), self.RATES)
        for _ in range(20):
            access.spend("u", 5.0)
        assert [access.spend("u", now) for now in (5.0, 4.0, 5.0)] == [Verdict.WARN, Verdict.DROP, Verdict.DROP]


def test_the_audit_is_bounded_and_says_what_it_left_out() -> None:
    audit = Audit(most=3, seconds=10)
    lines = [audit.lines("u", "Drain", "no", float(i) / 100) for i in range(100)]
    assert [bool(line) for line in lines] == [True] * 3 + [False] * 97
    assert lines[0] == ["refused Drain of u: no"]
    assert audit.lines("u", "Drain", "no", 10.5) == ["97 more refusals were not written down", "refused Drain of u: no"]


class Clock:
    now = 0.0
    wall = WALL


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def gate(state: Path) -> Gate:
    return Gate(state, now=lambda: Clock.now, wall=lambda: Clock.wall)


class TestGate:
    def test_a_join_is_remembered(self, gate: Gate, state: Path) -> None:
        made = create_token(state, OTHER, "node", WALL + 60, 1)
        user_id_ = gate.enter(made.pair().public, "10.0.0.9")
        assert user_id_ == user_id(made.pair().public)
        msg = m.Join(b"r", "node", "n2", NODE, versions())
        user = gate.judge(user_id_, msg)
        assert isinstance(user, User)
        gate.admit(user, msg)
        assert gate.enter(NODE, "10.0.0.9") == user_id(NODE)
        again = Gate(state)
        assert again.enter(NODE, "10.0.0.9") == user_id(NODE)
        assert isinstance(again.judge(user_id(NODE), replace(BEAT, node_id="n2")), User)

    def test_another_version_is_refused_and_uses_up_nothing(self, gate: Gate, state: Path) -> None:
        made = create_token(state, OTHER, "node", WALL + 60, 1)
        user = User(user_id(made.pair().public), "join", "node")
        with pytest.raises(VersionMismatchError):
            gate.admit(user, m.Join(b"r", "node", "n2", NODE, {**versions(), "python": "2.7.18"}))
        assert BookFile(state).load().tokens[user.id].uses == 1

    def test_what_is_revoked_is_nobody_at_once(self, gate: Gate, state: Path) -> None:
        gate.allow(NODE, "node", ("n1",))
        assert isinstance(gate.judge(user_id(NODE), BEAT), User)
        revoke(state, user_id(NODE)[:12])
        assert isinstance(gate.judge(user_id(NODE), BEAT), Refusal)
        assert gate.enter(NODE, "") is None

    def test_a_revoked_token_admits_nobody(self, gate: Gate, state: Path) -> None:
        made = create_token(state, OTHER, "driver", WALL + 60, None)
        assert gate.enter(made.pair().public, "")
        revoke(state, user_id(made.pair().public))
        assert gate.enter(made.pair().public, "") is None

    def test_an_id_that_is_not_one_is_refused(self, gate: Gate, state: Path) -> None:
        for beginning in ("", "ffff"):
            with pytest.raises(ValueError, match="0 keys"):
                revoke(state, beginning)

    @pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"format": 2, "keys": [], "tokens": []}', b'"x"', b"null",
                                      b'{"format": 1, "keys": [{"public": "zz"}], "tokens": []}', b"[" * 100_000,
                                      b'{"format": 1, "keys": [{"public": "' + b"0" * 64
                                      + b'", "role": "head", "added": 0, "names": [], "note": ""}], "tokens": []}'])
    def test_a_damaged_file_admits_nobody(self, gate: Gate, state: Path, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
        gate.allow(NODE, "node")
        assert gate.enter(NODE, "")
        (state / "access.json").write_bytes(text)
        assert gate.enter(NODE, "") is None
        assert "nobody is admitted" in caplog.text
        with pytest.raises(SecurityError, match="damaged.*join again"):
            Gate(state)

    def test_a_file_that_others_can_read_admits_nobody(self, gate: Gate, state: Path) -> None:
        gate.allow(NODE, "node")
        (state / "access.json").chmod(0o644)
        assert gate.enter(NODE, "") is None
        (state / "access.json").chmod(0o600)
        assert gate.enter(NODE, "")

    def test_modes(self, gate: Gate, state: Path) -> None:
        gate.allow(NODE, "node")
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert {p.name: stat.S_IMODE(p.stat().st_mode) for p in state.iterdir()} == {"access.json": 0o600, "access.lock": 0o600}

    def test_no_secret_is_in_the_file(self, gate: Gate, state: Path) -> None:
        made = create_token(state, OTHER, "node", WALL + 60, 1)
        text = (state / "access.json").read_text()
        assert made.pair().public.hex() in text
        assert made.seed.hex() not in text and made.pair().secret.hex() not in text

    def test_a_change_that_fails_changes_nothing(self, gate: Gate, state: Path) -> None:
        gate.allow(NODE, "node", ("n1",))
        before = (state / "access.json").read_bytes()
        with pytest.raises(SecurityError):
            gate.admit(User(user_id(NODE), "node"), m.Join(b"r", "node", "n1", OTHER, versions()))
        assert (state / "access.json").read_bytes() == before
        assert sorted(os.listdir(state)) == ["access.json", "access.lock"]

    def test_refusals_are_written_down(self, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
        gate.allow(READER, "reader")
        with caplog.at_level(logging.WARNING, "soma.audit"):
            gate.judge(user_id(READER), m.Shutdown("now"))
            gate.enter(OTHER, "10.0.0.9")
            for _ in range(1000):
                gate.enter(OTHER, "10.0.0.9")
        said = [r.getMessage() for r in caplog.records]
        assert said[0] == f"refused Shutdown of {user_id(READER)}: Shutdown is not for a reader"
        assert "10.0.0.9" in said[1] and OTHER.hex()[:12] in said[1]
        assert len(said) == 20


class TestCommands:
    @pytest.fixture(autouse=True)
    def own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOMA_KEYS", str(tmp_path / "keys"))
        monkeypatch.setenv("SOMA_STATE", str(tmp_path / "state"))

    def run(self, command: Any, *args: str, code: int = 0) -> str:
        result = CliRunner().invoke(command, args)
        assert result.exit_code == code, result.output
        return result.output

    def test_keygen(self, tmp_path: Path) -> None:
        said = self.run(keygen, "--role", "reader")
        pair = load_key(tmp_path / "keys" / "reader.json", "reader")
        assert pair.public.hex() in said and pair.secret.hex() not in said
        assert "never overwritten" in self.run(keygen, "--role", "reader", code=1)
        self.run(keygen, "--out", str(tmp_path / "mine" / "k.json"))
        assert load_key(tmp_path / "mine" / "k.json", "driver")

    def test_tokens(self) -> None:
        assert "no tokens" in self.run(token, "list")
        made = JoinToken.parse(self.run(token, "create", "--role", "driver", "--uses", "2"))
        assert made.head == own_key("head").public
        known = BookFile(state_dir()).load().tokens[user_id(made.pair().public)]
        assert (known.grants, known.uses, known.revoked) == ("driver", 2, False)
        said = self.run(token, "list")
        assert known.id[:12] in said and "2 uses left" in said and made.seed.hex() not in said
        self.run(token, "revoke", known.id[:12])
        assert "it was revoked" in self.run(token, "list")
        assert "0 keys" in self.run(token, "revoke", "nothing", code=1)

    @pytest.mark.parametrize("wrong", ["0s", "1", "h", "-1h", "400d", "1 year", "nan", "1e9d"])
    def test_a_lifetime_that_is_none(self, wrong: str) -> None:
        assert "e.g. 1h" in self.run(token, "create", f"--expires={wrong}", code=2)

    def test_keys(self) -> None:
        assert "no keys" in self.run(keys, "list")
        assert "64 hex digits" in self.run(keys, "allow", "soon", code=1)
        public = key_of(READER.hex())
        self.run(keys, "allow", READER.hex(), "--role", "reader", "--note", "the screen in the hall")
        assert Access(BookFile(state_dir()).load()).decide(public, 0.0, 0.0) == User(user_id(READER), "reader")
        said = self.run(keys, "list")
        assert "reader" in said and "the screen in the hall" in said
        self.run(keys, "revoke", user_id(READER)[:12])
        assert "no keys" in self.run(keys, "list")

    def test_a_directory_that_is_open_is_refused_with_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "state").mkdir(mode=0o755)
        said = self.run(token, "create", code=1)
        assert "chmod 700" in said and len(said.splitlines()) == 1


def test_the_security_page_says_what_the_code_does() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    for said in (
            f"| {control.CONNECTIONS} |", f"| handshake | {control.HANDSHAKE_SECONDS:g} s |", f"closed after {control.SILENT_MS // 1000} s",
            f"{control.FRAME_BYTES >> 20} MiB, {control.PARTS} frames and {control.MESSAGE_BYTES >> 20} MiB in all",
            f"{RATES.per_second:g} a second, {RATES.burst:g} at once", f"counts for {control.MALFORMED} |",
            f"| {RATES.patience:,}; for {RATES.penalty:g} s |", f"| {visitors.WAITING:,} |",
            f"| {ENTRIES:,} each; {NAMES} machine names", f"at most {LONGEST_DAYS} d",
            *(f"`{name}`" for name in control.COUNTED if name != "undelivered")):
        assert said in page, said
