"""Keys and tokens: what is written is private, what is not private is refused, secrets are not shown."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from soma.errors import SecurityError
from soma.transport.keys import (
    JoinToken,
    KeyPair,
    key_of,
    keys_dir,
    load_key,
    own_key,
    private_dir,
    read_private,
    save_key,
    text_of,
    write_private,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
KEYS = st.binary(min_size=32, max_size=32)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestText:
    @given(KEYS)
    def test_a_key_is_found_again(self, key: bytes) -> None:
        assert key_of(text_of(key)) == key
        assert key_of(f" {text_of(key)}\n") == key

    @given(st.text(max_size=70))
    def test_anything_else_is_refused_and_not_repeated(self, text: str) -> None:
        with pytest.raises(SecurityError) as caught:
            key_of("zz" + text)
        assert len(text) < 5 or text not in str(caught.value)

    @given(KEYS, KEYS)
    def test_a_token_is_found_again(self, head: bytes, seed: bytes) -> None:
        token = JoinToken(head, seed)
        assert JoinToken.parse(token.text()) == token
        assert token.text() == f"soma1.{head.hex()}.{seed.hex()}"

    @pytest.mark.parametrize("text", ["", "soma1", "soma1..", f"soma2.{'0' * 64}.{'0' * 64}", f"soma1.{'0' * 64}.{'0' * 63}",
                                      f"soma1.{'0' * 64}.{'g' * 64}", f"soma1.{'0' * 64}.{'0' * 64}.x", f"{'0' * 64}.{'0' * 64}"])
    def test_what_is_no_token_is_refused(self, text: str) -> None:
        with pytest.raises(SecurityError, match="soma token create"):
            JoinToken.parse(text)

    @given(KEYS)
    def test_a_seed_gives_one_pair_that_curve_accepts(self, seed: bytes) -> None:
        one, other = JoinToken(b"h" * 32, seed).pair(), JoinToken(b"x" * 32, seed).pair()
        assert one == other and one.secret != seed
        assert zmq.curve_public(z85.encode(one.secret)) == z85.encode(one.public)

    def test_seeds_and_pairs_are_new_each_time(self) -> None:
        assert len({JoinToken.new(b"h" * 32).text() for _ in range(20)}) == 20
        assert len({KeyPair.new().secret for _ in range(20)}) == 20

    def test_secrets_are_not_shown(self) -> None:
        pair, token = KeyPair.new(), JoinToken.new(b"h" * 32)
        for shown in (repr(pair), str(pair), repr(token), f"{token}"):
            for secret in (pair.secret, token.seed):
                assert secret.hex() not in shown and repr(secret)[2:-1] not in shown


class TestDirectory:
    @pytest.fixture(autouse=True)
    def no_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("SOMA_KEYS", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name, raising=False)

    def test_where_it_is(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        assert keys_dir() == tmp_path / ".config/soma/keys"
        monkeypatch.setenv("XDG_CONFIG_HOME", "relative, so ignored")
        assert keys_dir() == tmp_path / ".config/soma/keys"
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
        assert keys_dir() == tmp_path / "x/soma/keys"
        monkeypatch.setenv("SOMA_KEYS", str(tmp_path / "k"))
        assert keys_dir() == tmp_path / "k"

    @pytest.mark.parametrize("umask", [0, 0o022, 0o777])
    def test_it_is_made_private_whatever_the_umask(self, where: Path, umask: int) -> None:
        where.parent.mkdir(exist_ok=True)
        before = os.umask(umask)
        try:
            private_dir(where)
            save_key(where / "driver.json", "driver", KeyPair.new())
        finally:
            os.umask(before)
        assert mode(where) == 0o700 and mode(where / "driver.json") == 0o600
        assert [p.name for p in where.iterdir()] == ["driver.json"]

    @pytest.mark.parametrize("wrong", [0o755, 0o750, 0o701, 0o770])
    def test_one_that_others_can_enter_is_refused(self, where: Path, wrong: int) -> None:
        save_key(where / "driver.json", "driver", KeyPair.new())
        where.chmod(wrong)
        for act in (lambda: load_key(where / "driver.json"), lambda: save_key(where / "b.json", "node", KeyPair.new()),
                    lambda: own_key("driver", where)):
            with pytest.raises(SecurityError, match=f"{wrong:04o}.*chmod 700"):
                act()

    def test_a_link_is_refused(self, where: Path, tmp_path: Path) -> None:
        private_dir(tmp_path / "real")
        where.symlink_to(tmp_path / "real")
        with pytest.raises(SecurityError, match="symlink"):
            own_key("driver", where)

    @as_root
    def test_one_of_another_user_is_refused(self, where: Path) -> None:
        own_key("driver", where)
        os.chown(where, 65534, 65534)
        with pytest.raises(SecurityError, match="65534"):
            own_key("driver", where)


class TestFiles:
    def test_a_pair_is_found_again(self, where: Path) -> None:
        pair = KeyPair.new()
        save_key(where / "n.json", "node", pair)
        assert load_key(where / "n.json") == load_key(where / "n.json", "node") == pair

    def test_a_key_is_never_overwritten(self, where: Path) -> None:
        pair = KeyPair.new()
        save_key(where / "n.json", "node", pair)
        with pytest.raises(SecurityError, match="never overwritten"):
            save_key(where / "n.json", "node", KeyPair.new())
        assert load_key(where / "n.json") == pair
        assert [p.name for p in where.iterdir()] == ["n.json"]

    def test_ones_own_is_made_once(self, where: Path) -> None:
        assert own_key("driver", where) == own_key("driver", where) != own_key("node", where)

    def test_another_role_is_refused(self, where: Path) -> None:
        save_key(where / "n.json", "node", KeyPair.new())
        with pytest.raises(SecurityError, match="'node', not 'head'"):
            load_key(where / "n.json", "head")

    @pytest.mark.parametrize("wrong", [0o644, 0o640, 0o604, 0o700, 0o620])
    def test_one_that_others_can_reach_is_refused(self, where: Path, wrong: int) -> None:
        save_key(where / "n.json", "node", KeyPair.new())
        (where / "n.json").chmod(wrong)
        with pytest.raises(SecurityError, match=f"{wrong:04o}.*chmod 600"):
            load_key(where / "n.json")

    def test_a_missing_one_says_how_to_make_it(self, where: Path) -> None:
        private_dir(where)
        with pytest.raises(SecurityError, match=r"does not exist; `soma keygen --out .*n\.json`"):
            load_key(where / "n.json")

    def test_a_link_a_directory_and_a_pipe_are_refused(self, where: Path) -> None:
        save_key(where / "n.json", "node", KeyPair.new())
        (where / "link").symlink_to(where / "n.json")
        (where / "directory").mkdir()
        os.mkfifo(where / "pipe", 0o600)
        for name in ("link", "directory", "pipe"):
            with pytest.raises(SecurityError, match=name):
                load_key(where / name)

    @as_root
    def test_one_of_another_user_is_refused(self, where: Path) -> None:
        save_key(where / "n.json", "node", KeyPair.new())
        os.chown(where / "n.json", 65534, 65534)
        with pytest.raises(SecurityError, match="65534"):
            load_key(where / "n.json")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"role": "node"}', '{"role": 1, "public": 2, "secret": 3}', "[" * 4000,
                                      '"' + "x" * 5000 + '"', '{"role": "king", "public": "0", "secret": "0"}'])
    def test_what_is_no_key_file_is_refused(self, where: Path, text: str) -> None:
        private_dir(where)
        write_private(where / "n.json", text.encode())
        with pytest.raises(SecurityError, match=r"n\.json"):
            load_key(where / "n.json")

    def test_halves_that_do_not_belong_together_are_refused(self, where: Path) -> None:
        save_key(where / "n.json", "node", KeyPair.new())
        told = json.loads((where / "n.json").read_text())
        told["public"] = text_of(KeyPair.new().public)
        (where / "n.json").write_text(json.dumps(told))
        with pytest.raises(SecurityError, match="does not belong") as caught:
            load_key(where / "n.json")
        assert told["secret"] not in str(caught.value)

    def test_a_private_file_is_never_written_through_a_link(self, where: Path, tmp_path: Path) -> None:
        private_dir(where)
        (where / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError):
            write_private(where / "link", b"secret")
        assert not (tmp_path / "elsewhere").exists()

    def test_one_that_is_too_long_is_not_read(self, where: Path) -> None:
        private_dir(where)
        write_private(where / "long", b'"' + b"x" * 98 + b'"')
        assert read_private(where / "long", "", 100) == "x" * 98
        assert read_private(where / "long", "", 99) is None
