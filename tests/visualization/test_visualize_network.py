"""The pictures of a trained network: what is drawn is what is computed, and mistakes have messages."""

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import cnn_jax
from cnn_jax.analysis import introspection
from cnn_jax.config import recipes
from cnn_jax.core import trees
from cnn_jax.core.errors import UserError
from cnn_jax.pretrained import source as pretrained
from cnn_jax.visualization import inside_plots, pictures, visualize_network
from cnn_jax.visualization.visualize_network import DrawOptions
from small_models import filled

CLASSES = ["ant", "bee", "cat", "dog"]


def save(path, name, *, channels, size, classes=CLASSES, **fields):
    """Writes a network of NumPy's random numbers as a file of ours."""
    model = filled(name, num_classes=len(classes), input_shape=(*size, channels), **fields)
    leaves = dict(trees.named_leaves(nnx.to_pure_dict(nnx.state(model))))
    statistics = dict(mean=[0.4] * channels, std=[0.25] * channels)
    given = dict(image_size=list(size), channels=channels, test_crop="resize", test_resize=0, classes=classes)
    given["interpolation"] = "bilinear"
    pretrained.save(path, leaves, model=dict(name=name, **fields), given=given | statistics)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    save(folder / "lenet5.safetensors", "lenet5", channels=1, size=(14, 14), activation="relu", pool="max")
    save(folder / "resnet.safetensors", "cifar_resnet", channels=3, size=(16, 16), depth=8, width=0.25)
    save(folder / "mlp.safetensors", "mlp", channels=1, size=(6, 6), hidden_sizes=[5])
    save(folder / "conv1d.safetensors", "conv1d", channels=1, size=(64,))
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 30)).save(folder / "photos" / name / f"{name}{i}.png")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def lenet(files):
    return cnn_jax.load(files / "lenet5.safetensors")


@pytest.fixture(scope="module")
def small_resnet(files):
    return cnn_jax.load(files / "resnet.safetensors")


@pytest.fixture
def drawn(monkeypatch):
    """What the plots are given, by the name of the plot."""
    given = {}
    for name in ("filters", "maps", "cams", "deconvolutions", "embedding"):
        function = f"plot_{name}"
        monkeypatch.setattr(
            inside_plots, function, lambda *values, name=name, **named: given.update({name: (values, named)})
        )
    return given


# ---------------------------------------------------------------- pictures


def test_pictures_come_from_files_and_folders_in_natural_order(files, small_resnet, tmp_path):
    photos = files / "photos"
    found = pictures.from_files(small_resnet, [str(photos), str(photos / "bee" / "bee3.png")])
    names = [f"{name}{i}.png" for name in ("ant", "bee") for i in range(5)]
    assert found.names == [*names, "bee3.png"]
    assert found.classes == ["ant"] * 5 + ["bee"] * 6
    np.testing.assert_array_equal(found.images[3], small_resnet.prepare([photos / "ant" / "ant3.png"])[0])


def test_pictures_come_from_the_test_part_of_a_data_set(lenet):
    config = recipes.get_config("lenet5")
    found = pictures.from_data(lenet, config, [5, 0], 3)
    first = pictures.from_data(lenet, config, None, 3)
    assert first.images.shape == (3, 14, 14, 1) and found.names == ["digits test 5", "digits test 0"]
    np.testing.assert_array_equal(found.images[1], first.images[0])
    assert found.classes[1] == first.classes[0]
    with pytest.raises(UserError, match="no example 359: the test part has 0 to 358"):
        pictures.from_data(lenet, config, [3, 359], 3)


def test_missing_pictures(files, lenet, tmp_path):
    with pytest.raises(UserError, match="no picture and no folder 'no/such'"):
        pictures.from_files(lenet, ["no/such"])
    with pytest.raises(UserError, match="there are no pictures in"):
        pictures.from_files(lenet, [str(files / "empty")])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match="it is no JPEG, PNG"):
        pictures.from_files(lenet, [str(tmp_path)])


def photos(trained, files, part="photos"):
    return pictures.from_files(trained, [str(files / part)])


# ---------------------------------------------------------------- what is drawn


def test_filters_are_the_kernels_of_the_first_convolution(lenet, small_resnet, files, drawn, tmp_path):
    for trained, kernel in ((lenet, lenet.model.conv1.conv.kernel), (small_resnet, small_resnet.model.conv1.kernel)):
        told = visualize_network.filters(trained, None, DrawOptions(), tmp_path / "a.png")
        np.testing.assert_array_equal(drawn["filters"][0][0], kernel[...])
        assert "x".join(map(str, kernel.shape[:-1])) in told
    with pytest.raises(UserError, match="has no convolution"):
        visualize_network.filters(cnn_jax.load(files / "mlp.safetensors"), None, DrawOptions(), tmp_path / "a.png")


