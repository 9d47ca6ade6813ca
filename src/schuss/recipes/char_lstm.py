"""A character-level LSTM on tiny Shakespeare."""

from __future__ import annotations

from pathlib import Path

import schuss
from schuss import data, nn, optim
from schuss.recipes.recipe import Target, recipe


class CharLSTM(nn.Module):
    """Tokens (N, T) and a state to logits (N, T, symbols) and the next state."""

    def __init__(self, symbols: int, width: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(hidden, symbols)

    def forward(self, x, state=None):  # type: ignore[no-untyped-def]
        y, state = self.lstm(self.embed(x), state)
        return self.head(self.dropout(y)), state


def loss_of(model, x, y, state):  # type: ignore[no-untyped-def]
    """The mean loss in nats per character, and the next state, through which no gradient goes."""
    logits, state = model(x, state)
    loss = nn.functional.cross_entropy(logits.reshape((y.size, -1)), y.reshape((-1,)))
    return loss, tuple(each.detach() for each in state)


def validate(model, blocks) -> float:  # type: ignore[no-untyped-def]
    """The mean loss over a text that is read in streams, from beginning to end."""
    state, losses = None, []
    model.eval()
    with schuss.no_grad():
        for x, y in data.DataLoader(blocks, batch_size=blocks.streams):
            loss, state = loss_of(model, x, y, state)
            losses.append(loss.item())
    model.train()
    return sum(losses) / len(losses)


def write(model, tokenizer, length: int) -> str:  # type: ignore[no-untyped-def]
    """A text, character by character, each drawn by the model's probabilities, a bit sharpened."""
    model.eval()
    tokens, state = [int(tokenizer.encode("\n")[0])], None
    with schuss.no_grad():
        for _ in range(length):
            logits, state = model(schuss.tensor([tokens[-1:]]), state)
            noise = -schuss.log(-schuss.log(schuss.random.uniform((len(tokenizer),), low=1e-9)))
            tokens.append((logits[0, 0] / 0.8 + noise).argmax().item())
    return tokenizer.decode(tokens)


@recipe(Target("validation loss", 1.60, at_least=False))
def char_lstm(
    epochs: int = 8,
    batch_size: int = 32,
    block_size: int = 64,
    hidden: int = 256,
    lr: float = 4e-3,
    seed: int = 0,
    root: Path | None = None,
) -> float:
    """An LSTM learns to write like Shakespeare, character by character.

    Args:
        epochs: how often to read the training text.
        batch_size: streams that are read side by side.
        block_size: characters through which gradients go back.
        hidden: units of the LSTM.
        lr: the largest learning rate; it falls to a tenth.
        seed: of the initial weights, the dropout and the text written.
        root: a folder with `input.txt`; without it, it is looked for and downloaded (1.1 MB).
    """
    schuss.manual_seed(seed)
    tokenizer = data.CharTokenizer(text := data.tiny_shakespeare(root))
    parts = data.split_text(tokenizer.encode(text))
    blocks, validation = (data.TokenBlocks(x, block_size, streams=batch_size) for x in parts)
    model = CharLSTM(len(tokenizer), 64, hidden)
    optimizer = optim.Adam(model.parameters(), lr=lr)
    schedule = optim.CosineAnnealingLR(optimizer, epochs * len(blocks) // batch_size, lr / 10)
    for epoch in range(epochs):
        state = None  # it goes on from block to block, as the streams do
        for x, y in data.DataLoader(blocks, batch_size=batch_size):
            optimizer.zero_grad()
            loss, state = loss_of(model, x, y, state)
            loss.backward()
            optim.clip_grad_norm(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        reached = validate(model, validation)
        print(f"epoch {epoch + 1}: validation loss {reached:.4f}")
    print(write(model, tokenizer, 400))
    return reached
