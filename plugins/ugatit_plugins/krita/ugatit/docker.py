"""The docker: what to translate and how, a button, and what came of it."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator

from krita import DockWidget, Krita
from PyQt5.QtCore import QCoreApplication, QTimer

from . import offer
from .background import Task
from .layers import Finished, Taken, put, take
from .panel import Panel
from .ugatit_client import Client, UgatitError, read_config

NAME = "ugatit_docker"

_TICK = 30  # milliseconds
_SETTINGS = "ugatit"
_MODELS = "models"
_READY = (
    "Makes a new layer above the active one. Where something is selected, only that is translated. "
    "One undo takes the layer away again."
)
_UNKNOWN = "start Krita in a terminal; it tells more there"
_ASK = "press the button beside the model to ask which there are now"


class TranslateDocker(DockWidget):
    """Asks the server in a thread; everything that concerns Krita is done here, when the thread has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle("U-GAT-IT")
        self._panel = Panel()
        self.setWidget(self._panel)
        self._busy = False
        self._task: Task[Any] | None = None
        self._then: Callable[[Any], str] = str
        self._timer = QTimer(self)
        self._timer.setInterval(_TICK)
        self._timer.timeout.connect(self._look)
        self._panel.translate.clicked.connect(self.translate)
        self._panel.cancel.clicked.connect(self.cancel)
        self._panel.ask.clicked.connect(self.ask_models)
        QCoreApplication.instance().aboutToQuit.connect(self.cancel)
        kept = Krita.instance()
        self._panel.offer(offer.remembered(kept.readSetting(_SETTINGS, _MODELS, "")))
        self._panel.choose({name: kept.readSetting(_SETTINGS, name, "") for name in self._panel.chosen()})
        self._panel.say(_READY)

    def canvasChanged(self, _canvas: Any) -> None:  # noqa: N802 - Krita's name, and it must be there
        """What is in front is asked when the button is pressed."""

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Learn which models there are when it is looked at for the first time ever."""
        super().showEvent(event)
        if not self._panel.has_models:
            self.ask_models()

    def ask_models(self) -> None:
        """Ask the server which models there are, and remember them until the next start."""
        if self._busy:
            return

        def work(cancelled: Callable[[], bool], say: Callable[[str], None]) -> Any:
            say("Asking ugatit-batch which models there are…")
            return Client.connect(read_config(Path(__file__).parent), cancelled, say).models(cancelled)

        self._begin(work, self._take_models)

    def translate(self) -> None:
        """Translate what is chosen; the result is added when it is there."""
        if self._busy:
            return
        if not self._panel.has_models:
            self.ask_models()
            return
        choice = self._panel.choice()
        self._set_busy(True)
        with self._ending():
            taken = take(choice.source, choice.region)
            for name, value in self._panel.chosen().items():
                Krita.instance().writeSetting(_SETTINGS, name, value)
            self._begin_translating(taken, choice)

    def cancel(self) -> None:
        """End what is going on; the picture stays as it is."""
        if self._task is not None:
            self._task.cancel()

    def _begin_translating(self, taken: Taken, choice: offer.Choice) -> None:
        def work(cancelled: Callable[[], bool], say: Callable[[str], None]) -> Finished:
            client = Client.connect(read_config(Path(__file__).parent), cancelled, say)
            _, _, width, height = taken.area
            say(f"Translating {width} × {height} pixels…")
            attention = choice.attention != offer.NO_ATTENTION
            rgb, levels = client.translate(
                taken.rgb, width, height, choice.model, choice.reverse, attention, cancelled
            )
            return Finished.of(taken, rgb, levels, choice.attention)

        self._begin(work, lambda finished: self._add(taken, finished, choice))

    def _begin(self, work: Callable[..., Any], then: Callable[[Any], str]) -> None:
        self._set_busy(True)
        with self._ending():
            self._task, self._then = Task(work), then
            self._timer.start()

    def _look(self) -> None:
        task = self._task
        if task is None:
            return
        if not task.ended:
            self._panel.say(f"{task.said} {task.seconds:.0f} s")
            return
        self._timer.stop()
        self._task = None
        with self._ending():
            # Krita handles other events while it converts: until all is done, nothing else may begin.
            words = self._then(task.result())
            self._set_busy(False)
            self._panel.say(words)

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Whatever fails in it is told, and the docker can be used again."""
        try:
            yield
        except UgatitError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - Krita shows nobody what comes out of here
            traceback.print_exc()
            what = traceback.format_exception_only(type(error), error)[-1].strip()
            self._end(UgatitError("internal", f"Something went wrong that never should: {what}", _UNKNOWN))

    def _end(self, error: UgatitError) -> None:
        self._set_busy(False)
        hint = _ASK if error.code == "model_not_found" else error.hint
        self._panel.complain(error.message, hint)

    def _set_busy(self, busy: bool) -> None:
        self._busy = busy
        self._panel.set_busy(busy)

    def _take_models(self, told: list[dict[str, Any]]) -> str:
        kept = Krita.instance()
        kept.writeSetting(_SETTINGS, _MODELS, offer.to_text(told))
        self._panel.offer(offer.models_of(told))
        if not self._panel.has_models:
            raise UgatitError("not_possible", "There are no models", "train or import one first")
        return _READY

    def _add(self, taken: Taken, finished: Finished, choice: offer.Choice) -> str:
        name = f"U-GAT-IT {choice.model}"
        put(taken, finished, choice.attention, name)
        where = "above all" if taken.below is None else "above the one it was made from"
        said = f"Done: the new layer “{name}” lies {where}."
        if choice.region == offer.SELECTION and taken.selection is None:
            said += " Nothing was selected, so all of it was translated."
        if choice.attention == offer.ATTENTION_LAYER:
            said += " The attention lies hidden in its group."
        return said
