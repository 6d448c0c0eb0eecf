"""Files that come in and go out, with a real server on the loopback; and outputs as JSON."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import enum
import io
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, Optional, TypedDict
from urllib.parse import quote

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soma.serve.slots.encoding import OutputError, encoded
from soma.serve.slots.fetching import FileError, Folder, data_of, fetched, name_of, without_secrets
from soma.serve.slots.inputs import Parameters
from soma.serve.slots.outputs import MANY, PIECE, Outputs
from soma.serve.slots.sending import Sender
from soma.serve.slots.terms import Limits


class Server(ThreadingHTTPServer):
    """What it is to answer is put into `answers`, by path; what it was sent is in `got`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Callable[[_Handler], None]] = {}
        self.got: list[tuple[str, bytes, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.answers[self.path.partition("?")[0]](self)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, body, {k.lower(): v for k, v in self.headers.items()}))
        self.server.answers.get("PUT", say(b""))(self)

    def log_message(self, *args: Any) -> None:
        """Silence."""


def say(body: bytes, status: int = 200, **headers: str) -> Callable[[_Handler], None]:
    def answer(handler: _Handler) -> None:
        handler.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        with contextlib.suppress(ConnectionError):  # who asked has gone
            handler.wfile.write(body)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder() -> Iterator[Folder]:
    with contextlib.closing(Folder()) as folder:
        yield folder


# -- in --------------------------------------------------------------------------------------------------------------------------


def test_a_url_and_two_of_one_name(server: Server, folder: Folder) -> None:
    server.answers["/a/cat.png"] = say(b"one")
    server.answers["/b/cat.png"] = say(b"two")
    paths = [Path(fetched(f"{server.url}/{p}/cat.png?sig=x", folder, Limits())) for p in "ab"]
    assert [p.name for p in paths] == ["cat.png"] * 2 and [p.read_bytes() for p in paths] == [b"one", b"two"]
    root = paths[0].parents[1]
    assert root.stat().st_mode & 0o777 == 0o700
    folder.close()
    assert not root.exists()


@given(st.binary(max_size=200), st.sampled_from(["image/png", "", "text/plain;charset=utf-8"]), st.booleans())
def test_data_uris(data: bytes, mime: str, plain: bool) -> None:
    uri = f"data:{mime}," + quote(data) if plain else f"data:{mime};base64," + base64.b64encode(data).decode()
    assert data_of(uri) == (mime.partition(";")[0] or "text/plain", data)


def test_a_data_uri_as_a_file(folder: Folder) -> None:
    path = Path(fetched("data:image/png;base64,aGVsbG8=", folder, Limits()))
    assert path.name == "file.png" and path.read_bytes() == b"hello"


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "/etc/passwd", "etc/passwd", "ftp://127.0.0.1/x", "FILE:///etc/passwd", "",
                                 "data:nothing", "data:;base64,%%%", "data:;base64,a", "http://", "http://[::1", "gopher://x"])
def test_what_is_no_file_for_us(uri: str, folder: Folder) -> None:
    with pytest.raises((FileError, ValueError)):
        fetched(uri, folder, Limits())


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_leads_to_http_only(server: Server, folder: Folder, to: str) -> None:
    server.answers["/x"] = say(b"", 302, Location=to)
    with pytest.raises(FileError, match="cannot be fetched"):
        fetched(f"{server.url}/x", folder, Limits())


def test_a_redirect_is_followed(server: Server, folder: Folder) -> None:
    server.answers["/x"] = say(b"", 302, Location="/y")
    server.answers["/y"] = say(b"here")
    assert Path(fetched(f"{server.url}/x", folder, Limits())).read_bytes() == b"here"


