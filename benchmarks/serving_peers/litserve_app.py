"""The server of LitServe that is measured: `python -m benchmarks.serving_peers.litserve_app PORT WHAT SLOTS`.

Its classes stand here, for it pickles them by name.
"""

from __future__ import annotations

import sys
from typing import Any

import litserve

from benchmarks.serving_peers.doing import do, words


class Plain(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        return None

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation would be taken for the shape of the request
        return request

    def predict(self, x: dict[str, Any]) -> Any:
        return do(x.get("what", ""), x.get("n", 0), x.get("data", ""))

    def encode_response(self, output: Any) -> Any:
        return {"output": output}


class Words(Plain):
    def predict(self, x: dict[str, Any]) -> Any:
        yield from words(x["n"])

    def encode_response(self, output: Any) -> Any:
        for word in output:
            yield {"output": word}


if __name__ == "__main__":
    port, what, slots = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    api = Words(stream=True) if what == "Words" else Plain()
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=slots)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False, num_api_servers=1)
