"""The Krita plug-in of ugatit-batch: a docker, and an action in Tools > Scripts. For Krita 5.1 and later."""

from krita import DockWidgetFactory, DockWidgetFactoryBase, Krita

from .action import TranslateExtension
from .docker import NAME, TranslateDocker

_krita = Krita.instance()
_krita.addExtension(TranslateExtension(_krita))
_krita.addDockWidgetFactory(DockWidgetFactory(NAME, DockWidgetFactoryBase.DockRight, TranslateDocker))
