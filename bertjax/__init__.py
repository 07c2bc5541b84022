"""BERT (Devlin et al. 2018) in JAX: from raw text to a pre-trained and fine-tuned model."""
