"""Handlers of ``/v1/models``: the backend's own list, passed through (contract section 10)."""

from aiohttp import web

from batchd.api.parts import POOL, answer
from batchd.backends.models import ListedModel
from batchd.errors import NotFound
from batchd.wire.objects import ModelList, ModelObject


async def index(request: web.Request) -> web.Response:
    listed = await request.app[POOL].models()
    return answer(ModelList(data=[_object(model) for model in listed]))


async def retrieve(request: web.Request) -> web.Response:
    name = request.match_info["model"]
    for model in await request.app[POOL].models():
        if model.id == name:
            return answer(_object(model))
    raise NotFound(f"The model '{name}' does not exist", param="model", code="model_not_found")


def _object(model: ListedModel) -> ModelObject:
    created = model.created if isinstance(model.created, int | float) else 0
    owner = model.owned_by if isinstance(model.owned_by, str) else "backend"
    return ModelObject(id=model.id, created=int(created), owned_by=owner)
