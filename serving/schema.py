"""What requests and answers consist of, as pydantic models: they validate, and OpenAPI is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamic.attributes.registry import attributes
from serving.errors import Rejection


class _Model(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Options(_Model, extra="forbid"):
    """The form fields of a request beside its images."""

    policy: Annotated[str | None, Field(max_length=100)] = None
    """Name of the policy that chooses; the service's own unless given."""
    max_gmacs: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """A budget: expected 10^9 multiply-accumulates an image on average, selector included."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    """Most probable classes to name."""
    configuration: Annotated[str | None, Field(max_length=200)] = None
    """Id of the configuration to run, without a policy."""
    keep: bool = False
    """Keep the image until it was evaluated under every configuration or its time is over."""


class Prediction(_Model):
    """A class and its probability."""

    name: str
    index: int
    probability: float


def _name_attributes(schema: dict[str, Any]) -> None:
    """The options that answers have, in the schema."""
    schema["properties"] |= {
        name: {"title": name.replace("_", " ").title(), "type": "number" if attribute.fractions else "integer"}
        for name, attribute in attributes().items()
    }
    schema["required"] = list(schema["properties"])


class Layer(_Model, extra="allow", json_schema_extra=_name_attributes):
    """The options of one dynamic layer, by attribute."""

    __pydantic_extra__: dict[str, int | float] = Field(init=False)
    layer: str

    @classmethod
    def of(cls, layer: str, options: Mapping[str, float]) -> Self:
        """From the options of a configuration's layer."""
        known = attributes()
        return cls(layer=layer, **{name: float(o) if known[name].fractions else int(o) for name, o in options.items()})


class RunConfiguration(_Model):
    """A configuration and its cost: 10^9 multiply-accumulates (one multiply-add = 1) of one image."""

    id: str
    layers: list[Layer]
    gmacs: float


class Expected(_Model):
    """What the policy promises at this setting, on images like those it learned from, by cross-validation."""

    accuracy: float
    gmacs: float
    guaranteed: float | None = None
    """Difference in accuracy from the default, at least, at the confidence that /v1/network tells; null where none is."""


class MadeBy(_Model):
    """What computed an answer."""

    network: str
    """Name of the run or network."""
    weights: str
    """Digest of its weights."""
    runtime: str
    """``onnxruntime``, ``openvino`` or ``torch``."""
    precision: str
    """That it computed in."""


class Answer(_Model):
    """What the network says of one image, and what that cost."""

    id: str
    """Names this answer in /v1/feedback."""
    predictions: list[Prediction]
    """The most probable first; none where the network's answer was not finite."""
    policy: str
    """Name of the policy that chose the configuration, or ``forced``."""
    dial: float | None
    """The policy's setting; null where it has none."""
    expected: Expected | None
    configuration: RunConfiguration
    """The configuration whose answer this is."""
    made_by: MadeBy
    gmacs: float
    """All that was run for this image: 10^9 multiply-accumulates (one multiply-add = 1), the selector's included."""
    default_gmacs: float
    """10^9 multiply-accumulates that the default configuration would have run."""
    queued_ms: float
    """Milliseconds it waited for its batch."""
    ran_ms: float
    """Milliseconds of the batch it ran in, selector included."""
    batch: int
    """Images in that batch."""
    kept_seconds: float | None
    """How long the image is kept, at most; null where it is not."""


class ErrorBody(_Model):
    """Why a request, or one image of it, was refused."""

    code: str
    message: str


class Failure(_Model):
    """The body of every answer that is not 2xx."""

    error: ErrorBody


class Item(_Model):
    """One image of a batch: its answer, or why it has none."""

    answer: Answer | None
    error: ErrorBody | None


class BatchAnswer(_Model):
    """Answers or errors, in the order of the images."""

    results: list[Item]


class Feedback(_Model, extra="forbid"):
    """The true class of an image that was answered earlier."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    """Id of the answer."""
    label: Annotated[str, Field(min_length=1, max_length=200)] | Annotated[int, Field(ge=0, strict=True)]
    """Name of the class, or its index."""


class FeedbackAnswer(_Model):
    """What was stored, for good."""

    id: str
    label: str
    index: int
    right: bool
    """Whether the answer had been this class."""


Model = TypeVar("Model", bound=BaseModel)


def read(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Validate what a request says; None is as good as nothing.

    Raises:
        Rejection: naming the first field that is wrong, and what would be right.
    """
    try:
        return model.model_validate({name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"])) or "body"
        raise Rejection("invalid", f"{name[:80]}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
