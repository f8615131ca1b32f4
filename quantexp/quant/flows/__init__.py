"""The APIs that quantize, a file each. Only `fx` and `eager` import torch.ao, whose end is announced."""
