"""Which models a backend has: what it lists, and what its configuration says. Pure."""

import contextlib
import fnmatch

import msgspec

ANY = "*"


_LATEST = 10**12  # seconds since the epoch; more is no instant


class ListedModel(msgspec.Struct, frozen=True):
    """What a backend says of a model. Servers differ, so only ``id`` is relied on."""

    id: str
    created: int | None = None
    owned_by: str | None = None


_ABSENT = msgspec.Raw(b"null")


class _Model(msgspec.Struct, frozen=True):
    id: str
    created: msgspec.Raw = _ABSENT
    owned_by: msgspec.Raw = _ABSENT


class _ModelsAnswer(msgspec.Struct, frozen=True):
    data: list[_Model]


_decode = msgspec.json.Decoder(_ModelsAnswer).decode
_decode_created = msgspec.json.Decoder(float).decode
_decode_owner = msgspec.json.Decoder(str).decode


def listed_models(body: bytes) -> list[ListedModel]:
    """The answer to ``GET /v1/models``; ``ValueError`` or ``RecursionError`` if it is none."""
    return [
        ListedModel(model.id, _created(model.created), _owner(model.owned_by))
        for model in _decode(body).data
    ]


def _created(raw: msgspec.Raw) -> int | None:
    with contextlib.suppress(ValueError):
        created = _decode_created(raw)
        return int(created) if 0 <= created <= _LATEST else None
    return None


def _owner(raw: msgspec.Raw) -> str | None:
    with contextlib.suppress(ValueError):
        return _decode_owner(raw)
    return None


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
