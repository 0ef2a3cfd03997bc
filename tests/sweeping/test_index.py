import pytest

from cnn_jax.core.errors import UserError
from cnn_jax.sweeping import index
from cnn_jax.sweeping import sweep_report as report
from sweeps import ERRORS, sweep


def test_the_index_has_question_answer_command_and_link(call, tmp_path):
    experiment, planned = sweep(tmp_path / "a b", ERRORS)
    report.make(experiment, planned, tmp_path / "a b", seeds=3, command="cnn_jax sweep small.py")
    assert "index.html" in call("sweep", f"--index={tmp_path}").out
    text, page = (tmp_path / "index.md").read_text(), (tmp_path / "index.html").read_text()
    assert "## [Is wide better than narrow?](a%20b/report.md)" in text and 'href="a%20b/report.html"' in page
    assert "- width=0.05 for 0.1: worse; test error +5.00 points (+2.52 to +7.48)" in text
    assert "; 2026-01-02; `cnn_jax sweep small.py`" in text


def test_an_index_of_nothing_or_of_damage_is_one_message(tmp_path):
    with pytest.raises(UserError, match=r"has the answers\.json of a report: make them with sweep QUESTION --report"):
        index.make(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "answers.json").write_text("[]")
    with pytest.raises(UserError, match=r"a/answers\.json is damaged"):
        index.make(tmp_path)
