"""`new-method`: a method to start from."""

import keyword
import re
from pathlib import Path
from typing import Annotated

import typer

from bench.commands.options import say
from bench.errors import ConfigError
from bench.records.atomic import writing

app = typer.Typer()
TEMPLATE = Path(__file__).with_name("method_template.txt")


@app.command("new-method", epilog="Example: python -m bench new-method my_method")
def new_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the method, such as my_method.")],
) -> None:
    """Write methods/NAME.py, a small method that runs and passes the contract suite. Change it to yours."""
    from bench.settings import registry

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or {name, class_name(name)} & {*keyword.kwlist}:
        raise ConfigError(
            f"{name!r} is no name of a method: give small letters, digits and _, a letter first, such as "
            "my_method."
        )
    if name in registry.method_names():
        raise ConfigError(f"there is a method {name!r} already, see `show {name}`; give another name.")
    if re.search(rf"import .*\b{class_name(name)}\b", template(name)):
        raise ConfigError(
            f"{name!r} would hide what the template imports; give another name, such as my_{name}."
        )
    file = registry.METHODS / f"{name}.py"
    with writing(file), open(file, "x", encoding="utf-8") as written:  # never over a file that is there
        written.write(template(name))
    say(f"wrote {file}")
    say(f"run it:  uv run python -m bench run --method {name} --set protocol.steps=20")
    say(f"test it: uv run python -m pytest tests/contract --method {name}")


def template(name: str) -> str:
    """Write the source of a new method. Its class is MyMethod where the method is called my_method."""
    source = TEMPLATE.read_text(encoding="utf-8")
    return source.replace("NAME", name).replace("CLASS", class_name(name))


def class_name(name: str) -> str:
    """my_method -> MyMethod"""
    return "".join(part.capitalize() for part in name.split("_"))
