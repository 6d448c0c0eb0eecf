"""What a predictor takes and gives: read from its annotations, checked by the front end, told as OpenAPI. Pure."""

from __future__ import annotations

from soma.serve.schema.definitions import signature_of as signature_of
from soma.serve.schema.faults import Invalid as Invalid
from soma.serve.schema.hints import SignatureError as SignatureError
from soma.serve.schema.openapi import openapi as openapi
from soma.serve.schema.signature import Output as Output
from soma.serve.schema.signature import Parameter as Parameter
from soma.serve.schema.signature import Signature as Signature
