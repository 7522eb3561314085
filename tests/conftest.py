"""What all tests share."""

from hypothesis import settings

import support.checked  # noqa: F401  what --jaxtyping-packages names: it does not import submodules itself

# A busy machine is no bug. What CI derandomises stays so: it is this profile's parent.
settings.register_profile("whatever the clock says", settings(deadline=None))
settings.load_profile("whatever the clock says")
