"""Runs inside of GIMP without a window: translates pictures of every kind, and breaks things meanwhile.

Leaves in the folder `UGATIT_CHECK`, for each case, what GIMP had (`CASE.in.ppm`), what came back
(`CASE.out.ppm`, `CASE.attention.pgm`), and in `console.json` what else was found. GIMP executes this file's
text; it is no module.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gi.repository import Gegl, Gimp, Gio

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(os.environ["UGATIT_CHECK"])
PLUGIN = Path(Gimp.directory()) / "plug-ins/ugatit"
PRECISIONS = (
    "U16_NON_LINEAR",
    "U16_LINEAR",
    "U32_NON_LINEAR",
    "HALF_NON_LINEAR",
    "FLOAT_LINEAR",
    "FLOAT_NON_LINEAR",
)
found: list[dict[str, Any]] = []


def tell(case: str, good: bool, detail: object = "") -> None:
    """Note one thing that was looked at."""
    found.append({"case": case, "good": bool(good), "detail": str(detail)})
    print("CHECK", case, "ok" if good else "WRONG", detail, flush=True)


def load(name: str) -> Any:
    """A picture of the host's."""
    return Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(str(FOLDER / name)))


def pixels(drawable: Any, form: str, area: tuple[int, int, int, int] | None = None) -> bytes:
    """Of all of it, or of x, y, width, height in its own coordinates."""
    x, y, width, height = area or (0, 0, drawable.get_width(), drawable.get_height())
    rectangle = Gegl.Rectangle.new(x, y, width, height)
    return bytes(drawable.get_buffer().get(rectangle, 1.0, form, Gegl.AbyssPolicy.CLAMP))


def save(name: str, kind: str, width: int, height: int, data: bytes) -> None:
    """P6 is colour, P5 is grey."""
    (FOLDER / name).write_bytes(f"{kind} {width} {height} 255\n".encode() + data)


def translate(image: Any, drawables: list[Any], **values: str) -> tuple[bool, str]:
    """Whether it went well, and the words if not."""
    pdb = Gimp.get_pdb()
    procedure = pdb.lookup_procedure("ugatit-translate")
    config = procedure.create_config()
    config.set_property("run-mode", Gimp.RunMode.NONINTERACTIVE)
    config.set_property("image", image)
    config.set_core_object_array("drawables", drawables)
    for name, value in values.items():
        config.set_property(name, value)
    good = procedure.run(config).index(0) == Gimp.PDBStatusType.SUCCESS
    return good, "" if good else pdb.get_last_error()


def run_case(case: str, image: Any, layer: Any, area: tuple[int, int, int, int], **values: str) -> Any:
    """Translate, keep what went in and came out; give the new layer."""
    save(f"{case}.in.ppm", "P6", area[2], area[3], pixels(layer, "R'G'B' u8", area))
    before = len(image.get_layers())
    good, words = translate(image, [layer], **values)
    tell(case, good and len(image.get_layers()) > before, words or "translated to a new layer")
    if not good:
        return None
    result = image.get_selected_layers()[0]
    save(f"{case}.out.ppm", "P6", result.get_width(), result.get_height(), pixels(result, "R'G'B' u8"))
    return result


def whole(layer: Any) -> tuple[int, int, int, int]:
    """Its area."""
    return 0, 0, layer.get_width(), layer.get_height()


def check_layer_and_attention() -> None:
    """8 bit, the whole layer; where the network looked as a hidden layer."""
    image = load("colour.png")
    layer = image.get_layers()[0]
    result = run_case("8-bit", image, layer, whole(layer), attention="layer")
    looked, below, *rest = image.get_layers()
    tell("8-bit: order", (below, rest) == (result, [layer]), [one.get_name() for one in image.get_layers()])
    tell("8-bit: attention is hidden", not looked.get_visible())
    width, height = looked.get_width(), looked.get_height()
    save("8-bit.attention.pgm", "P5", width, height, pixels(looked, "Y' u8"))


