"""Cog's predictor API, under Cog's names: what predictors import from `cog`, for predictors that run where that package is not installed.

`install()` makes `import cog` give this; where the real package is there, it stays, and only what must belong to soma is put into it.
"""

from __future__ import annotations

from soma.serve.compat.calls import CancelationException as CancelationException
from soma.serve.compat.calls import ExperimentalFeatureWarning as ExperimentalFeatureWarning
from soma.serve.compat.calls import concurrent as concurrent
from soma.serve.compat.calls import current_scope as current_scope
from soma.serve.compat.calls import emit_metric as emit_metric
from soma.serve.compat.calls import streaming as streaming
from soma.serve.compat.files import File as File
from soma.serve.compat.files import Path as Path
from soma.serve.compat.files import URLPath as URLPath
from soma.serve.compat.inputs import FieldInfo as FieldInfo
from soma.serve.compat.inputs import Input as Input
from soma.serve.compat.inputs import Opaque as Opaque
from soma.serve.compat.inputs import Secret as Secret
from soma.serve.compat.installing import install as install
from soma.serve.compat.models import BaseModel as BaseModel
from soma.serve.compat.models import BasePredictor as BasePredictor
from soma.serve.compat.models import BaseRunner as BaseRunner
from soma.serve.compat.streams import AsyncConcatenateIterator as AsyncConcatenateIterator
from soma.serve.compat.streams import ConcatenateIterator as ConcatenateIterator
