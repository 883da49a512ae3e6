"""How is an experiment run so that it can be stopped, resumed, trusted and read?

The public names are loaded on first use (PEP 562): declaring a `Config` costs pydantic and nothing else, and
only driving a program imports jax.
"""

from typing import TYPE_CHECKING

from toolkit.faces import lazy

if TYPE_CHECKING:
    from toolkit.run.drive.execute import execute
    from toolkit.run.experiment import plain_yaml
    from toolkit.run.experiment.common import Claim, Diagnostics, Settings
    from toolkit.run.experiment.errors import RunError
    from toolkit.run.experiment.interface import Figure, Final, Gradients, Loss, Program, losses_of
    from toolkit.run.program.budget import by_fraction
    from toolkit.run.report.drawing import pictures
    from toolkit.run.report.opened import Run, open

__all__ = [
    "Claim",
    "Diagnostics",
    "Figure",
    "Final",
    "Gradients",
    "Loss",
    "Program",
    "Run",
    "RunError",
    "Settings",
    "by_fraction",
    "execute",
    "losses_of",
    "open",
    "pictures",
    "plain_yaml",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "toolkit.run.drive.execute": ("execute",),
        "toolkit.run.experiment.errors": ("RunError",),
        "toolkit.run.report.opened": ("Run", "open"),
        "toolkit.run.experiment.common": ("Claim", "Diagnostics", "Settings"),
        "toolkit.run.experiment.interface": (
            "Figure",
            "Final",
            "Gradients",
            "Loss",
            "Program",
            "losses_of",
        ),
        "toolkit.run.program.budget": ("by_fraction",),
        "toolkit.run.experiment.plain_yaml": (),  # reads a run's config.yaml as the run does
        "toolkit.run.report.drawing.pictures": (),
    },
)
