"""Preprocessing as data gives the bits of the libraries' own transforms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torchvision.transforms import InterpolationMode, v2

from dynamic import UserError
from dynamic.models.library_transforms import library_preprocessing
from dynamic.preprocessing import Preprocessing, centred_preprocessing, imagenet_preprocessing
from dynamic.scenes import MEAN, STD, scenes_preprocessing

HALVES = v2.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
TO_FLOAT = v2.ConvertImageDtype(torch.float32)

SIZES = ((96, 96), (131, 97), (400, 260), (37, 300))


def pictures() -> list[Image.Image]:
    """One of every size and opaque mode of 8 bits that people send."""
    stream = np.random.default_rng(0)
    made = []
    for width, height in SIZES:
        rgb = Image.fromarray(stream.integers(0, 256, (height, width, 3), np.uint8))
        made += [rgb.convert(mode) for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1")]
    return made


@pytest.mark.parametrize("name", ["resnet50", "inception_v3", "efficientnet_b0", "vit_b_16"])
def test_torchvisions_presets(name: str) -> None:
    for weights in torchvision.models.get_model_weights(name):
        preset = weights.transforms()
        prepare = library_preprocessing(preset)
        for picture in pictures():
            assert torch.equal(prepare(picture), preset(picture.convert("RGB"))), (weights, picture)


@pytest.mark.parametrize("name", ["resnet26", "tf_efficientnet_b0", "mobilenetv3_small_100"])
def test_timms_transforms(name: str) -> None:
    transform = create_transform(**resolve_model_data_config(timm.create_model(name)))
    prepare = library_preprocessing(transform)
    for picture in pictures():
        assert torch.equal(prepare(picture), transform(picture.convert("RGB"))), picture


def test_imagenets_own() -> None:
    expected = v2.Compose([v2.Resize(256), v2.CenterCrop(224), v2.PILToTensor()])
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for picture in pictures():
        pixels = expected(picture.convert("RGB")).float() / 255
        assert torch.equal(imagenet_preprocessing()(picture), (pixels - mean) / std)


def test_the_scenes_are_grey() -> None:
    prepare = scenes_preprocessing()
    for picture in pictures():
        grey = picture if picture.mode == "L" else picture.convert("RGB").convert("L")
        pixels = v2.Compose([v2.Resize(96), v2.CenterCrop(96), v2.PILToTensor()])(grey).float() / 255
        assert torch.equal(prepare(picture), ((pixels - MEAN) / STD).expand(3, -1, -1))


@pytest.mark.parametrize(
    "transform",
    [
        v2.Compose([v2.Resize(32), v2.CenterCrop(32), v2.PILToTensor(), v2.ToDtype(torch.float32, True), HALVES]),
        v2.Compose([v2.Resize((40, 30)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), HALVES]),
        torchvision.transforms.Compose([torchvision.transforms.ToTensor(), torchvision.transforms.Normalize(0.1, 0.3)]),
        v2.Compose(
            [v2.Grayscale(), v2.Resize(28), v2.CenterCrop(28), v2.PILToTensor(), TO_FLOAT, v2.Normalize([0.1], [0.3])]
        ),
        v2.Compose([v2.Grayscale(3), v2.Resize(28), v2.PILToTensor(), TO_FLOAT, v2.Normalize([0.1], [0.3])]),
        torch.nn.Sequential(v2.Resize(28, interpolation=3), v2.PILToTensor(), TO_FLOAT, HALVES),
    ],
)
def test_transforms_of_ones_own(transform: object) -> None:
    prepare = library_preprocessing(transform)
    for picture in pictures():
        made, wanted = prepare(picture), transform(picture.convert("RGB"))
        assert made.shape == wanted.shape == (prepare.channels, *wanted.shape[1:])
        # Torchvision divides by 255 in two ways, which differ in the last bit.
        torch.testing.assert_close(made, wanted.as_subclass(torch.Tensor), rtol=0, atol=1e-6)


def by_torchvision(prepare: Preprocessing, picture: Image.Image) -> torch.Tensor:
    """The same by torchvision's transforms and torch's arithmetic."""
    mode = InterpolationMode(prepare.interpolation)
    picture = picture.convert("L" if prepare.colour == "grey" else "RGB")
    if prepare.resize is not None:
        picture = v2.functional.resize(
            picture, [prepare.resize] if isinstance(prepare.resize, int) else list(prepare.resize), mode
        )
    if prepare.crop is not None:
        picture = v2.functional.center_crop(picture, prepare.crop if isinstance(prepare.crop, int) else list(prepare.crop))
    pixels = v2.functional.pil_to_tensor(picture).float().div_(255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (prepare.mean, prepare.std))
    return (pixels - mean) / std


@pytest.mark.parametrize("interpolation", [mode.value for mode in InterpolationMode])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_arrays_have_the_bits_of_torchvision(interpolation: str, colour: str) -> None:
    sizes: list[tuple[object, object]] = [(None, None), (64, None), (97, 64), ((40, 70), (41, 30)), ((64, 64), 64)]
    sizes += [(None, 127), (None, (500, 20)), (33, (64, 65)), (33, 34), (96, 96)]  # crops larger than the picture
    for resize, crop in sizes:
        mean, std = ((0.3,) * 3, (0.7,) * 3) if colour == "grey" else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        prepare = Preprocessing(colour=colour, resize=resize, crop=crop, interpolation=interpolation, mean=mean, std=std)
        for picture in pictures()[::6] + pictures()[1::6]:
            made, wanted = prepare.array(picture), by_torchvision(prepare, picture).numpy()
            assert made.dtype == np.float32
            np.testing.assert_array_equal(made, wanted)


def test_one_number_makes_one_grey_channel() -> None:
    one, three = centred_preprocessing(32, (0.3,), (0.2,)), centred_preprocessing(32, (0.3,) * 3, (0.2,) * 3)
    assert (one.channels, one.colour, one.resolution) == (1, "grey", 32)
    assert Preprocessing.from_json(json.loads(json.dumps(one.to_json()))) == one
    for picture in pictures():
        grey = picture.convert("RGB").convert("L")
        assert one(picture).shape == (1, 32, 32)
        assert torch.equal(one(picture)[0], three(grey)[0])


def test_it_survives_json() -> None:
    for prepare in (
        scenes_preprocessing(),
        imagenet_preprocessing(),
        Preprocessing(resize=(20, 30), mean=(0, 0, 0), std=(1, 1, 1)),
    ):
        assert Preprocessing.from_json(json.loads(json.dumps(prepare.to_json()))) == prepare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "sepia"}, "colour must be rgb or grey, not 'sepia'"),
        ({"resize": 0}, "resize must be pixels, one number or two, not 0"),
        ({"crop": "big"}, "crop must be pixels"),
        ({"interpolation": "magic"}, "interpolation 'magic' is none of torchvision's"),
        ({"resize": [224]}, "resize must be pixels"),
        ({"crop": [1, 2, 3]}, "crop must be pixels"),
        ({"crop": True}, "crop must be pixels"),
        ({"mean": [0.5]}, "must have as many numbers"),
        ({"mean": [0.5, 0.5]}, "mean must be three numbers, or one for grey pictures"),
        ({"std": [1, 1, 0]}, "std must be positive"),
        ({"mean": [1, float("nan"), 0]}, "mean must be three numbers"),
        ({"mean": ["a", "b", "c"]}, "mean must be three numbers"),
        ({"colour": "grey"}, "grey needs the same mean for all channels"),
        ({"gamma": 2}, "this is no preprocessing: .*gamma"),
    ],
)
def test_damage_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Preprocessing.from_json(imagenet_preprocessing().to_json() | change)


def test_what_cannot_be_said_as_data_is_refused() -> None:
    with pytest.raises(UserError, match="a transform of RandomHorizontalFlip cannot be kept as plain data"):
        library_preprocessing(v2.Compose([v2.RandomHorizontalFlip()]))
    with pytest.raises(UserError, match="without normalisation"):
        library_preprocessing(v2.Compose([v2.CenterCrop(3)]))
    steps = [v2.CenterCrop(3), v2.Resize(4)]
    with pytest.raises(UserError, match="a transform of CenterCrop, Resize cannot be kept as plain data"):
        library_preprocessing(v2.Compose(steps))
    for step in (v2.ToDtype(torch.float32), v2.ConvertImageDtype(torch.float64)):
        with pytest.raises(UserError, match=type(step).__name__):
            library_preprocessing(v2.Compose([step, v2.Normalize([0.5], [0.5])]))
    with pytest.raises(UserError, match="a transform of Resize, Resize, Normalize cannot"):
        library_preprocessing(v2.Compose([v2.Resize(4), v2.Resize(4), v2.Normalize([0.5], [0.5])]))
    with pytest.raises(UserError, match="this is no preprocessing"):
        Preprocessing.from_json([1, 2])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="20 x 30 pixels; only square"):
        _ = Preprocessing(resize=(20, 30), mean=(0, 0, 0), std=(1, 1, 1)).resolution
    with pytest.raises(UserError, match="no resolution is known"):
        _ = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)).resolution
