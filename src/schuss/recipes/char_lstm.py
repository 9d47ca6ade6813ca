"""A character-level LSTM on tiny Shakespeare."""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss import data, nn, optim
from schuss.recipes.recipe import Target, recipe


class CharLSTM(nn.Module):
    """Tokens (N, T) and a state to logits (N, T, symbols) and the next state."""

    def __init__(self, symbols: int, embedding: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, x, state=None):  # type: ignore[no-untyped-def]
        y, state = self.lstm(self.embed(x), state)
        return self.head(self.dropout(y)), state


def loss_of(model, x, y, state):  # type: ignore[no-untyped-def]
    """The mean cross-entropy in nats per character, and the next state, cut off from this one."""
    logits, state = model(x, state)
    loss = nn.functional.cross_entropy(logits.reshape((-1, logits.shape[-1])), y.reshape((-1,)))
    return loss, tuple(each.detach() for each in state)


def validate(model, blocks) -> float:  # type: ignore[no-untyped-def]
    """The mean loss over a text that is read in streams, from beginning to end."""
    model.eval()
    state, losses = None, []
    with schuss.no_grad():
        for x, y in data.DataLoader(blocks, batch_size=blocks.streams):
            loss, state = loss_of(model, x, y, state)
            losses.append(loss.item())
    model.train()
    return sum(losses) / len(losses)


def write(model, tokenizer, length: int, temperature: float) -> str:  # type: ignore[no-untyped-def]
    """A text that begins with a new line: each character is drawn by the model's probabilities."""
    model.eval()
    tokens, state = [int(tokenizer.encode("\n")[0])], None
    with schuss.no_grad():
        for _ in range(length):
            logits, state = model(schuss.tensor([tokens[-1:]]), state)
            noise = -schuss.log(-schuss.log(schuss.random.uniform((len(tokenizer),), 1e-9, 1.0)))
            tokens.append((logits[0, 0] / temperature + noise).argmax().item())
    return tokenizer.decode(tokens)


@recipe(Target("validation loss", 1.60, at_least=False))
def char_lstm(
    epochs: int = 8,
    batch_size: int = 32,
    block_size: int = 64,
    embedding: int = 64,
    hidden: int = 256,
    dropout: float = 0.2,
    lr: float = 4e-3,
    characters: int = 400,
    temperature: float = 0.8,
    seed: int = 0,
    root: Path | None = None,
) -> float:
    """An LSTM learns to write like Shakespeare, character by character.

    Args:
        epochs: how often to read the training text.
        batch_size: streams that are read side by side.
        block_size: characters through which gradients go back.
        embedding: features of a character.
        hidden: units of the LSTM.
        dropout: the share of its outputs that is left out.
        lr: the largest learning rate; it falls to a tenth.
        characters: how many to write at the end.
        temperature: below 1 writes more likely characters.
        seed: of the initial weights, the dropout and the text written.
        root: a folder with `input.txt`; without it, it is looked for and downloaded (1.1 MB).
    """
    schuss.manual_seed(seed)
    text = data.tiny_shakespeare(root)
    tokenizer = data.CharTokenizer(text)
    training, held_out = data.split_text(tokenizer.encode(text))
    blocks = data.TokenBlocks(training, block_size, streams=batch_size)
    validation = data.TokenBlocks(held_out, block_size, streams=batch_size)
    model = CharLSTM(len(tokenizer), embedding, hidden, dropout)
    optimizer = optim.Adam(model.parameters(), lr=lr)
    steps = epochs * (len(blocks) // batch_size)
    schedule = optim.CosineAnnealingLR(optimizer, T_max=steps, eta_min=lr / 10)
    for epoch in range(epochs):
        state = None  # goes on from block to block, as the streams do
        for x, y in data.DataLoader(blocks, batch_size=batch_size):
            optimizer.zero_grad()
            loss, state = loss_of(model, x, y, state)
            loss.backward()
            optim.clip_grad_norm(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: validation loss {validate(model, validation):.4f}")
    print(write(model, tokenizer, characters, temperature))
    return validate(model, validation)
