"""Layers that know padding from clip. A `.keras` file with one of them loads where this has been imported."""

from trainer.layers.attention import AttentionMean, SelfAttention
from trainer.layers.committee import Committee, CommitteeCrossentropy
from trainer.layers.convolution import MaskedConv1D
from trainer.layers.limit import Limit
from trainer.layers.masked import MaskedMaxPool1D, MaskedMeanPool1D, Masking
from trainer.layers.recurrent import Bidirectional, NormalizedBidirectional
from trainer.layers.spectrum import Channels, FlatChannels, SpectrumBlock
from trainer.layers.statistics import AttentiveStatistics, ClipStandardization, SegmentStatistics

__all__ = [
    "AttentionMean",
    "AttentiveStatistics",
    "Bidirectional",
    "Channels",
    "ClipStandardization",
    "Committee",
    "CommitteeCrossentropy",
    "FlatChannels",
    "Limit",
    "MaskedConv1D",
    "MaskedMaxPool1D",
    "MaskedMeanPool1D",
    "Masking",
    "NormalizedBidirectional",
    "SegmentStatistics",
    "SelfAttention",
    "SpectrumBlock",
]
