"""The bar of long tasks, on a terminal and without one."""

from cnn_jax.core.progress import progress_bar


def test_bar_shows_numbers_or_sizes_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for in_bytes, shown in ((False, "2000000/4000000"), (True, "2.0/4.0 MB")):
        with progress_bar("reading", 4_000_000, in_bytes=in_bytes) as advance:
            advance(2_000_000)
        printed = capsys.readouterr()
        assert shown in printed.err and printed.out == ""


def test_nothing_is_shown_without_a_terminal(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with progress_bar("reading", 4) as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")
