"""The docker's contents: boxes, buttons and words. Knows nothing of Krita's pictures, nor of the server."""

from __future__ import annotations

import html

from krita import Krita
from PyQt5.QtCore import Qt
from PyQt5.QtWidgets import (
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from .offer import ATTENTIONS, NO_ATTENTION, REGIONS, SOURCES, Choice, Model

_NARROWEST = 8  # letters


class Panel(QWidget):
    """Boxes to choose from, and what is said to the user."""

    def __init__(self) -> None:
        super().__init__()
        self._models: dict[str, Model] = {}
        self._model = _box("model", "What the picture is translated with")
        self._direction = _box("direction", "Which way the model translates")
        self._source = _box("source", "What is translated", SOURCES)
        self._region = _box("region", "How much of it; without a selection that is everything", REGIONS)
        self._attention = _box("attention", "Where the network looked", ATTENTIONS)
        self.ask = QToolButton()
        self.ask.setObjectName("ask")
        self.ask.setIcon(Krita.instance().icon("view-refresh"))
        self.ask.setToolTip("Ask ugatit-batch once more which models there are")
        self.translate = QPushButton("Translate")
        self.translate.setObjectName("translate")
        self.cancel = QPushButton("Cancel")
        self.cancel.setObjectName("cancel")
        self._progress = QProgressBar()
        self._progress.setRange(0, 0)
        self._progress.setTextVisible(False)
        self._words = QLabel()
        self._words.setObjectName("words")
        self._words.setWordWrap(True)
        self._words.setAlignment(Qt.AlignTop | Qt.AlignLeft)
        self._words.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self._words.setSizePolicy(QSizePolicy.Ignored, QSizePolicy.Minimum)
        self._arrange()
        self._model.currentIndexChanged.connect(self._show_model)
        self._direction.setEnabled(False)
        self._model.setEnabled(False)
        self.set_busy(False)

    @property
    def has_models(self) -> bool:
        """Whether there is anything to translate with."""
        return bool(self._models)

    def offer(self, models: list[Model]) -> None:
        """Show these models; what was chosen stays chosen if it is among them."""
        before = self._model.currentData()
        self._models = {model.name: model for model in models}
        self._model.clear()
        for name in self._models:
            self._model.addItem(name, name)
        self._model.setEnabled(bool(models))
        _choose(self._model, before)
        self.set_busy(False)

    def choose(self, values: dict[str, str]) -> None:
        """Take values as `chosen` gives them; what cannot be chosen now is passed over."""
        for box in self._boxes():
            _choose(box, values.get(box.objectName()))

    def chosen(self) -> dict[str, str]:
        """The values of all boxes, to be kept."""
        return {box.objectName(): str(box.currentData() or "") for box in self._boxes()}

    def choice(self) -> Choice:
        """What a translation is asked for now."""
        return Choice(
            self._model.currentData(),
            self._direction.currentData() == "reverse",
            self._source.currentData(),
            self._region.currentData(),
            self._attention.currentData() if self._attention.isEnabled() else NO_ATTENTION,
        )

    def set_busy(self, busy: bool) -> None:
        """Show that something is going on, or that there is something to choose."""
        self._boxes_area.setEnabled(not busy)
        self.translate.setVisible(not busy)
        self.translate.setText("Translate" if self._models else "Ask which models there are")
        self.cancel.setVisible(busy)
        self._progress.setVisible(busy)

    def say(self, text: str) -> None:
        """Tell something that is no error."""
        self._words.setText(html.escape(text))

    def complain(self, message: str, hint: str) -> None:
        """Tell what went wrong, and what to do."""
        parts = [f"<b>{html.escape(_sentence(message))}</b>", html.escape(_sentence(hint))]
        self._words.setText("<br>".join(part for part in parts if part))

    def _boxes(self) -> tuple[QComboBox, ...]:
        return self._model, self._direction, self._source, self._region, self._attention

    def _arrange(self) -> None:
        self._boxes_area = QWidget()
        form = QFormLayout(self._boxes_area)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.AllNonFixedFieldsGrow)
        first = QHBoxLayout()
        first.addWidget(self._model)
        first.addWidget(self.ask)
        form.addRow("Model", first)
        form.addRow("Direction", self._direction)
        form.addRow("Source", self._source)
        form.addRow("Region", self._region)
        form.addRow("Attention", self._attention)
        column = QVBoxLayout(self)
        for widget in (self._boxes_area, self.translate, self.cancel, self._progress, self._words):
            column.addWidget(widget)
        column.addStretch()

    def _show_model(self) -> None:
        """Offer what the chosen model can do."""
        model = self._models.get(self._model.currentData())
        before = self._direction.currentData()
        self._direction.clear()
        for reverse, words in model.directions if model else ():
            self._direction.addItem(words, "reverse" if reverse else "forward")
        _choose(self._direction, before)
        self._direction.setEnabled(self._direction.count() > 1)
        self._attention.setEnabled(model is None or model.attention)
        told = "Where the network looked" if self._attention.isEnabled() else "This model cannot tell"
        self._attention.setToolTip(told)


def _box(name: str, tells: str, values: tuple[tuple[str, str], ...] = ()) -> QComboBox:
    box = QComboBox()
    box.setObjectName(name)
    box.setToolTip(tells)
    box.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(_NARROWEST)
    for value, words in values:
        box.addItem(words, value)
    return box


def _sentence(text: str) -> str:
    """Other parts of the project write neither capital nor full stop."""
    first = text[:1] if text.startswith("ugatit-batch") else text[:1].upper()
    return first + text[1:] + ("." if text[-1:].isalnum() or text[-1:] in "”)'" else "")


def _choose(box: QComboBox, value: str | None) -> None:
    index = box.findData(value)
    if value and index >= 0:
        box.setCurrentIndex(index)
