"""From a module and back, as README shows it: `python tests/frameworks/way_back.py` in an empty folder."""

import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images[:512] / 8 - 1, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(labels[:512])
layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()]
net = nn.Sequential(*layers, nn.Linear(512, 10))

torch.onnx.export(net, (x,), "net.onnx", dynamo=True, optimize=False)
save_file(net.state_dict(), "net.safetensors")
np.save("x.npy", x.numpy())
command = "net.onnx --data x.npy --state-dict net.safetensors"
subprocess.run([sys.executable, "-m", "onnx_lsuv", *command.split()], check=True)
net.load_state_dict(load_file("net.lsuv.safetensors"))

optimiser = torch.optim.Adam(net.parameters(), lr=0.003)
for _ in range(3):
    loss = nn.functional.cross_entropy(net(x), y)
    print("loss", loss.item())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
