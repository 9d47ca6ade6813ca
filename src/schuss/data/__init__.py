"""Data sets, and batches made of them."""

from schuss.data.batching import collate
from schuss.data.dataset import ArrayDataset, Dataset, Subset, random_split
from schuss.data.datasets import MNIST, Digits, FashionMNIST
from schuss.data.idx import read_idx
from schuss.data.loader import DataLoader
from schuss.data.text import (
    CharTokenizer,
    RandomTokenBlocks,
    TokenBlocks,
    shakespeare_plays,
    split_text,
    tiny_shakespeare,
)
from schuss.errors import DataNotFoundError

__all__ = [
    "MNIST",
    "ArrayDataset",
    "CharTokenizer",
    "DataLoader",
    "DataNotFoundError",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "RandomTokenBlocks",
    "Subset",
    "TokenBlocks",
    "collate",
    "random_split",
    "read_idx",
    "shakespeare_plays",
    "split_text",
    "tiny_shakespeare",
]
