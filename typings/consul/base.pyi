from collections.abc import Mapping
from typing import Any, NamedTuple

class Response(NamedTuple):
    code: int
    headers: Mapping[str, str]
    body: Any

class HTTPClient:
    host: str
    port: int
    scheme: str
    base_uri: str
    def __init__(
        self,
        host: str = ...,
        port: int = ...,
        scheme: str = ...,
        verify: bool | str = ...,
        cert: str | tuple[str, str] | None = ...,
    ) -> None: ...
    def uri(self, path: str, params: list[tuple[str, str]] | None = ...) -> str: ...
