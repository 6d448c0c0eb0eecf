"""Files as predictors name them: `Path` and `File`. A slot fetches them; `validate` is for code that does so itself."""

from __future__ import annotations

import io
import os
import pathlib
import shutil
import sys
import tempfile
import urllib.parse
import urllib.request
from typing import IO, Any

FETCHED = ("http", "https", "data")


class Path(pathlib.PosixPath):
    """A path, of an input that was fetched or of an output that is to be sent."""

    @classmethod
    def validate(cls, value: Any) -> pathlib.Path:
        """A path as it is; from a URL or a data URI one that is fetched by `convert`; else the path of that name."""
        if isinstance(value, pathlib.Path):
            return value
        if urllib.parse.urlsplit(value).scheme in FETCHED:
            return URLPath(source=value)
        return cls(value)


class URLPath(pathlib.PosixPath):
    """A file that is not here yet: its text is its URL.

    Attributes:
        source: the URL.
        filename: its last part.
    """

    source: str
    filename: str
    _here: Path | None

    def __new__(cls, *, source: str, filename: str = "", fileobj: Any = None) -> URLPath:
        parts = urllib.parse.urlsplit(source)
        name = filename or ("" if parts.scheme == "data" else os.path.basename(urllib.parse.unquote(parts.path))) or "file"
        clean = name.replace("/", "_").replace("\0", "_")[-200:]
        made: URLPath = super().__new__(cls, clean)
        made.source, made.filename, made._here = source, pathlib.PurePosixPath(clean).name, None
        return made

    def __init__(self, *, source: str, filename: str = "", fileobj: Any = None) -> None:
        if sys.version_info >= (3, 12):  # before, `__new__` made all of a path
            super().__init__(self.filename)

    def with_segments(self, *segments: str | os.PathLike[str]) -> Path:
        """What is derived from it is a path like any other."""
        return Path(*segments)

    def convert(self) -> Path:
        """Fetch it, once, into a file that stays until `unlink`. OSError if that fails."""
        if self._here is None:
            with File.validate(self.source) as told, tempfile.NamedTemporaryFile(suffix=self.filename, delete=False) as file:
                shutil.copyfileobj(told, file)
            self._here = Path(file.name)
        return self._here

    def unlink(self, missing_ok: bool = False) -> None:
        if self._here is not None:
            self._here.unlink(missing_ok=missing_ok)

    def __str__(self) -> str:
        return self.source


class File(io.IOBase):
    """An open file, in annotations. `Path` is the better one."""

    @classmethod
    def validate(cls, value: Any) -> IO[bytes]:
        """An open file as it is, or what is behind a URL. ValueError for other schemes than http, https and data."""
        if isinstance(value, io.IOBase):
            return value  # type: ignore[return-value]
        scheme = urllib.parse.urlsplit(value).scheme
        if scheme not in FETCHED:
            raise ValueError(f"'{scheme}' is not a valid URL scheme. 'data', 'http', or 'https' is supported.")
        opened: IO[bytes] = urllib.request.urlopen(value, timeout=10)
        return opened
