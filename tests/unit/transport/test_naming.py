"""Names that say where a mailbox is: what is written is read, and nothing else is a name."""

from __future__ import annotations

import ipaddress
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.errors import ProtocolError
from soma.transport import messages as m
from soma.transport.frames import pack, unpack
from soma.transport.naming import NAME_CHARS, is_name, local_name, located, parse, tcp_address

LETTERS = "abcXYZ019"
bases = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,37}", fullmatch=True)
tags = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
ports = st.integers(1, 65_535)
labels = st.text(LETTERS + "-", min_size=1, max_size=12).filter(lambda s: not s.startswith("-") and not s.endswith("-"))
dns = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda s: not re.fullmatch("[0-9.]+", s))
hosts = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), dns)


@given(bases, tags, hosts, ports, ports)
def test_a_name_is_read_as_it_was_written(base: str, tag: str, host: str, port: int, side_port: int) -> None:
    name = located(base, tag, host, port, side_port)
    assert is_name(name) and len(name) + 2 <= NAME_CHARS
    for whole, file, its_port in ((name, base, port), (name + ".s", base + ".s", side_port)):
        place = parse(whole)
        assert place is not None
        assert (place.base, place.tag, place.host, place.port, place.file) == (base, tag, host, its_port, file)
        assert local_name(whole) == file
        assert "/" not in file and len(file) <= 40


@given(bases)
def test_a_name_of_one_machine_is_itself(base: str) -> None:
    assert is_name(base) and parse(base) is None and local_name(base) == base


@given(st.text(LETTERS + "@,.:-_/\0\n ", max_size=60))
def test_what_is_taken_for_a_name_is_one(text: str) -> None:
    """Told by other means: split at the signs, and each part looked at by the library that will use it."""
    place = parse(text)
    if place is None:
        return
    base, rest = text.split("@")
    tag, host, *numbers = rest.removesuffix(".s").split(",")
    assert 0 <= int(tag, 16) < 2**32 and all(0 < int(n) < 65_536 for n in numbers) and len(numbers) == 2
    assert base == place.base and not set(base) & set("/\0@,")
    if ":" in host:
        socket.inet_pton(socket.AF_INET6, host)


BAD = [
    "", ".", "..", "-a", "a/b", "a\0", "a\n", "ä", "a b", "a" * 39, "a@", "a@0123abcd", "a@0123abcd,h", "a@0123abcd,h,1",
    "a@0123abcd,h,1,2,3", "a@0123abcX,h,1,2", "a@0123ABCD,h,1,2", "a@0123abc,h,1,2", "a@0123abcde,h,1,2", "a@0123abcd,,1,2",
    "a@0123abcd,h,0,2", "a@0123abcd,h,1,0", "a@0123abcd,h,01,2", "a@0123abcd,h,65536,2", "a@0123abcd,h,1,99999", "a@0123abcd,h,+1,2",
    "a@0123abcd,h,1,2 ", "a@0123abcd,h,1,2\n", "a@0123abcd,h,1,2.s.s", "a@0123abcd,h,1,2.t", "a@0123abcd,256.1.1.1,1,2",
    "a@0123abcd,1.2.3,1,2", "a@0123abcd,:::,1,2", "a@0123abcd,fe80::1%eth0,1,2", "a@0123abcd,[::1],1,2", "a@0123abcd,-h,1,2",
    "a@0123abcd,h-,1,2", "a@0123abcd,h..i,1,2", "a@0123abcd,h_i,1,2", "a@0123abcd,h/i,1,2", "a@0123abcd,*,1,2", "../a@0123abcd,h,1,2",
    "a@b@0123abcd,h,1,2", "a@0123abcd,h;tcp,1,2", "a@0123abcd," + "h" * 64 + ",1,2", "a" * 38 + "@0123abcd," + "h." * 34 + "h,10000,20000",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_name_is_refused(text: str) -> None:
    assert not is_name(text)
    if "@" in text:
        assert parse(text) is None
    with pytest.raises(ProtocolError, match="Watch.peer"):
        unpack(pack(m.Watch("a", text)))  # type: ignore[arg-type]


def test_a_side_mailbox_is_no_peer() -> None:
    assert is_name("a@0123abcd,h,1,2") and not is_name("a@0123abcd,h,1,2.s")


def test_headers_take_both_kinds() -> None:
    for name in ("d-0123", "a.0@0123abcd,2001:db8::1,5,6"):
        for _ in range(2):  # the second time it is known
            assert unpack(pack(m.Watch("a", name))).peer == name  # type: ignore[arg-type]


@pytest.mark.parametrize("base, tag, host, port", [
    ("a/b", "0" * 8, "h", 1), ("a", "0", "h", 1), ("a", "0" * 8, "", 1), ("a", "0" * 8, "h", 0)])
def test_bad_parts_raise(base: str, tag: str, host: str, port: int) -> None:
    with pytest.raises(ValueError, match="no name of a peer"):
        located(base, tag, host, port, 1)


@given(hosts, ports)
def test_addresses_have_brackets_where_they_must(host: str, port: int) -> None:
    address = tcp_address(host, port)
    assert address.startswith("tcp://") and address.endswith(f":{port}")
    inner = address[len("tcp://"):-len(f":{port}")]
    assert inner == (f"[{ipaddress.ip_address(host)}]" if ":" in host else host)
