"""OpenAI's files: `/v1/files`."""

import itertools
import re
import threading
import time
from dataclasses import dataclass

from mahsm.testing._endpoint import Download, HttpRequest
from mahsm.testing._job_registry import JobRegistry
from mahsm.testing._pages import page
from mahsm.testing._wire import Body, Refusal

MOST_BYTES = 200_000_000
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_FIELD = re.compile(rb'name="([^"]*)"')
_FILENAME = re.compile(rb'filename="([^"]*)"')


@dataclass(frozen=True)
class File:
    """A file: what the API says of it, and its content."""

    info: Body
    data: bytes


class OpenAIFiles:
    """The files of a server. Thread-safe."""

    def __init__(self, registry: JobRegistry) -> None:
        self._registry = registry
        self._files: dict[str, File] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, name: str, purpose: str, data: bytes) -> Body:
        """Store a file, and return what the API says of it."""
        with self._lock:
            info: Body = {
                "id": f"file-{next(self._numbers):08d}",
                "object": "file",
                "bytes": len(data),
                "created_at": int(time.time()),
                "expires_at": None,
                "filename": name,
                "purpose": purpose,
                "status": "processed",
                "status_details": None,
            }
            self._files[info["id"]] = File(info, data)
        return info

    def get(self, id: str) -> File:
        """Return a file.

        Raises:
            Refusal: if there is no such file.
        """
        with self._lock:
            if id not in self._files:
                raise Refusal(404, f"No such File object: {id}", param="id")
            return self._files[id]

    def upload(self, request: HttpRequest) -> Body:
        fields = _form(request)
        purpose = fields.get("purpose", ("", b""))[1].decode()
        if purpose not in _PURPOSES:
            raise Refusal(400, f"{purpose!r} is not one of {list(_PURPOSES)!r} - 'purpose'", param="purpose")
        if "file" not in fields:
            raise Refusal(400, "'file' is a required property", param="file")
        name, data = fields["file"]
        most = self._registry.limits.max_bytes or MOST_BYTES
        if purpose == "batch" and len(data) > most:
            raise Refusal(413, f"The batch file has {len(data)} bytes; at most {most} are allowed.")
        return self.add(name, purpose, data)

    def info(self, request: HttpRequest) -> Body:
        return self.get(request.id).info

    def content(self, request: HttpRequest) -> Download:
        return Download(self.get(request.id).data, "application/octet-stream")

    def list(self, request: HttpRequest) -> Body:
        with self._lock:
            files = [file.info for file in reversed(self._files.values())]
        if "purpose" in request.query:
            files = [file for file in files if file["purpose"] == request.query["purpose"]]
        ids = [file["id"] for file in files]
        found, more = page(ids, files, request.query, after="after", before="before", most=10_000)
        return {"object": "list", "data": found, "has_more": more}

    def delete(self, request: HttpRequest) -> Body:
        self.get(request.id)
        with self._lock:
            del self._files[request.id]
        return {"id": request.id, "object": "file", "deleted": True}


def _form(request: HttpRequest) -> dict[str, tuple[str, bytes]]:
    """Return the file names and values of a form, by the names of its fields."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    if boundary is None:
        raise Refusal(400, "Invalid Content-Type header; expected multipart/form-data with a boundary.")
    fields: dict[str, tuple[str, bytes]] = {}
    for part in request.body.split(b"--" + boundary[1].encode())[1:-1]:
        head, _, value = part.partition(b"\r\n\r\n")
        if (name := _FIELD.search(head.replace(b"filename=", b"file="))) is not None:
            file = _FILENAME.search(head)
            fields[name[1].decode()] = (file[1].decode() if file else "", value.removesuffix(b"\r\n"))
    return fields
