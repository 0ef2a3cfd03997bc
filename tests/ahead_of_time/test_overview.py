"""The dated table of networks, with accounts instead of compilers."""

import datetime

from cnn_jax.ahead_of_time import overview
from cnn_jax.ahead_of_time.targets import parse
from cnn_jax.core.errors import UserError
from examinations import examination


def test_the_table_names_its_command_and_its_date(monkeypatch):
    asked = []

    def examine(config, target, *, thorough):
        asked.append((config.model.name, config.data.name, target.name, thorough))
        if config.model.name == "lenet5":
            raise UserError("the batch must be divisible")
        return examination(target.name)

    monkeypatch.setattr(overview, "examine", examine)
    text = overview.write([parse("v5e:4x4"), parse("h100x8")], ["resnet50", "lenet5"], thorough=False)
    assert asked == [
        (*names, target, False)
        for target in ("v5e:4x4", "h100x8")
        for names in (("resnet50", "imagenet2012"), ("lenet5", "mnist"))
    ]
    assert "`cnn_jax preflight table --for=v5e:4x4,h100x8 --network=resnet50,lenet5`" in text
    assert str(datetime.datetime.now(datetime.UTC).year) in text and "Nothing has run" in text
    rows = [line for line in text.splitlines() if line.startswith("| resnet50:imagenet2012 ")]
    assert len(rows) == 2 and "| h100x8 | 4,096 | replicated | yes |" in rows[1]
    refused = text.partition("Refused")[2]
    assert refused.count("the batch must be divisible") == 2 and "`lenet5:mnist`" in refused
