"""Which models a backend has: what it lists, and what its configuration says. Pure."""

import fnmatch

import msgspec

ANY = "*"


class ListedModel(msgspec.Struct, frozen=True):
    """What a backend says of a model. Servers differ, so only ``id`` is relied on."""

    id: str
    created: object = None
    owned_by: object = None


class _ModelsAnswer(msgspec.Struct, frozen=True):
    data: list[ListedModel]


_decode = msgspec.json.Decoder(_ModelsAnswer).decode


def listed_models(body: bytes) -> list[ListedModel]:
    """The answer to ``GET /v1/models``; ``ValueError`` or ``RecursionError`` if it is none."""
    return _decode(body).data


class KnownModels(msgspec.Struct, frozen=True):
    """The models that some backends list, and the globs that their configuration adds."""

    listed: frozenset[str]
    globs: tuple[str, ...] = ()

    def __contains__(self, model: str) -> bool:
        # Ollama lists "llama3:latest" and takes "llama3".
        if model in self.listed or f"{model}:latest" in self.listed:
            return True
        return matches(model, self.globs)

    def __or__(self, other: "KnownModels") -> "KnownModels":
        return KnownModels(self.listed | other.listed, self.globs + other.globs)


def matches(model: str, globs: tuple[str, ...]) -> bool:
    """Whether one of the globs is this model's."""
    return any(fnmatch.fnmatchcase(model, glob) for glob in globs)
