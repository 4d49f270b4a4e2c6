"""Questions about networks given by name that PyTorch answers, asked in a process that ends.

The process that starts the workers would otherwise hold PyTorch, its libraries and a network for as long as the server runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from dynamic.errors import UserError
from serving.settings import ServingSettings

_NETWORK = ("network", "weights", "dynamic_layers", "resolution", "mean", "std", "preprocessing")
"""Settings of a network given by name."""


def check_named(settings: ServingSettings) -> None:
    """Find out whether the network that the settings give by its name can be loaded.

    Raises:
        UserError: it can never be; the message names the setting that is wrong.
    """
    _ask("check", settings.model_dump(include=set(_NETWORK)))


def is_network(name: str) -> bool:
    """Whether the project, torchvision or timm has a network of this name."""
    return bool(_ask("is_network", {"network": name}))


def _ask(question: str, given: dict[str, Any]) -> Any:
    """Have a question answered: here where PyTorch is loaded anyway, else in a process of its own.

    Raises:
        UserError: the answer is an error, or there is none.
    """
    if "torch" in sys.modules:
        return _answer(question, given)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "serving.apart", question]
    done = subprocess.run(command, env=environment, input=json.dumps(given), stdout=subprocess.PIPE, text=True)
    lines = done.stdout.splitlines()  # a network of one's own may print others
    if done.returncode or not lines:
        raise UserError(
            f"SERVING_NETWORK={given['network']} could not be looked at: that process ended with {done.returncode}"
            + (", killed: is there memory?" if done.returncode < 0 else "")
        )
    found = json.loads(lines[-1])
    if "error" in found:
        raise UserError(found["error"])
    return found["answer"]


def _answer(question: str, given: dict[str, Any]) -> Any:
    if question == "is_network":
        from dynamic.models import known

        return known(given["network"])
    from serving.named import check_loads, check_network, network_settings

    settings = ServingSettings(**given)
    network_settings(settings)
    check_network(settings.network, settings.weights)
    check_loads(settings)
    return None


def _main() -> None:
    """Answer in this process: the question is the argument, what is given JSON on stdin, the answer the last line."""
    try:
        found = {"answer": _answer(sys.argv[1], json.load(sys.stdin))}
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _main()
