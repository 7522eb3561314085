"""Runs the zygote in bubblewrap, if a test run works: own user, process, network and mount namespaces.

If bubblewrap is not installed, or new namespaces are forbidden (as in a pod with the RuntimeDefault profile), the
reason is returned, and only the other protections are used.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence

from toolorchestra.sandbox.protections import readable_paths

_TRIAL_SECONDS = 20.0


async def command(python: str, *, environment: Mapping[str, str]) -> tuple[list[str], str]:
    """Return (command prefix for the interpreter, reason why there is none): one of the two is empty."""
    program = shutil.which("bwrap")
    if program is None:
        return [], "not installed"
    prefix = [program, *_arguments(python, modules=environment["PYTHONPATH"].split(os.pathsep))]
    trial = await asyncio.create_subprocess_exec(
        *(*prefix, python, "-I", "-S", "-c", ""),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
    )
    try:
        _, errors = await asyncio.wait_for(trial.communicate(), _TRIAL_SECONDS)
    except TimeoutError:
        trial.kill()
        await trial.wait()
        return [], f"its test run did not end in {_TRIAL_SECONDS:g} s"
    if trial.returncode != 0:
        said = errors.decode(errors="replace").strip().splitlines()
        return [], f"its test run failed: {said[-1][:200] if said else f'status {trial.returncode}'}"
    return prefix, ""


def _arguments(python: str, *, modules: Sequence[str]) -> Sequence[str]:
    arguments = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    arguments += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in readable_paths(modules):
        if not str(path).startswith("/dev/"):
            arguments += ["--ro-bind-try", str(path), str(path)]
    return [*arguments, "--ro-bind", python, python, "--chdir", "/"]
