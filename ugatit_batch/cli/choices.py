"""What the options of `translate_options` ask for: the model, the names, the settings, the network.

Heavy packages are imported where they are needed, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ugatit_batch.cli import shared
from ugatit_batch.cli.film_options import FILM_FORMATS, read_film_options
from ugatit_batch.cli.translate_options import PICTURE_FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from ugatit_batch.bundle import Bundle, Direction
    from ugatit_batch.planning import Naming
    from ugatit_batch.settings import Settings
    from ugatit_engines.open_engine import Engine


@dataclass(frozen=True)
class Choices:
    """What the options ask for, as far as it is known before there are inputs."""

    bundle: Bundle
    direction: Direction
    naming: Naming
    _values: Mapping[str, Any]

    def settings(self, films: Iterable[Path] | None) -> Settings:
        """What decides the outputs, with the network's precision still open.

        Args:
            films: where the results of films go; None where it is not known which films will come.

        Raises:
            UsageError: the options contradict each other, the model, or a film's container.
            EnvironmentLacksError: this machine lacks the hardware that was named.
        """
        from ugatit_batch.settings import Settings, choose_sizing

        values, naming = self._values, self.naming
        film = read_film_options(values, naming.container, naming.encoding.metadata, films)
        sizing = choose_sizing(self.bundle, values["size"], values["fit"], values["output_size"])
        return Settings(sizing, naming.encoding, naming.attention, film=film)

    def open_engine(self, settings: Settings, *, has_films: bool, quiet: bool) -> tuple[Engine, Settings]:
        """The network, and the settings with what it decides.

        Args:
            settings: what `settings` gave.
            has_films: whether films are among the inputs, or may come.
            quiet: do not say why an engine that was built is passed over.

        Raises:
            UgatitBatchError: as `open_engine`.
        """
        values, film = self._values, settings.film
        engine = shared.open_translator(
            self.bundle,
            self.direction,
            settings.sizing,
            device=values["device"],
            precision=values["precision"],
            backend=values["backend"],
            batch_size=values["batch_size"],
            models_dir=values["models_dir"],
            quiet=quiet,
            smooth=film.smooth and has_films,
        )
        if film.hwaccel == "auto" and not shared.is_cuda(values["device"]):
            film = dataclasses.replace(film, hwaccel="none")
        return engine, dataclasses.replace(settings, precision=engine.precision, film=film)

    def title(self, engine: Engine) -> str:
        """Model, direction and device in a line."""
        return f"{self.bundle.name} ({self.bundle.describe_direction(self.direction)}) · {engine.describe()}"


@contextlib.contextmanager
def open_choices(values: Mapping[str, Any]) -> Iterator[Choices]:
    """What the values of `translation_options` ask for.

    It holds inside the block: a model that is made from a checkpoint is deleted after it.

    Args:
        values: by the names of the parameters; others are left alone.

    Raises:
        UsageError: they contradict each other, or the model.
        ModelNotFoundError, BundleError: there is no such model, or it is damaged.
    """
    from ugatit_batch.errors import UsageError
    from ugatit_batch.images.write import Encoding
    from ugatit_batch.planning import Naming

    kinds = tuple(dict.fromkeys(kind for kind in values["attention"] if kind != "none"))
    picture_format, film_format = _one_of_each(values["format_"])
    encoding = Encoding(cast(Any, picture_format), values["quality"], values["alpha"], values["metadata"])
    with shared.opened_model(values["model"], values["models_dir"]) as bundle:
        direction = shared.choose_direction(bundle, values["reverse"])
        if kinds and not bundle.generator.attention:
            raise UsageError(
                f"--attention {kinds[0]}: model {bundle.name} was trained without attention, it has no map",
                "leave --attention out, or use another model",
            )
        label = bundle.name + ("-reverse" if values["reverse"] else "")
        naming = Naming(values["output"], label, encoding, values["template"], kinds, cast(Any, film_format))
        yield Choices(bundle, direction, naming, values)


def _one_of_each(formats: Sequence[str]) -> tuple[str, str]:
    """The format of pictures and that of films.

    Raises:
        UsageError: two were given for one.
    """
    from ugatit_batch.errors import UsageError

    chosen = []
    for known in (PICTURE_FORMATS, FILM_FORMATS):
        named = list(dict.fromkeys(name for name in formats if name in known))
        if len(named) > 1:
            raise UsageError(f"--format {named[1]}: {named[0]} was given as well", "give one of them")
        chosen.append(named[0] if named else "auto")
    return chosen[0], chosen[1]
