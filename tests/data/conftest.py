"""A web server on this machine that hands out archives, and images to fill them with."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graphkd.data.download import Archive


class Server(ThreadingHTTPServer):
    """Serves `files` by name, and keeps the ranges that it was asked for.

    Attributes:
        files: Content by name.
        ranges: The `Range` header of each request, None where there was none.
        knows_ranges: Whether it answers such requests with a part.
        breaks_after: Bytes after which the next connections break, one for each entry.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.knows_ranges = True
        self.breaks_after: list[int] = []

    def add(self, name: str, content: bytes) -> Archive:
        """Serves a file; returns where."""
        self.files[name] = content
        url = f"http://127.0.0.1:{self.server_address[1]}/{name}"
        return Archive(url, hashlib.md5(content).hexdigest(), name)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content = self.server.files.get(self.path.strip("/"))
        if content is None:
            self.send_error(404)
            return
        start = int(re.sub(r"\D", "", asked)) if asked and self.server.knows_ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        stop = start + self.server.breaks_after.pop(0) if self.server.breaks_after else len(content)
        self.wfile.write(content[start:stop])

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that is gone after the test."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file's content, from uint8 [H, W] or [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Makes an encoded random image of a seed, size and kind."""

    def make(seed: int, width: int = 8, height: int = 8, kind: str = "PNG") -> bytes:
        return encoded(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8), kind)

    return make


@pytest.fixture
def make_folder(picture: Callable[..., bytes]) -> Callable[..., Path]:
    """Makes a folder of images, `root/<split>/<class>/`, from the number of images in each class of each split."""

    def make(root: Path, splits: dict[str, dict[str, int]], size: int = 8) -> Path:
        seed = 0
        for split, classes in splits.items():
            for name, count in classes.items():
                (root / split / name).mkdir(parents=True)
                for index in range(count):
                    (root / split / name / f"{index}.png").write_bytes(picture(seed, size, size))
                    seed += 1
        return root

    return make
