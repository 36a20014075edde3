"""Callbacks of Lightning, Keras and Hugging Face that make a run of a training.

`from dashtop.callbacks import LightningCallback` (or KerasCallback, HuggingFaceCallback), and give
`LightningCallback("resnet-a", tags={"lr": "3e-4"})` to the trainer. Epochs are marks. A framework is imported only with
its callback, as the base class of it.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from dashtop.client.run import Run


class _RunCallback:
    def __init__(self, name: str, **options: Any) -> None:
        """`options`: those of `dashtop.run`."""
        super().__init__()
        self.run = Run(name, **options)


class _Lightning(_RunCallback):
    """A callback of Lightning: the run is `Trainer.fit`."""

    def on_fit_start(self, *_arguments: Any) -> None:
        self.run.start()

    def on_train_epoch_end(self, trainer: Any, *_arguments: Any) -> None:
        self.run.mark(f"epoch {trainer.current_epoch}")

    def on_exception(self, *_arguments: Any) -> None:
        self.run.finish("failed")

    def on_fit_end(self, *_arguments: Any) -> None:
        self.run.finish()


class _Keras(_RunCallback):
    """A callback of Keras: the run is `Model.fit`."""

    def on_train_begin(self, *_arguments: Any, **_named: Any) -> None:
        self.run.start()

    def on_epoch_end(self, epoch: int, *_arguments: Any, **_named: Any) -> None:
        self.run.mark(f"epoch {epoch}")

    def on_train_end(self, *_arguments: Any, **_named: Any) -> None:
        self.run.finish()


class _HuggingFace(_RunCallback):
    """A callback of transformers: the run is `Trainer.train`."""

    def on_train_begin(self, *_arguments: Any, **_named: Any) -> None:
        self.run.start()

    def on_epoch_end(self, _args: Any, state: Any, *_arguments: Any, **_named: Any) -> None:
        self.run.mark(f"epoch {state.epoch:g}" if state.epoch is not None else f"step {state.global_step}")

    def on_save(self, _args: Any, state: Any, *_arguments: Any, **_named: Any) -> None:
        self.run.mark(f"checkpoint at step {state.global_step}")

    def on_train_end(self, *_arguments: Any, **_named: Any) -> None:
        self.run.finish()


# What a callback does, and where its base class can be.
_CALLBACKS: Final[dict[str, tuple[type, tuple[tuple[str, str], ...]]]] = {
    "LightningCallback": (_Lightning, (("lightning.pytorch", "Callback"), ("pytorch_lightning", "Callback"))),
    "KerasCallback": (_Keras, (("keras.callbacks", "Callback"), ("tensorflow.keras.callbacks", "Callback"))),
    "HuggingFaceCallback": (_HuggingFace, (("transformers", "TrainerCallback"),)),
}


def __getattr__(name: str) -> Any:
    """Return a callback class. Raises ImportError if its framework is not installed."""
    if name not in _CALLBACKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    own, bases = _CALLBACKS[name]
    globals()[name] = type(name, (own, _import_base(bases)), {"__doc__": own.__doc__})
    return globals()[name]


def _import_base(places: tuple[tuple[str, str], ...]) -> type:
    for module, attribute in places:
        try:
            base: type = getattr(importlib.import_module(module), attribute)
        except ImportError:
            continue
        return base
    raise ImportError(f"None of these modules is installed: {', '.join(module for module, _ in places)}.")