def test_too_large_with_and_without_its_size(server: Server, folder: Folder) -> None:
    server.answers["/told"] = say(b"x" * 1001)

    def untold(handler: _Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                handler.wfile.write(b"x" * 1000)

    server.answers["/untold"] = untold
    for path in ("told", "untold"):
        with pytest.raises(FileError, match=r"at most 1000|more than 1000"):
            fetched(f"{server.url}/{path}", folder, Limits(input_bytes=1000))
    with pytest.raises(FileError, match="at most 3"):
        fetched("data:,four", folder, Limits(input_bytes=3))


def test_a_server_that_drips(server: Server, folder: Folder) -> None:
    """All of a file has a time, not only each of its bytes."""
    ticks = iter([0.0, 1.0, 2.0, 31.0])

    def drip(handler: _Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(ConnectionError):
            while True:
                handler.wfile.write(b"x")

    server.answers["/slow"] = drip
    with pytest.raises(FileError, match="not there within 30 s"):
        fetched(f"{server.url}/slow", folder, Limits(fetch_seconds=30.0), clock=lambda: next(ticks))


def test_a_server_that_breaks_off_or_says_no(server: Server, folder: Folder) -> None:
    server.answers["/short"] = say(b"abc", Content_Length="10")
    server.answers["/no"] = say(b"", 403)
    with pytest.raises(FileError, match=r"ended after 3 of 10|IncompleteRead"):
        fetched(f"{server.url}/short", folder, Limits())
    with pytest.raises(FileError, match=r"/no cannot be fetched: the server says 403") as e:
        fetched(f"{server.url}/no?signature=secret", folder, Limits())
    assert "secret" not in str(e.value)


def test_nobody_there(folder: Folder) -> None:
    with pytest.raises(FileError, match="refused"):
        fetched("http://127.0.0.1:9/x", folder, Limits())


@given(st.text(max_size=300), st.text(max_size=20))
def test_a_name_is_one_harmless_part(path: str, query: str) -> None:
    for url in ("http://x/" + path, "http://x/" + quote(path) + "?" + quote(query)):
        try:
            name = name_of(url)
        except ValueError:
            continue  # no URL at all
        assert name and "/" not in name and "\0" not in name and name not in (".", "..") and not name.startswith(".")
        assert len(name.encode("utf-8", "surrogateescape")) <= 200


@pytest.mark.parametrize(("url", "name"), [
    ("http://x/a/b.png", "b.png"), ("http://x/..%2f..%2fetc%2fpasswd", "_.._etc_passwd"), ("http://x/", "file"),
    ("http://x/..", "file"), ("http://x/.hidden", "hidden"), ("http://x/a%00b", "a_b")])
def test_names(url: str, name: str) -> None:
    assert name_of(url) == name


def test_a_url_for_people_has_no_secrets() -> None:
    assert without_secrets("https://me:pw@host/x?sig=1#f") == "https://host/x"


# -- parameters ------------------------------------------------------------------------------------------------------------------


class Mine(type(Path())):  # type: ignore[misc]
    """A path of the predictor's own kind."""


@dataclasses.dataclass(frozen=True)
class Secret:
    secret_value: str

    def get_secret_value(self) -> str:
        return self.secret_value


class Color(enum.Enum):
    RED = "red"


class Area(TypedDict):
    mask: Path
    name: str


@dataclasses.dataclass
class Layer:
    area: Area
    color: Color = Color.RED


def predictor(one: Mine, text: str, several: list[Path], maybe: Optional[Path], file: io.BytesIO, key: Secret,  # noqa: UP045
              named: dict[str, Path], either: Annotated[Path, "x"] | None, color: Color, layers: list[Layer],
              own: Path = Path("weights/own.bin")) -> None:
    """Never called."""


def test_by_annotation() -> None:
    parameters, opened = Parameters(predictor), []
    assert parameters.has_files
    with tempfile.NamedTemporaryFile() as real:
        real.write(b"content")
        real.flush()
        given = {"one": "http://a", "text": "http://t", "several": ["http://b", "http://c"], "maybe": None, "file": "f", "key": "k",
                 "named": {"x": "http://d"}, "either": "http://e", "color": "red", "own": "weights/own.bin",
                 "layers": [{"area": {"mask": "http://m", "name": "http://n"}, "color": "red"}]}
        got = parameters.convert(given, lambda uri: real.name if uri == "f" else "/got/" + uri[-1], opened)
        assert got["file"].read() == b"content" and opened == [got["file"]]
        opened[0].close()
    assert type(got["one"]) is Mine and got["one"] == Mine("/got/a") and got["text"] == "http://t" and got["maybe"] is None
    assert got["several"] == [Path("/got/b"), Path("/got/c")] and got["named"] == {"x": Path("/got/d")} and got["either"] == Path("/got/e")
    assert got["key"] == Secret("k") and got["color"] is Color.RED
    assert got["layers"] == [Layer({"mask": Path("/got/m"), "name": "http://n"}, Color.RED)]
    assert got["own"] == Path("weights/own.bin"), "a predictor's own default is no URL"


def test_the_input_that_fails_is_named() -> None:
    def refuse(uri: str) -> str:
        raise FileError("it is not there")

    with pytest.raises(FileError, match="input 'one': it is not there"):
        Parameters(predictor).convert({"one": "x"}, refuse, [])


# -- out -------------------------------------------------------------------------------------------------------------------------


def sender(target: str = "") -> Sender:
    return Sender(target, "../../an id", Limits(), pause=lambda seconds: None)


def test_data_uris_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    got = encoded([tmp_path / "a.png", tmp_path / "b"], sender())
    assert got == ["data:image/png;base64,MQ==", "data:application/octet-stream;base64,Mg=="]


def test_uploads(server: Server, tmp_path: Path) -> None:
    (tmp_path / "my cat.png").write_bytes(b"1")
    (tmp_path / "b.txt").write_bytes(b"2")
    mine = sender(server.url + "/up")
    got = encoded({"files": [tmp_path / "my cat.png", tmp_path / "b.txt"]}, mine)
    assert got == {"files": [f"{server.url}/up/my%20cat.png", f"{server.url}/up/b.txt"]}
    assert [(path, body) for path, body, _ in server.got] == [("/up/my%20cat.png", b"1"), ("/up/b.txt", b"2")]
    headers = server.got[0][2]
    assert headers["content-type"] == "image/png" and headers["x-prediction-id"] == "../../an%20id"


def test_where_the_server_says_it_is(server: Server) -> None:
    server.answers["PUT"] = say(b"", 201, Location="http://cdn/x.png?signature=secret")
    assert sender(server.url).sent_bytes(b"1", "x.png") == "http://cdn/x.png"


def test_an_upload_is_tried_again_and_then_said(server: Server) -> None:
    server.answers["PUT"] = say(b"", 503)
    with pytest.raises(FileError, match=r"'x.png' cannot be uploaded to .*/up/x.png: the server says 503"):
        sender(server.url + "/up/").sent_bytes(b"1", "x.png")
    assert len(server.got) == 3
    server.answers["PUT"] = say(b"", 403)
    with pytest.raises(FileError, match="403"):
        sender(server.url).sent_bytes(b"1", "x.png")
    assert len(server.got) == 4, "who says no is not asked again"


def test_an_upload_server_that_is_not_there() -> None:
    with pytest.raises(FileError, match="cannot be uploaded"):
        sender("http://127.0.0.1:9/").sent_bytes(b"1", "x.png")


@pytest.mark.parametrize("path", ["/nowhere/x.png", "/tmp"])
def test_an_output_file_that_is_none(path: str) -> None:
    with pytest.raises(FileError, match=f"output file '{path}' cannot be read"):
        encoded(Path(path), sender())


def test_open_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with open(tmp_path / "a.txt", "rb") as f:
        f.read()
        assert encoded(f, sender()) == "data:text/plain;base64,YWJj"
    assert encoded(io.StringIO("abc"), sender()) == "data:application/octet-stream;base64,YWJj"


def test_temporary_files_are_removed_afterwards_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, other = tmp_path / "temporary", tmp_path / "other"
    for directory in (temporary, other):
        directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    made = Path(tempfile.mkdtemp()) / "x.png"
    with_others = Path(tempfile.mkdtemp()) / "x.png"
    for path in (made, with_others, with_others.parent / "kept", other / "x.png"):
        path.write_bytes(b"1")
    mine = sender()
    assert len(set(encoded([made, made, with_others, other / "x.png"], mine))) == 1
    mine.close()
    assert sorted(os.listdir(temporary)) == [with_others.parent.name] and os.listdir(with_others.parent) == ["kept"]
    assert (other / "x.png").exists()


# -- values ----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Box:
    label: str
    at: tuple[int, int]


class Model:
    def model_dump(self) -> dict[str, Any]:
        return {"a": Color.RED}


@pytest.mark.parametrize(("value", "want"), [
    (None, None), (1, 1), (2**70, 2**70), (0.5, 0.5), ("ä", "ä"), (True, True), ((1, [2, {3: 4}]), [1, [2, {"3": 4}]]), (Color.RED, "red"),
    (Box("x", (1, 2)), {"label": "x", "at": [1, 2]}), (Model(), {"a": "red"}), (np.arange(4.0).reshape(2, 2), [[0.0, 1.0], [2.0, 3.0]]),
    (np.float32(0.5), 0.5), (np.int64(3), 3), ({"a": np.array(1)}, {"a": 1}), (Secret("k"), str(Secret("k"))), ({1}, [1]),
])
def test_values(value: Any, want: Any) -> None:
    got = encoded(value, sender())
    assert got == want and type(got) is type(want)
    json.dumps(got)


@pytest.mark.parametrize(("value", "where"), [
    (float("nan"), "output is nan"), ([1, {"a": [float("inf")]}], r"output\[1\]\['a'\]\[0\] is inf"),
    (np.array([np.nan]), r"output\[0\] is nan"), (object(), "is a object"), (b"x", "is a bytes"), ({(1, 2): 3}, "has a key")])
def test_what_json_cannot_hold(value: Any, where: str) -> None:
    with pytest.raises(OutputError, match=where):
        encoded(value, sender())


def test_a_value_that_contains_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(OutputError, match="contains itself"):
        encoded(value, sender())


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters())
nested = st.recursive(plain, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below, max_size=3))


