"""The measures against torch-fidelity and torchmetrics, on the same pictures.

All three codes are handed one file of weights. Random weights serve everywhere; what
needs the FID network's own is skipped
where they are not.
"""

import json
import os
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch
import torch_fidelity
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from odeflow.data import cache_dir, npz
from odeflow.metrics.distances import (
    blocks,
    ClassScores,
    kid,
    kid_exact,
    precision_recall,
)
from odeflow.metrics.features import Inception, inception_weights
from odeflow.metrics.evaluation import fid, measure

needs_weights = pytest.mark.skipif(
    not inception_weights().exists(),
    reason=f"the FID network's weights are not at {inception_weights().name} in "
    "torch.hub's checkpoints; "
    "torch-fidelity downloads them there: python -c 'from "
    "odeflow.metrics.features import Inception; Inception()'",
)


class Pictures(torch.utils.data.Dataset):
    "Pictures as torch-fidelity wants them."

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def pictures(n, seed, bright):
    "Smooth random colour pictures, 32 x 32."
    g = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(
        torch.randn(n, 3, 5, 5, generator=g), 32, mode="bicubic"
    )
    return (x * 60 + bright).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "The FID network with random weights, large enough that signals reach the end."
    torch.manual_seed(0)
    with (
        mock.patch.object(fidelity, "load_state_dict_from_url"),
        mock.patch.object(fidelity.FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        w = fidelity.FeatureExtractorInceptionV3("random", ["2048"]).state_dict()
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(
        {
            k: torch.randn_like(v) * (2 / v[0].numel()) ** 0.5 if v.ndim == 4 else v
            for k, v in w.items()
        },
        path,
    )
    return str(path)


@pytest.fixture(scope="module")
def sets():
    return pictures(16, 1, 120), pictures(16, 2, 160)


@pytest.fixture(scope="module")
def theirs(weights, sets):
    """torch-fidelity's numbers. The FID of 768 features, whose eigenvalues cost a
    second and not a minute.
    """
    return torch_fidelity.calculate_metrics(
        input1=Pictures(sets[0]),
        input2=Pictures(sets[1]),
        cuda=False,
        batch_size=16,
        feature_extractor="inception-v3-compat",
        fid=True,
        kid=True,
        prc=True,
        isc=True,
        verbose=False,
        feature_extractor_weights_path=weights,
        feature_layer_fid="768",
        kid_subsets=5,
        kid_subset_size=12,
        isc_splits=1,
        samples_shuffle=False,
    )


@pytest.fixture(scope="module")
def ours(weights, sets):
    net = Inception(weights=weights, device="cpu")
    return [net(x) for x in sets]


def test_fid_is_torch_fidelitys(weights, sets, theirs):
    value = fid(*sets, net=Inception(768, weights=weights, device="cpu"))
    assert value > 1 and abs(value - theirs["frechet_inception_distance"]) < 1e-3


def test_the_others_are_torch_fidelitys(ours, theirs):
    (f, logits), (g, _) = ours
    mean, std = kid(f, g, subsets=5, size=12)
    assert np.allclose(
        [mean, std],
        [
            theirs["kernel_inception_distance_mean"],
            theirs["kernel_inception_distance_std"],
        ],
        rtol=1e-4,
    )
    precision, recall = precision_recall(f, g)
    assert 0 < precision < 1 and (precision, recall) == pytest.approx(
        (theirs["precision"], theirs["recall"]), abs=1e-6
    )
    assert ClassScores(1).update(logits).value()[0] == pytest.approx(
        theirs["inception_score_mean"], rel=1e-5
    )


def test_torchmetrics(weights, sets, ours):
    """Its FID enlarges pictures by another rule unless told not to; its other metrics
    are given our features.
    """
    m = FrechetInceptionDistance(
        feature=64, feature_extractor_weights_path=weights, antialias=False
    )
    m.update(sets[1], real=True)
    m.update(sets[0], real=False)
    value = fid(*sets, net=Inception(64, weights=weights, device="cpu"))
    assert value > 0.1 and abs(value - float(m.compute())) < 1e-3
    (f, logits), (g, _) = ours
    m = KernelInceptionDistance(feature=torch.nn.Flatten(), subsets=1, subset_size=16)
    m.update(g[:, :, None, None].double(), real=True)
    m.update(f[:, :, None, None].double(), real=False)
    assert kid_exact(blocks(f.double()), blocks(g.double()))[0] == pytest.approx(
        float(m.compute()[0]), rel=1e-4
    )
    m = InceptionScore(feature=torch.nn.Flatten(), splits=1)
    m.update(logits[:, :, None, None])
    assert ClassScores(1).update(logits).value()[0] == pytest.approx(
        float(m.compute()[0]), rel=1e-4
    )


def test_a_layer_of_nan_is_not_measured(weights, sets, tmp_path):
    w = torch.load(weights, weights_only=True)
    torch.save(
        {k: v * torch.nan if k.startswith("fc.") else v for k, v in w.items()},
        tmp_path / "bare.pth",
    )
    story = measure(
        *(x[:5] for x in sets),
        net=Inception(weights=tmp_path / "bare.pth", device="cpu"),
    )
    assert (
        story["is"] is None
        and story["is_std"] is None
        and "NaN" not in json.dumps(story)
    )


def test_the_command(tmp_path):
    "As a process of its own: one sentence, status 1, no traceback."
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from odeflow.cli import main; sys.exit(main())",
            "fid",
            "no/such/folder",
            "digits",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "ODEFLOW_DATA": str(tmp_path)},
    )
    assert (
        run.returncode == 1
        and run.stdout == ""
        and run.stderr.count("\n") == 1
        and run.stderr.startswith("odeflow fid: dataset: 'no/such/folder'")
    )


@needs_weights
def test_documented_example():
    """torchmetrics documents 12.6388 for these pictures, drawn after the network is
    made, with its documentation's seed.
    """
    torch.manual_seed(42)
    m = FrechetInceptionDistance(feature=64)
    a = torch.randint(0, 200, (100, 3, 299, 299), dtype=torch.uint8)
    b = torch.randint(100, 255, (100, 3, 299, 299), dtype=torch.uint8)
    m.update(a, real=True)
    m.update(b, real=False)
    value = fid(a, b, net=Inception(64, device="cpu"))
    assert round(value, 4) == 12.6388 and abs(value - float(m.compute())) < 1e-3


@needs_weights
def test_real_weights():
    """FID of the last layer, KID, precision and recall with the network's own weights,
    on CIFAR-10 where it is.
    """
    archive = cache_dir() / "cifar10_test.npz"
    x = npz(archive).x[:64] if archive.exists() else pictures(64, 3, 128)
    a, b = x[:32], x[32:]
    theirs = torch_fidelity.calculate_metrics(
        input1=Pictures(a),
        input2=Pictures(b),
        cuda=False,
        batch_size=32,
        feature_extractor="inception-v3-compat",
        fid=True,
        kid=True,
        prc=True,
        verbose=False,
        kid_subsets=5,
        kid_subset_size=16,
    )
    net = Inception(device="cpu")
    (f, _), (g, _) = net(a), net(b)
    assert abs(fid(a, b, net=net) - theirs["frechet_inception_distance"]) < 1e-3
    assert kid(f, g, subsets=5, size=16)[0] == pytest.approx(
        theirs["kernel_inception_distance_mean"], rel=1e-3
    )
    assert precision_recall(f, g) == pytest.approx(
        (theirs["precision"], theirs["recall"]), abs=1e-6
    )
    assert (measure(a, b, net=net)["is"] is None) == (not net.classes)
