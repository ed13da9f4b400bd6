"""Recipes in files: those of the recorded results, and files that are none."""

import pytest

from ecaviz import bundle, networks, recipes, results, training_sets
from ecaviz.recipes import Recipe

FOLDER = bundle.data_folder() / "recipes"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_project(path):
    study = recipes.read(path)
    assert study.recipe.name == path.stem
    kinds = {bundle.BUNDLE[name].attention for name in study.models}
    assert {"none", "eca", "se", "se-var1", "se-var2", "se-var3"} <= kinds
    ks = {bundle.setting(bundle.BUNDLE[name]) for name in study.models}
    assert {"k=1", "k=3", "k=5", "k=7", "k=9", "k=adaptive", "r=4", "r=16"} <= ks
    assert len(study.seeds) >= 3
    from dataclasses import replace

    net = networks.build(replace(bundle.BUNDLE[study.models[0]], **study.recipe.network))
    assert net.fc.out_features == len(training_sets.SETS[study.recipe.data].classes)


def test_the_digest_tells_recipes_apart_and_not_their_names():
    assert Recipe(name="a").digest == Recipe(name="b").digest
    others = [
        Recipe(learning_rate=1e-3),
        Recipe(shift=1),
        Recipe(epochs=7),
        Recipe(data="cifar10"),
        Recipe(network={"stem": 8}),
        Recipe(warmup=0.2),
        Recipe(),
    ]
    assert len({one.digest for one in others}) == len(others)


def test_the_defaults_are_the_procedural_sets():
    assert recipes.read(FOLDER / "shapes.toml").recipe == Recipe()


@pytest.mark.parametrize("data", training_sets.SETS)
def test_what_is_recorded_followed_a_recipe_that_is_there(data):
    for row in results.runs(data=data).itertuples():
        recipe = recipes.read(FOLDER / f"{row.recipe}.toml").recipe
        found = recipe.digest, recipe.epochs, recipe.train_images, recipe.test_images
        assert found == (row.digest, row.epochs, row.train_images, row.test_images)
        assert training_sets.of(row.name).name == recipe.data == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not a TOML file"),
        ("epoch = 3", "has unknown fields epoch. Known: batch_size, data"),
        ('data = "cifar100"', "data must be one of shapes, cifar10, got 'cifar100'"),
        ("epochs = 0", "epochs must be at least 1, got 0"),
        ("epochs = 1.5", "epochs must be at least 1, got 1.5"),
        ('models = ["cifar10-none"]', "names 'cifar10-none'. Models of shapes: shapes-none"),
        ('data = "cifar10"\nmodels = ["nonsense"]', "names 'nonsense'. Models of cifar10: cifar10-none"),
        ("seeds = [-1]", "a seed must be a whole number from 0 to 4294967295, got -1"),
        ("seeds = [true]", "a seed must be a whole number from 0 to 4294967295, got True"),
        ("seeds = []", "seeds must be a list of whole numbers, got an empty one"),
        ("seeds = 0", "models and seeds must be lists"),
        ("network = 3", "network a table"),
        ('data = ["cifar10"]', "data must be one of"),
        ('learning_rate = "0.003"', "learning_rate must be a number from 0 to inf, got '0.003'"),
        ("learning_rate = -1", "learning_rate must be a number from 0 to inf, got -1"),
        ("learning_rate = nan", "learning_rate must be a number"),
        ("warmup = 2", "warmup must be a number from 0 to 1, got 2"),
        ("epochs = true", "epochs must be at least 1, got True"),
        ("[network]\nattention = 'eca'", "may have blocks, planes, stem, stem_strides"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message.replace("[", r"\[").replace("(", r"\(")):
        recipes.read(path)
    with pytest.raises(FileNotFoundError):
        recipes.read(tmp_path / "b.toml")