def check_selection() -> None:
    """A soft selection in a layer that lies apart from the picture's corner."""
    image = load("colour.png")
    layer = image.get_layers()[0]
    layer.set_offsets(5, -3)
    image.select_ellipse(Gimp.ChannelOps.REPLACE, 20, 12, 44, 40)
    Gimp.Selection.feather(image, 8)
    selection = image.get_selection()
    _, x, y, width, height = layer.mask_intersect()
    place = (x + 5, y - 3)
    chosen = pixels(selection, "Y u8", (*place, width, height))
    for case, attention in (("selection", "none"), ("selection, attention as mask", "mask")):
        result = run_case(case, image, layer, (x, y, width, height), attention=attention)
        where = tuple(result.get_offsets()[1:])
        tell(f"{case}: place", where == place, where)
        mask = pixels(result.get_mask(), "Y u8")
        if attention == "none":
            tell(f"{case}: is the mask", mask == chosen, f"{len(set(chosen))} levels")
        else:
            save(f"{case}.selection.pgm", "P5", width, height, chosen)
            save(f"{case}.mask.pgm", "P5", width, height, mask)
    tell("selection: stays", pixels(selection, "Y u8", (*place, width, height)) == chosen)
    result = run_case("all in spite of a selection", image, layer, whole(layer), region="all")
    tell("all in spite of a selection: no mask", result.get_mask() is None)
    result = run_case("attention as mask", image, layer, whole(layer), region="all", attention="mask")
    save(
        "attention as mask.attention.pgm",
        "P5",
        layer.get_width(),
        layer.get_height(),
        pixels(result.get_mask(), "Y u8"),
    )


def check_visible() -> None:
    """What several layers show together, one of them in a group and half transparent."""
    image = load("colour.png")
    group = Gimp.GroupLayer.new(image)
    image.insert_layer(group, None, 0)
    other = Gimp.Layer.new_from_drawable(image.get_layers()[1], image)
    image.insert_layer(other, group, 0)
    other.set_opacity(50)
    other.set_offsets(10, 10)
    flat = image.duplicate()
    flat_layer = flat.flatten()
    area = whole(flat_layer)
    save("visible.in.ppm", "P6", area[2], area[3], pixels(flat_layer, "R'G'B' u8"))
    good, words = translate(image, [], source="visible")
    tell("visible", good, words)
    result = image.get_layers()[0]
    save("visible.out.ppm", "P6", area[2], area[3], pixels(result, "R'G'B' u8"))
    good, words = translate(image, [other])
    inside = [one.get_name() for one in group.get_children()]
    tell("layer in a group", good and len(inside) == 2, words or inside)


def check_depths() -> None:
    """Every precision; grey; transparency."""
    for name in PRECISIONS:
        image = load("colour.png")
        image.convert_precision(getattr(Gimp.Precision, name))
        layer = image.get_layers()[0]
        image.select_rectangle(Gimp.ChannelOps.REPLACE, 8, 8, 40, 36)
        Gimp.Selection.feather(image, 6)
        area = tuple(layer.mask_intersect()[1:])
        result = run_case(name, image, layer, area, attention="none")
        chosen = pixels(image.get_selection(), "Y float", area)
        tell(f"{name}: selection is the mask", pixels(result.get_mask(), "Y float") == chosen)
    image = load("colour.png")
    image.convert_grayscale()
    layer = image.get_layers()[0]
    run_case("grey", image, layer, whole(layer))
    image = load("transparent.png")
    layer = image.get_layers()[0]
    before = pixels(layer, "R'G'B'A u8")
    result = run_case("transparent", image, layer, whole(layer))
    tell(
        "transparent: alpha stays", pixels(result, "R'G'B'A u8")[3::4] == before[3::4], len(set(before[3::4]))
    )


def check_refusals() -> None:
    """What cannot be done is said, and changes nothing."""
    image = load("colour.png")
    layer = image.get_layers()[0]
    image.clean_all()
    for case, drawables, values, expected in (
        ("no layer", [], {}, "No layer is chosen"),
        ("no such model", [layer], {"model": "nobody"}, "nobody"),
        ("no such direction", [layer], {"direction": "reverse"}, "→"),
    ):
        good, words = translate(image, drawables, **values)
        untouched = len(image.get_layers()) == 1 and not image.is_dirty()
        tell(f"refused: {case}", not good and expected in words and untouched, words.replace("\n", " | "))
    image.select_rectangle(Gimp.ChannelOps.REPLACE, 60, 60, 10, 10)
    layer.set_offsets(-60, -60)
    good, words = translate(image, [layer])
    tell(
        "refused: selection beside the layer",
        not good and "does not touch" in words,
        words.replace("\n", " | "),
    )
    image = load("colour.png")
    image.convert_indexed(Gimp.ConvertDitherType.NONE, Gimp.ConvertPaletteType.GENERATE, 16, False, False, "")
    good, words = translate(image, image.get_layers())
    tell("refused: palette", not good and "palette" in words, words.replace("\n", " | "))


