"""Becoming a member of a cluster: from an address and a token, or a key that is known there, to what a member has to know."""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass
from typing import Any

from soma.daemon.gate import versions
from soma.errors import ClusterError, SecurityError
from soma.transport import messages as m
from soma.transport.control_client import ControlClient
from soma.transport.keys import JoinToken, KeyPair, key_of, keys_dir, load_key, own_key, private_dir, read_private, text_of, write_private

JOIN_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Joined:
    """A connection to the control port with our own key, and the head's welcome. The caller closes the connection."""

    client: ControlClient
    welcome: m.Welcome
    head_key: bytes


def join(address: str, role: str, node: str | None, token: str | None) -> Joined:
    """Join the cluster whose head listens at `address`.

    Raises:
        SecurityError: no token and no key that is known there, or the head refuses it.
        ClusterError: the head cannot be reached. VersionMismatchError: it runs another soma or Python.
    """
    mine = own_key("node" if role == "node" else "driver")
    parsed = JoinToken.parse(token) if token else None
    head_key = parsed.head if parsed is not None else known_head(address)
    asked = m.Join(secrets.token_bytes(16), role, node, mine.public, versions())
    if parsed is not None:
        first = ControlClient(address, head_key, parsed.pair())
        try:
            first.request(asked, JOIN_TIMEOUT)
        finally:
            first.close()
        remember_head(address, head_key)
    client = ControlClient(address, head_key, mine)
    try:
        welcome, _ = client.request(m.Join(secrets.token_bytes(16), role, node, mine.public, versions()), JOIN_TIMEOUT)
        if not isinstance(welcome, m.Welcome):
            raise ClusterError(f"the head at {address} answers a Join with {type(welcome).__name__}")
    except BaseException:
        client.close()
        raise
    return Joined(client, welcome, head_key)


def data_pair(welcome: m.Welcome) -> KeyPair:
    return KeyPair(welcome.data_public, welcome.data_secret)


def known_head(address: str) -> bytes:
    """The public key of a head that we joined before, or that is this user's own on this machine."""
    found = _heads().get(address)
    if found is not None:
        return key_of(found)
    own = keys_dir() / "head.json"
    if os.path.lexists(own):
        return load_key(own, "head").public
    raise SecurityError(f"nothing is known of a head at {address}: give a join token (`soma token create` on the head's machine prints "
                        "one), as token=…, --token or SOMA_TOKEN")


def remember_head(address: str, public: bytes) -> None:
    """So that the next time no token is needed. (Whether our key is still welcome, the head decides.)"""
    heads = {**_heads(), address: text_of(public)}
    path = private_dir(keys_dir()) / "heads.json"
    fresh = path.with_name(f".heads.{secrets.token_hex(4)}")
    write_private(fresh, json.dumps(heads).encode())
    fresh.rename(path)


def _heads() -> dict[str, str]:
    path = keys_dir() / "heads.json"
    if not os.path.lexists(path):
        return {}
    told: Any = read_private(path, "remove it; the next join with a token writes it again", 256 * 1024)
    return {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}


def own_host(address: str) -> str:
    """The address of this machine from which `address` is reached: what others reach it by, unless somebody translates addresses."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        family, kind, proto, _, target = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(target)  # sends nothing: only asks the system for a route
            found: str = probe.getsockname()[0]
    except (OSError, ValueError) as e:
        raise ClusterError(f"there is no way to {address}: {e}; an address is tcp://HOST:PORT") from None
    return found
