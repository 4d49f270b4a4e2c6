"""The service under BentoML: bentoml serve

    curl -F image=@cat.jpg localhost:3000/v1/classify

:mod:`serving.settings` lists what environment variables can change. BentoML starts the worker processes and packs the bento;
each worker runs :func:`serving.app.create_app`. What its clients need to know is said here: names, addresses and fields.
"""

from __future__ import annotations

import os

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "true")

import bentoml
import PIL.Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dynamic.errors import UserError
from dynamic.resources import keep_freed_memory
from serving import app
from serving.http.connections import ConnectionLimits, limit_connections
from serving.http.front import ANSWER_SECONDS
from serving.inference.finding import target_of
from serving.operation import logs, tracing
from serving.operation.server_folder import enter, supervisor
from serving.operation.takeover import Takeovers
from serving.schema import Answer, BatchAnswer, Feedback, FeedbackAnswer, Options
from serving.settings import ServingSettings, read_settings
from serving.startup import check_before_start
from serving.takeover import hear_hangups


def _settings() -> ServingSettings:
    try:
        settings = read_settings()
        if supervisor() is None:  # a worker serves what was agreed on, whatever the settings lead to by now
            check_before_start(settings)
            tracing.check()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    return settings


SETTINGS = _settings()
TAKEOVERS = Takeovers(enter())  # which workers look for in their environment
if supervisor() is None:
    TAKEOVERS.begin(target_of(SETTINGS))


class _Picture(bentoml.IODescriptor):
    image: PIL.Image.Image


class _Pictures(bentoml.IODescriptor):
    images: list[PIL.Image.Image]


class ClassifyInput(Options, _Picture):
    """The fields of /v1/classify, those of the last base first: clients may give the picture without its name."""


class BatchInput(Options, _Pictures):
    """The fields of /v1/classify_batch."""


class _Served(bentoml.Service[object]):
    """A service whose workers run our app instead of BentoML's.

    BentoML's own fetches URLs that it finds in a file's field, labels metrics with every path that is tried, and knows no
    GET and no other errors than its own.
    """

    def to_asgi(self, is_main: bool = True) -> Starlette:
        """The app, in the process that will serve it."""
        logs.set_up(SETTINGS.log_level)
        keep_freed_memory(arenas=1)
        limit_connections(ConnectionLimits.of(SETTINGS))
        served = app.create_app(SETTINGS, enter())
        served.add_route("/schema.json", self._describe)
        return served

    async def _describe(self, request: Request) -> Response:
        """What BentoML's clients ask for."""
        return JSONResponse(self.schema())


@bentoml.service(
    name="dynamic_classifier",
    workers=SETTINGS.workers,
    traffic={"timeout": SETTINGS.upload_seconds + ANSWER_SECONDS + 10},  # of services that depend on this one
    service_class=_Served,
)
class DynamicClassifier:
    """Classifies pictures with a network whose strides, dilations and kernel sizes a policy chooses for each picture."""

    classify = bentoml.api(route="/v1/classify", input_spec=ClassifyInput, output_spec=Answer)(app.classify)
    classify_batch = bentoml.api(route="/v1/classify_batch", input_spec=BatchInput, output_spec=BatchAnswer)(
        app.classify_batch
    )
    feedback = bentoml.api(route="/v1/feedback", input_spec=Feedback, output_spec=FeedbackAnswer)(app.feedback)

    @bentoml.on_deployment
    @staticmethod
    def deploy() -> None:
        """In the process that starts the workers, before it does."""
        logs.set_up(SETTINGS.log_level)
        hear_hangups(TAKEOVERS, SETTINGS)