def plugin_process() -> int:
    """The process in which GIMP runs the plug-in; 0: none yet."""
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except OSError:
            continue
        if b"ugatit.py" in line and b"-run" in line:
            return int(entry.name)
    return 0


def server_process() -> int:
    """The server that answers; 0: none."""
    try:
        return int(json.loads((FOLDER / "state/server.json").read_text("utf-8"))["pid"])
    except (OSError, ValueError):
        return 0


def is_asked() -> bool:
    """Whether anyone has a connection to the server."""
    port = json.loads((FOLDER / "state/server.json").read_text("utf-8"))["port"]
    lines = Path("/proc/net/tcp").read_text("utf-8").splitlines()[1:]
    ends = [line.split()[2:4] for line in lines]
    return [f"0100007F:{port:04X}", "01"] in ends


def kill_at_work(which: Any) -> None:
    """In a thread: end a process when the server has been at work on a picture for a while."""

    def end() -> None:
        since, deadline = time.monotonic(), time.monotonic() + 60
        while time.monotonic() < min(deadline, since + 0.7):
            time.sleep(0.02)
            if not is_asked():
                since = time.monotonic()
        os.kill(which(), signal.SIGKILL)

    threading.Thread(target=end).start()


def check_cancel() -> None:
    """GIMP's Cancel ends the plug-in's process."""
    image = load("large.png")
    image.clean_all()
    kill_at_work(plugin_process)
    began = time.monotonic()
    good, _ = translate(image, image.get_layers())
    seconds = f"{time.monotonic() - began:.1f} s"
    tell(
        "cancel: nothing changed", not good and len(image.get_layers()) == 1 and not image.is_dirty(), seconds
    )
    small = load("colour.png")
    good, words = translate(small, small.get_layers())
    tell("cancel: the next one works", good, words)


def check_killed_server() -> None:
    """The server ends in the middle of a picture."""
    image = load("large.png")
    image.clean_all()
    gone = server_process()
    kill_at_work(server_process)
    good, words = translate(image, image.get_layers())
    untouched = len(image.get_layers()) == 1 and not image.is_dirty()
    tell("server killed: said", not good and "ended" in words, words.replace("\n", " | "))
    tell("server killed: nothing changed", untouched)
    deadline = time.monotonic() + 90
    while server_process() in (0, gone) and time.monotonic() < deadline:
        time.sleep(0.2)
    small = load("colour.png")
    good, words = translate(small, small.get_layers())
    tell("server killed: the next one works", good, words)


def check_result_that_cannot_be_added() -> None:
    """What the plug-in does last, when the picture is another one or the result is no result."""
    sys.path.insert(0, str(PLUGIN))
    from ugatit_client import UgatitError
    from ugatit_layers import add_result, read

    image = load("colour.png")
    source = read(image, image.get_layers(), "layer", "all")
    try:
        add_result(source, source.rgb, "no bytes", "layer", "broken")
    except TypeError as error:
        tell("broken result: no layer is left", len(image.get_layers()) == 1, error)
    else:
        tell("broken result: no layer is left", False)
    image.resize(80, 60, 3, 3)
    try:
        add_result(source, source.rgb, None, "none", "late")
    except UgatitError as error:
        tell("size changed: said", "another size" in error.message and len(image.get_layers()) == 1, error)
    else:
        tell("size changed: said", False)


def check_unthought_of() -> None:
    """What nobody has thought of is said too."""
    image = load("colour.png")
    with broken_setup():
        good, words = translate(image, image.get_layers())
    tell("unthought of: said", not good and "ValueError: " in words, words.replace("\n", " | "))


@contextlib.contextmanager
def broken_setup() -> Iterator[None]:
    """No file system has a folder of that name."""
    path = PLUGIN / "ugatit.json"
    kept = path.read_text("utf-8")
    path.write_text(json.dumps({**json.loads(kept), "state": "\0"}), "utf-8")
    try:
        yield
    finally:
        path.write_text(kept, "utf-8")


def main() -> None:
    """Everything, one after the other; what fails hard is noted too."""
    checks = (
        check_layer_and_attention,
        check_selection,
        check_visible,
        check_depths,
        check_refusals,
        check_result_that_cannot_be_added,
        check_unthought_of,
        check_cancel,
        check_killed_server,
    )
    for check in checks:
        try:
            check()
        except (RuntimeError, AttributeError, TypeError, ValueError, OSError) as error:
            tell(check.__name__, False, f"{type(error).__name__}: {error}")
    (FOLDER / "console.json").write_text(json.dumps(found, indent=1), "utf-8")


main()
