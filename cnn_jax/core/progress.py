"""A bar that shows how far a long task is, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(text: str, total: int | None, *, in_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Shows a bar on a terminal, with the time left if the total is known; yields what advances it, from any thread.

    Args:
      in_bytes: shows the numbers as sizes, such as 3.1/9.9 MB.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done: None
        return
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn(text), BarColumn(bar_width=24), count, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.advance(task, done)
