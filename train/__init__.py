"""Training of Masked Contrastive Reconstruction: `python -m train --config train/configs/phantom.toml --out RUN`."""
