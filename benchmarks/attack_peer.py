"""Published attacks in PyTorch on the same network and images, as peers of ours.

It imports torch, numpy, torchattacks and, if installed, adv-lib, and runs under a separate interpreter:
`python attack_peer.py PROBLEM.npz` prints one JSON line per attack.
"""

import json
import sys
import time
import types
from importlib import metadata

import numpy as np
import torch
import torchattacks
from torch.nn import functional as F


class Network(torch.nn.Module):
    """Convolutions of 3 x 3, ReLU, batch norm, max pooling, and a linear layer, with weights from JAX."""

    def __init__(self, problem):
        super().__init__()
        self.names = [str(name) for name in problem["names"]]
        self.pooled = [bool(flag) for flag in problem["pooled"]]
        for key in problem.files:
            if "/" in key or key in ("mean", "std"):
                self.register_buffer(key.replace("/", "_"), torch.from_numpy(problem[key]))

    def forward(self, x):
        """Takes pixels in [0, 1], `[batch, channels, height, width]`."""
        x = (x - self.mean.view(1, -1, 1, 1)) / self.std.view(1, -1, 1, 1)
        for name, pooled in zip(self.names, self.pooled, strict=True):
            x = F.relu(F.conv2d(x, getattr(self, f"{name}_kernel"), padding=1))
            of = [getattr(self, f"{name}_{part}") for part in ("mean", "var", "scale", "bias")]
            x = F.batch_norm(x, of[0], of[1], of[2], of[3], eps=1e-5)
            x = F.max_pool2d(x, 2) if pooled else x
        return x.permute(0, 2, 3, 1).flatten(1) @ self.output_kernel + self.output_bias


def main(path: str) -> None:
    """Attacks the images of a problem and prints robust accuracies, distances, and times."""
    torch.manual_seed(0)
    problem = np.load(path)
    network = Network(problem).eval()
    images, labels = torch.from_numpy(problem["images"]), torch.from_numpy(problem["labels"]).long()
    versions = {name: metadata.version(name) for name in ("torch", "torchattacks", "adv-lib")}
    print(json.dumps({"case": "versions", "versions": versions}), flush=True)
    with torch.no_grad():
        print(json.dumps({"case": "logits", "logits": network(images[:4]).tolist()}), flush=True)
    classes = int(problem["output/bias"].shape[0])
    for norm, epsilon in (("Linf", float(problem["linf"])), ("L2", float(problem["l2"]))):
        settings = {"norm": norm, "eps": epsilon}
        of_pgd = {"eps": epsilon, "alpha": 2.5 * epsilon / 40, "steps": 40, "random_start": True}
        attacks = {
            "pgd": torchattacks.PGD(network, **of_pgd) if norm == "Linf" else torchattacks.PGDL2(network, **of_pgd),
            "apgd_ce": torchattacks.APGD(network, steps=100, loss="ce", **settings),
            "apgd_t": torchattacks.APGDT(network, steps=100, n_classes=classes, **settings),
            "fab_t": torchattacks.FAB(network, steps=100, multi_targeted=True, n_classes=classes, **settings),
            "square": torchattacks.Square(network, n_queries=int(problem["queries"]), **settings),
            "auto_attack": torchattacks.AutoAttack(network, n_classes=classes, seed=0, **settings),
        }
        for name, attack in attacks.items():
            started = time.perf_counter()
            found = attack(images, labels)
            seconds = time.perf_counter() - started
            with torch.no_grad():
                stood = network(found).argmax(1) == labels
            delta = (found - images).flatten(1)
            far = delta.abs().amax(1) if norm == "Linf" else delta.norm(dim=1)
            stood |= far > epsilon * (1 + 1e-5)  # images outside the ball do not count
            print(json.dumps({"case": f"{name} {norm.lower()}", "robust": stood.float().mean().item(),
                              "seconds": seconds}), flush=True)  # fmt: skip
    _minimal(network, images, labels, int(problem["iterations"]))


def _minimal(network, images, labels, iterations: int) -> None:
    for name in ("torchvision", "torchvision.models", "torchvision.transforms", "visdom"):  # unused imports
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["torchvision"].models = sys.modules["torchvision.models"]
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    try:
        from adv_lib.attacks.fast_minimum_norm import fmn
    except ImportError as error:
        print(json.dumps({"case": "fmn", "missing": str(error)}), flush=True)
        return
    for norm, own in (("l0", 0), ("l1", 1), ("l2", 2), ("linf", float("inf"))):
        started = time.perf_counter()
        found = fmn(network, images, labels, norm=own, steps=iterations)
        seconds = time.perf_counter() - started
        with torch.no_grad():
            wrong = network(found).argmax(1) != labels
        delta = (found - images).flatten(1)
        far = (delta != 0).sum(1).float() if own == 0 else delta.norm(p=own, dim=1)
        distances = torch.where(wrong, far, torch.inf).tolist()
        print(json.dumps({"case": f"fmn {norm}", "distances": distances, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
