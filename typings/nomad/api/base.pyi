import requests

class Requester:
    ENDPOINT: str
    def __init__(
        self,
        address: str | None = ...,
        uri: str | None = ...,
        port: int = ...,
        user_agent: str | None = ...,
        namespace: str | None = ...,
        token: str | None = ...,
        timeout: int = ...,
        version: str = ...,
        verify: bool = ...,
        cert: tuple[str, ...] = ...,
        region: str | None = ...,
        session: requests.Session | None = ...,
    ) -> None: ...
    def request(
        self,
        *args: str,
        method: str,
        params: dict[str, str] | None = ...,
        allow_redirects: bool = ...,
        timeout: float = ...,
        stream: bool = ...,
    ) -> requests.Response: ...
