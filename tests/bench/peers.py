"""The U-Nets of torchcfm and diffusers behind the book's signature `net(x, c)`, at the
shapes that they publish for CIFAR-10 and at fractions of their widths.
"""

import pytest
from torch import nn

INSTALL = (
    "benchmarks against peers want them installed: `pip install torchcfm diffusers`"
)
# at 32, 16, 8 and 4 pixels; 35.7, 9.0 and 2.2 M parameters
WIDTHS = {
    "full": (128, 256, 256, 256),
    "half": (64, 128, 128, 128),
    "quarter": (32, 64, 64, 64),
}


class Peer(nn.Module):
    "A peer's network under the book's signature."

    def __init__(self, net, call):
        super().__init__()
        self.net, self.call = net, call

    def forward(self, x, c, y=None):
        return self.call(self.net, x, c)


def torchcfm(widths, dropout=0.0):
    """The U-Net of torchcfm's CIFAR-10 example: two blocks a level, attention at 16
    pixels, heads of 64 channels; time as it is.
    """
    UNet = pytest.importorskip("torchcfm.models.unet", reason=INSTALL).UNetModel
    net = UNet(
        dim=(3, 32, 32),
        num_res_blocks=2,
        num_channels=widths[0],
        channel_mult=[w / widths[0] for w in widths],
        num_heads=4,
        num_head_channels=64,
        attention_resolutions="16",
        dropout=dropout,
    )
    return Peer(net, lambda net, x, c: net(c, x))


def diffusers(widths, dropout=0.0):
    """The U-Net of google/ddpm-cifar10-32: two blocks a level, attention at 16 pixels,
    one head; time from 0 to 1000.
    """
    UNet = pytest.importorskip("diffusers", reason=INSTALL).UNet2DModel
    net = UNet(
        sample_size=32,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=(
            "DownBlock2D",
            "AttnDownBlock2D",
            "DownBlock2D",
            "DownBlock2D",
        ),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        dropout=dropout,
    )
    return Peer(net, lambda net, x, c: net(x, 1000 * c).sample)
