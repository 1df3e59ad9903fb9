"""verbose: a line for every so many epochs or iterations."""

from __future__ import annotations

from xclf.training import Event


class Printer:
    """verbose=n: a line every n-th epoch or iteration."""

    def __init__(self, every: int) -> None:
        self.every = every

    def __call__(self, event: Event) -> None:
        if event.step % self.every and event.step != event.total:
            return
        accuracy = "" if event.val_accuracy is None else f"  val accuracy {event.val_accuracy:.4f}"
        print(
            f"{event.unit} {event.step}/{event.total}  objective {event.objective:.6g}{accuracy}  "
            f"{event.elapsed:.1f} s"
        )
