"""The kinds of models that config.model.kind names.

Each module has PARTS, HEADS, init_params, bind and parts_of. What the `bind` of bert and gpt gives has an
encoder, and class_positions and class_logits, by which texts are told. elmo_heads has functions for that, and
its init_params takes the whole config, not config.model alone.
"""

from types import ModuleType

from bertjax.models import bert, elmo_heads, gpt

MODULES: dict[str, ModuleType] = {"bert": bert, "gpt": gpt, "elmo": elmo_heads}
