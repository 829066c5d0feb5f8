"""The URLs for whoever runs the daemon, a part of the list in ``routes``."""

from typing import Literal

from batchd.api import backends, dashboard, limits, openapi, ops
from batchd.api.messages import json_of, parameter, text
from batchd.api.route import Route
from batchd.backends.status import BackendStatus
from batchd.errors import NotFound
from batchd.metrics import CONTENT_TYPE

OPERATOR_ROUTES: tuple[Route, ...] = (
    Route(
        name="listBackends",
        method="get",
        path="/v1/backends",
        handler=backends.index,
        summary="See what each model server is doing.",
        answers=json_of(backends.BackendList, "The model servers, as configured."),
    ),
    Route(
        name="resumeBackend",
        method="post",
        path="/v1/backends/{name}/resume",
        handler=backends.resume,
        summary="Try a model server at once that is waited for.",
        parameters=(parameter("path", "name", str, "The name of a backend."),),
        answers=json_of(BackendStatus, "The model server."),
        errors=(NotFound,),
    ),
    Route(
        name="getLimits",
        method="get",
        path="/v1/limits",
        handler=limits.retrieve,
        summary="Ask how much a batch and a file may hold.",
        answers=json_of(limits.LimitsObject, "The limits."),
    ),
    Route(
        name="getHealth",
        method="get",
        path="/healthz",
        handler=ops.healthz,
        summary="Ask whether batchd serves.",
        answers=json_of(ops.Health, "It serves."),
        is_open=True,
    ),
    Route(
        name="getMetrics",
        method="get",
        path="/metrics",
        handler=ops.metrics,
        summary="Read the numbers for Prometheus.",
        answers=text("Prometheus' text format.", CONTENT_TYPE.partition(";")[0]),
    ),
    Route(
        name="getDescription",
        method="get",
        path="/openapi.json",
        handler=openapi.description,
        summary="Read this description.",
        answers=text("An OpenAPI 3.1 document.", "application/json"),
        is_open=True,
    ),
    Route(
        name="getDashboard",
        method="get",
        path="/dashboard",
        handler=dashboard.page,
        summary="See the batches in a browser.",
        answers=text("A page.", "text/html"),
        errors=(NotFound,),
        is_open=True,
    ),
    Route(
        name="getDashboardFile",
        method="get",
        path="/dashboard/{name}",
        handler=dashboard.page,
        summary="Load what that page needs.",
        parameters=(
            parameter(
                "path", "name", Literal["dashboard.css", "dashboard.js"], "Its style or script."
            ),
        ),
        answers=text("The file.", "text/css", "text/javascript"),
        errors=(NotFound,),
        is_open=True,
    ),
)
