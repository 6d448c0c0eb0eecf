"""Predictors as Cog has them: soma and coglet serve this file."""

from cog import BasePredictor, ConcatenateIterator, streaming

from benchmarks.serving_peers.doing import do, words


class Plain(BasePredictor):
    def predict(self, what: str = "", n: int = 0, data: str = "") -> int:
        return do(what, n, data)


class Words(BasePredictor):
    @streaming
    def predict(self, n: int = 0) -> ConcatenateIterator[str]:
        yield from words(n)
