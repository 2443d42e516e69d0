#!/usr/bin/env python3
"""Writes tests/golden/network.safetensors and network_io.safetensors: a small BlobNet in PyTorch,
its inputs and outputs.

The network is written with PyTorch's own nn.TransformerEncoderLayer (post-norm, ReLU, one token),
so the test in tests/network_golden.rs compares our reading of the parameters, the fold and the
kernels with PyTorch itself. Needs torch and safetensors (made with torch 2.2.2, CPU); the files are
committed, so the tests do not.

    python3 scripts/golden_network.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

FEATURES, ACTIONS, SEATS = 256, 52, 8
WIDTH, DEPTH, HEADS, FFN = 48, 2, 8, 80
ROWS = 16


class BlobNet(nn.Module):
    """256 features as one token through an encoder; logits of 52 actions, values of 8 seats."""

    def __init__(self):
        super().__init__()
        self.input_embedding = nn.Linear(FEATURES, WIDTH)
        self.input_norm = nn.LayerNorm(WIDTH)
        self.positional_encoding = nn.Parameter(torch.randn(1, 1, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH,
            HEADS,
            FFN,
            dropout=0.1,
            activation="relu",
            layer_norm_eps=1e-5,
            batch_first=True,
            norm_first=False,
        )
        self.transformer = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        self.policy_fc = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Dropout(0.1), nn.Linear(WIDTH, ACTIONS)
        )
        self.value_fc = nn.Sequential(
            nn.Linear(WIDTH, WIDTH // 2),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(WIDTH // 2, SEATS),
            nn.Tanh(),
        )

    def forward(self, features):
        token = (
            self.input_norm(self.input_embedding(features)).unsqueeze(1) + self.positional_encoding
        )
        encoded = self.transformer(token).squeeze(1)
        return self.policy_fc(encoded), self.value_fc(encoded)


def main():
    folder = (
        Path(sys.argv[1])
        if len(sys.argv) > 1
        else Path(__file__).parent.parent / "tests" / "golden"
    )
    torch.manual_seed(20240607)
    model = BlobNet().eval()
    with torch.no_grad():
        # Biases and norms start at 0 and 1 in part: shake every parameter, so that none can be
        # dropped unnoticed.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        features = (torch.rand(ROWS, FEATURES) < 0.25).float() * torch.rand(ROWS, FEATURES).round(
            decimals=1
        )
        weights = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
        # In f64, so that the expected values carry no rounding of their own.
        logits, values = model.double()(features.double())
    save_file(weights, folder / "network.safetensors")
    outputs = {
        "features": features,
        "logits": logits.float().contiguous(),
        "values": values.float().contiguous(),
    }
    save_file(outputs, folder / "network_io.safetensors")
    print(
        f"logits spread {logits.std(dim=1).mean():.3f}, "
        f"values spread {values.std(dim=0).mean():.3f}"
    )


if __name__ == "__main__":
    main()
