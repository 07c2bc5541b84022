"""The paper's feature-based approach (Devlin et al. 2018, section 5.3): the encoder is frozen, and two layers
of a BiLSTM of 768 units read its states before the classifier. feature_based.py:ner is the paper's; any other
config that fine-tunes a BERT goes too, as feature_based.py:glue:mrpc or feature_based.py:squad:v1.1.

    python -m bertjax.main --config=configs/feature_based.py:ner --config.examples.folder=CONLL \\
        --config.init_from=MODEL --config.workdir=DIR

CONLL is as for configs/ner.py. --config.head.layers takes another of the paper's six choices than the last
four layers side by side: embeddings, second_to_last, last, sum_last_four, sum_all.

The paper gives neither learning rate nor epochs nor batches for it. Here they are 1e-3, since all that is
trained is drawn anew, 10 epochs, and the batches of the config that is named; bertjax.sweep tries others.

Hardware: any. Time and score: not measured.
"""

from pathlib import Path

from bertjax.config.files import load


def get_config(recipe):
    name, _, argument = recipe.partition(":")
    file = Path(__file__).with_name(f"{name}.py")
    c = load(f"{file}:{argument}" if argument else str(file))
    c.train.freeze_encoder = True
    c.train.epochs = 10.0
    c.head.layers = "concat_last_four"
    c.head.lstm_layers = 2
    c.optim.learning_rate = 1e-3
    return c