def test_features_are_the_strongest_maps_in_order(lenet, files, drawn, tmp_path):
    found = photos(lenet, files, "photos/ant/ant0.png")
    options = DrawOptions(layer="conv2", maps=5)
    told = visualize_network.features(lenet, found, options, tmp_path / "a.png")
    assert "conv2, the 5 strongest of 16 maps" in told and "layers" not in told
    (image, maps, numbers, _), _ = drawn["maps"]
    x = (found.images / 255 - 0.4) / 0.25
    expected = np.asarray(introspection.outputs(lenet.model, x.astype(np.float32))["conv2"][0])
    means = expected.mean((0, 1))
    assert list(means[numbers]) == sorted(means, reverse=True)[:5]
    np.testing.assert_allclose(maps, expected[..., numbers].transpose(2, 0, 1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(image, found.images[0])
    told = visualize_network.features(lenet, found, DrawOptions(), tmp_path / "a.png")
    assert "conv1/conv, all 6 maps" in told and "layers with maps: conv1/conv, conv1, pool1" in told
    with pytest.raises(UserError, match="features shows one picture, but 10 are named"):
        visualize_network.features(lenet, photos(lenet, files), DrawOptions(), tmp_path / "a.png")


def test_class_activation_maps_of_likely_or_named_classes(small_resnet, files, drawn, tmp_path):
    found = photos(small_resnet, files, "photos/ant")
    told = visualize_network.cam(small_resnet, found, DrawOptions(), tmp_path / "a.png")
    assert "class activation maps, 4x4" in told
    rows = drawn["cams"][0][0]
    shares = np.asarray(small_resnet.probabilities(found.images))
    scores = np.asarray(small_resnet(found.images))
    bias = np.asarray(small_resnet.model.head.classifier.bias[...])
    assert len(rows) == 5
    for i, (image, caption, maps) in enumerate(rows):
        np.testing.assert_array_equal(image, found.images[i])
        assert caption == f"ant{i}.png"
        for (name, share, values), k in zip(maps, np.argsort(-shares[i])[:3], strict=True):
            assert (name, share) == (CLASSES[k], shares[i, k])
            np.testing.assert_allclose(values.mean() + bias[k], scores[i, k], atol=1e-4)
    visualize_network.cam(small_resnet, found, DrawOptions(classes=["dog", "ant"]), tmp_path / "a.png")
    assert [name for name, *_ in drawn["cams"][0][0][0][2]] == ["dog", "ant"]
    with pytest.raises(UserError, match=r"--class is 'bea', but must be one of ant, bee, cat, dog; did you mean 'bee'"):
        visualize_network.cam(small_resnet, found, DrawOptions(classes=["bea"]), tmp_path / "a.png")


def test_attributions_are_drawn_up_to_their_99th_percentile(lenet, files, drawn, tmp_path):
    found = pictures.from_files(lenet, [str(files / "photos" / "ant")])
    told = visualize_network.saliency(lenet, found, DrawOptions(classes=["cat"]), tmp_path / "a.png")
    assert "saliency (Simonyan et al. 2014)" in told
    whole = lenet.attribution(found.images, "saliency", np.full((5, 1), 2), prepared=True)[..., 0]
    for (_, _, ((name, _, values),)), expected in zip(drawn["cams"][0][0], whole, strict=True):
        assert name == "cat" and values.shape == (14, 14)
        np.testing.assert_allclose(values, np.minimum(expected / np.quantile(expected, 0.99), 1), rtol=1e-5)


@pytest.mark.parametrize(("network", "layer"), [("lenet", None), ("small_resnet", "conv3_x/0")])
def test_grad_cam_for_other_heads_or_a_named_layer(network, layer, request, files, drawn, tmp_path):
    trained = request.getfixturevalue(network)
    found = photos(trained, files, "photos/ant")
    told = visualize_network.cam(trained, found, DrawOptions(layer=layer, classes=["cat"]), tmp_path / "a.png")
    assert f"Grad-CAM at {layer or 'conv2'}" in told
    x = visualize_network.normalized(trained, found.images)
    expected = np.asarray(introspection.grad_cam(trained.model, x, layer or "conv2", np.full((5, 1), 2)))
    for (_, _, ((*_, values),)), whole in zip(drawn["cams"][0][0], expected[..., 0], strict=True):
        np.testing.assert_allclose(values, whole / max(whole.max(), 1e-30), rtol=1e-3, atol=1e-4)


def test_too_many_pictures_do_not_fit_a_page(small_resnet, files, tmp_path):
    found = pictures.from_files(small_resnet, [str(files / "photos")] * 2)
    with pytest.raises(UserError, match="at most 12, but 20 are named"):
        visualize_network.cam(small_resnet, found, DrawOptions(), tmp_path / "a.png")


def test_the_deconvolution_shows_the_pictures_where_a_map_is_strongest(lenet, files, drawn, tmp_path):
    found = photos(lenet, files)
    told = visualize_network.deconv(lenet, found, DrawOptions(layer="conv1", maps=2), tmp_path / "a.png")
    assert "deconvolution of conv1, 2 of 6 maps, next to what they see (5x5) of the 9 pictures" in told
    (maps, _), _ = drawn["deconvolutions"]
    x = visualize_network.normalized(lenet, found.images)
    values = np.asarray(introspection.outputs(lenet.model, x)["conv1"])
    largest = values.max((1, 2))  # [pictures, maps]
    order = [k for k in np.argsort(-largest.max(0)) if (np.sort(largest[:, k])[1:] > 0).all()][:2]
    assert [caption.split(":")[0] for caption, _, _ in maps] == [f"map {k}" for k in order]
    compared = 0
    for k, (_, signals, parts) in zip(order, maps, strict=True):
        assert signals.shape == parts.shape == (9, 5, 5, 1)
        for signal, part, i in zip(signals, parts, np.argsort(-largest[:, k]), strict=False):
            corner = np.array(np.unravel_index(values[i, ..., k].argmax(), (14, 14))) - 2
            row, column = moved = np.clip(corner, 0, 14 - 5)
            np.testing.assert_array_equal(part, found.images[i, row : row + 5, column : column + 5])
            if (moved == corner).all():
                kernel = np.asarray(lenet.model.conv1.conv.kernel[..., k])
                np.testing.assert_allclose(signal, kernel * largest[i, k], rtol=1e-3, atol=1e-4)
                compared += 1
    assert compared > 0


def test_an_embedding_is_of_the_features(lenet, files, drawn, tmp_path):
    found = photos(lenet, files)
    options = DrawOptions(method="pca", thumbnails=True)
    told = visualize_network.embedding(lenet, found, options, tmp_path / "a.png")
    assert "84 features of 10 pictures of 2 classes, PCA" in told
    (points, labels, _), named = drawn["embedding"]
    assert labels == ["ant"] * 5 + ["bee"] * 5 and named["images"] is found.images
    values = np.asarray(lenet.features(found.images), np.float64)
    values -= values.mean(0)
    _, singular, directions = np.linalg.svd(values, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(values @ directions[:2].T), rtol=1e-4, atol=1e-5)
    share = singular[0] ** 2 / (singular**2).sum()
    assert named["axes"][0] == f"principal component 1, {share:.0%} of the variance"
    visualize_network.embedding(lenet, found, DrawOptions(), tmp_path / "a.png")
    (first, *_), named = drawn["embedding"]
    visualize_network.embedding(lenet, found, DrawOptions(), tmp_path / "a.png")
    np.testing.assert_array_equal(first, drawn["embedding"][0][0])
    assert first.shape == (10, 2) and named["axes"] == ("", "") and named["images"] is None
    few = pictures.Pictures(found.images[:3], found.names[:3], found.classes[:3])
    with pytest.raises(UserError, match="at least 4 pictures, but there are 3"):
        visualize_network.embedding(lenet, few, DrawOptions(), tmp_path / "a.png")


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("filters", "name the trained network: --checkpoint=SOURCE"),
        ("filters --checkpoint=no/such --layer=conv1", "--layer is for features, cam, deconv, and not for filters"),
        (
            "data --checkpoint=no/such",
            "--checkpoint is for filters, features, cam, saliency, integrated_gradients, smoothgrad, occlusion, "
            "deconv, embedding, and not for data",
        ),
        ("filters --checkpoint=no/such", "there is no trained network 'no/such'"),
        ("filters --checkpoint=lenet5.safetensors photos", "filters takes no pictures"),
        ("cam --checkpoint=lenet5.safetensors", "cam needs pictures, from one place"),
        ("cam --checkpoint=lenet5.safetensors photos --config=lenet5", "cam needs pictures, from one place"),
        ("cam --checkpoint=lenet5.safetensors photos --examples=1", "--examples are those of a data set"),
        ("cam --checkpoint=lenet5.safetensors --config=lenet5 --examples=1,x", "--examples is '1,x'"),
        ("features --checkpoint=conv1d.safetensors photos", "is a network for sequences"),
        ("features --checkpoint=mlp.safetensors photos/ant/ant0.png --layer=head/classifier", "Layers with maps: none"),
        ("deconv --checkpoint=lenet5.safetensors photos --layer=convv2", "did you mean 'conv2'?"),
    ],
)
def test_mistake_gets_one_message(refused, arguments, message, files):
    assert message in refused("visualize", *arguments.split(), cwd=files)
    assert not list(files.glob("*.png"))


@pytest.mark.parametrize("picture", ["filters", "features", "deconv"])
def test_the_command_draws_and_says_what(call, picture, files, tmp_path):
    operands = dict(filters=[], features=["photos/ant/ant0.png"]).get(picture, ["photos"])
    path = tmp_path / "a.png"
    words = (picture, "--checkpoint=resnet.safetensors", *operands, f"--output={path}")
    assert call("visualize", *words, cwd=files).out.startswith(f"{path}: cifar_resnet of resnet.safetensors: ")
    with Image.open(path) as drawn:
        assert min(drawn.size) > 300
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
