"""The kinds of models that config.model.kind names.

Each module has PARTS, HEADS, init_params, bind and parts_of.
"""

from types import ModuleType

from bertjax.models import bert, elmo_heads, gpt

MODULES: dict[str, ModuleType] = {"bert": bert, "gpt": gpt, "elmo": elmo_heads}
