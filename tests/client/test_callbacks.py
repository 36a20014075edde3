"""Callbacks of frameworks, with small stand-ins for their base classes."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dashtop import callbacks
from dashtop.client import sender
from tests.client.servers import Recorder, recording

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAMEWORKS = {"keras.callbacks": "Callback", "transformers": "TrainerCallback", "pytorch_lightning": "Callback"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """Install stand-ins, whose `__init__` must be called, and yield the server that takes the runs."""

    class Base:
        def __init__(self) -> None:
            self.is_ready = True

    for name, attribute in FRAMEWORKS.items():
        for part in (name.partition(".")[0], name):
            module = ModuleType(part)
            setattr(module, attribute, Base)
            monkeypatch.setitem(sys.modules, part, module)
    monkeypatch.setattr(sender, "current", sender.Sender())
    with recording() as recorder:
        monkeypatch.setenv("DASHTOP_URL", recorder.url)
        yield recorder
    for name in ("LightningCallback", "KerasCallback", "HuggingFaceCallback"):
        callbacks.__dict__.pop(name, None)


def test_lightning(server: Recorder) -> None:
    callback: Any = callbacks.LightningCallback("a", tags={"lr": 1})
    assert callback.is_ready
    trainer = SimpleNamespace(current_epoch=0)
    callback.on_fit_start(trainer, None)
    callback.on_train_epoch_end(trainer, None)
    callback.on_exception(trainer, None, ValueError())
    callback.on_fit_end(trainer, None)
    assert [each["status"] for each in server.wait_for("PATCH")] == ["failed"]
    assert server.marks() == ["epoch 0"]
    assert server.bodies("POST", "/runs")[0]["tags"] == {"lr": "1"}


def test_keras(server: Recorder) -> None:
    callback: Any = callbacks.KerasCallback("a")
    for _ in range(2):  # the same callback can be given to several trainings
        callback.on_train_begin({})
        callback.on_epoch_end(4, logs={"loss": 1.0})
        callback.on_train_end()
    assert [each["status"] for each in server.wait_for("PATCH", count=2)] == ["finished"] * 2
    assert server.marks() == ["epoch 4", "epoch 4"]


def test_hugging_face(server: Recorder) -> None:
    callback: Any = callbacks.HuggingFaceCallback("a")
    state = SimpleNamespace(epoch=1.0, global_step=500)
    callback.on_train_begin(None, state, None, model=None)
    callback.on_epoch_end(None, state, None, model=None)
    callback.on_save(None, state, None)
    callback.on_epoch_end(None, SimpleNamespace(epoch=None, global_step=600), None)
    callback.on_train_end(None, state, None)
    server.wait_for("PATCH")
    assert server.marks() == ["epoch 1", "checkpoint at step 500", "step 600"]


def test_a_framework_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"lightning\.pytorch, pytorch_lightning"):
        _ = callbacks.LightningCallback
    with pytest.raises(AttributeError, match="no attribute 'TorchCallback'"):
        _ = callbacks.TorchCallback
