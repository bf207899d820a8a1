"""Vectors of texts: OpenAI's form, and Ollama's two."""

from contracts import EmbeddingRequest
from contracts.embedding import MOST_INPUTS
from contracts.response import MOST_DIMENSIONS
from gateway.dialects.embeddings import OURS
from gateway.shapes import (
    COUNT,
    FLAG,
    INTEGER,
    NUMBER,
    TEXT,
    Schema,
    either,
    full,
    items,
    one_of,
    optional,
    or_null,
    ours,
    record,
    word,
)

TEXT_OF_WORDS: Schema = {"type": "string", "pattern": r"\S"}
TEXTS: Schema = {**items(TEXT_OF_WORDS, 1), "maxItems": MOST_INPUTS}
DIMENSIONS: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_DIMENSIONS}
OUR_FIELDS = {name: schema for name, schema in ours(*OURS).items() if name in EmbeddingRequest.model_fields}
VECTOR = items(NUMBER, 1)

REQUEST = record(
    "input",
    input=either(TEXT_OF_WORDS, TEXTS),
    **optional(model=TEXT, dimensions=DIMENSIONS, encoding_format=one_of(("", "float", "base64"))),
    **OUR_FIELDS,
)
ANSWER = full(
    object=word("list"),
    data=items(full(object=word("embedding"), index=COUNT, embedding=either(VECTOR, TEXT)), 1),
    model=TEXT,
    usage=full(prompt_tokens=COUNT, total_tokens=COUNT),
)
OLLAMA: dict[str, Schema] = {"model": TEXT, **optional(truncate=FLAG, dimensions={**INTEGER, "minimum": 1})}
OLLAMA_REQUEST = record("model", **OLLAMA, input=or_null(either(TEXT, {**items(TEXT), "maxItems": MOST_INPUTS})))
OLLAMA_ANSWER = full(model=TEXT, embeddings=items(VECTOR))
OLLAMA_ONE_REQUEST = record("model", **OLLAMA, prompt=or_null(either(TEXT, {**items(TEXT), "maxItems": MOST_INPUTS})))
OLLAMA_ONE_ANSWER = full(embedding=items(NUMBER))