@given(st.lists(nested, max_size=5))
def test_items_are_told_whole_or_in_pieces(values: list[Any]) -> None:
    said: list[dict[str, Any]] = []
    outputs = Outputs(said.append, sender(), lambda flush: None)
    for value in values:
        outputs.give(outputs.encoded(value))
    outputs.flush()
    assert put_together(said) == values and outputs.count == len(values)


def test_a_large_item_comes_in_pieces() -> None:
    said: list[dict[str, Any]] = []
    Outputs(said.append, sender(), lambda flush: None).give("ä" * 200_000)
    assert put_together(said) == ["ä" * 200_000] and max(len(s["part"]) for s in said) == PIECE


def test_a_lone_item_leaves_at_once_and_a_crowd_together() -> None:
    said: list[dict[str, Any]] = []
    waiting: list[Callable[[], None]] = []
    outputs = Outputs(said.append, sender(), waiting.append)
    outputs.give(0)
    assert said == [{"kind": "output", "index": 0, "value": 0}]
    for i in range(1, 3000):
        outputs.give(i)
    assert len(said) < 60 and max(len(m.get("values", ())) for m in said) <= MANY
    for flush in waiting:
        flush()
    assert put_together(said) == list(range(3000))


@given(st.lists(st.text(max_size=20_000), max_size=30))
def test_no_message_is_too_large(values: list[str]) -> None:
    said: list[dict[str, Any]] = []
    outputs = Outputs(said.append, sender(), lambda flush: None)
    for value in values:
        outputs.give(value)
    outputs.flush()
    assert put_together(said) == values
    assert all(len(msgpack.packb(message)) < 60_000 for message in said)


def put_together(said: list[dict[str, Any]]) -> list[Any]:
    found: list[Any] = []
    text = ""
    for message in said:
        if message["kind"] == "outputs":
            assert message["first"] == len(found)
            found += message["values"]
            continue
        assert message["kind"] == "output" and message["index"] == len(found)
        text += message.get("part", "")
        if "part" not in message:
            found.append(message["value"])
        elif message["last"]:
            found.append(json.loads(text))
            text = ""
    return found
