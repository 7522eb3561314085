"""Make the demo's base from nothing: `python examples/demo/pretrain.py [--steps N] [--out DIR]`.

One thread, deterministic on one kind of machine, five to ten minutes. It trains the tokenizer, then a Qwen3 of a
million parameters on synthetic reading (see lab/reading.py), and writes a Hugging Face folder with `training.log`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch.nn import functional as F

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from demo.lab.reading import document  # noqa: E402
from demo.lab.tiny import Tiny, new_model, pad  # noqa: E402
from demo.lab.tokens import END, FORMAT_PIECES, START, TEMPLATE, phrases, save_tokenizer, train_tokenizer  # noqa: E402
from demo.lab.world import DemoWorld, alias_words, load_world  # noqa: E402

from toolorchestra.policy.prompts import QA_SYSTEM  # noqa: E402
from toolorchestra.policy.renderer import Renderer  # noqa: E402
from toolorchestra.policy.template import ChatTemplate  # noqa: E402

Questions = Sequence[tuple[str, str]]
ASSISTANT = f"{START}assistant\n"


@dataclass
class Reader:
    """Renders documents to ids with a mask of what is learned."""

    renderer: Renderer
    words: Sequence[str]
    questions: Questions
    rng: random.Random
    most: int = 3
    starts: int = field(init=False)
    ends: int = field(init=False)

    def __post_init__(self) -> None:
        (self.starts,) = self.renderer.encode(ASSISTANT)
        (self.ends,) = self.renderer.encode(END)

    def sample(self) -> tuple[list[int], list[bool]]:
        messages, tools = document(self.rng, self.words, self.questions, most=self.most)
        text = self.renderer.text(messages, tools=tools, add_generation_prompt=False)
        # One end-of-turn token, as the policy writes it, not the piece that the template's text is read back as.
        ids: list[int] = []
        mask: list[bool] = []
        for number, part in enumerate(text.split(ASSISTANT)):
            head, _, rest = part.partition(END)
            if number:
                said = [*self.renderer.encode(head), self.ends]
                ids += [self.starts, *said]
                mask += [False, *[True] * len(said)]
                more = self.renderer.encode(rest)
            else:
                more = self.renderer.encode(part)
            ids += more
            mask += [False] * len(more)
        return ids, mask

    def batches(self, size: int, *, pool: int = 8) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of documents of like length, so that little is padding."""
        while True:
            samples = sorted((self.sample() for _ in range(size * pool)), key=lambda s: len(s[0]))
            batches = [samples[i : i + size] for i in range(0, len(samples), size)]
            self.rng.shuffle(batches)
            for batch in batches:
                yield pad([ids for ids, _ in batch]), pad([[int(m) for m in mask] for _, mask in batch]).bool()


def corpus(words: Sequence[str], questions: Questions, *, documents: int, seed: int) -> Iterator[str]:
    rng = random.Random(f"corpus/{seed}")
    template = ChatTemplate({"default": TEMPLATE}, special_tokens={})
    for _ in range(documents):
        messages, tools = document(rng, words, questions)
        yield template.render(messages, tools=tools, add_generation_prompt=False)
    for _, question in questions:
        yield question


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--steps", type=int, default=600)
    arguments.add_argument("--horizon", type=int, default=1500, help="steps over which the learning rate would fade")
    arguments.add_argument("--copying", type=int, default=450)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--rate", type=float, default=2e-3)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--layers", type=int, default=4)
    arguments.add_argument("--hidden", type=int, default=128)
    arguments.add_argument("--out", type=Path, default=HERE / "base")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    world = load_world(HERE)
    words = alias_words(world)
    questions = reading_questions(world)
    print(f"{len(questions)} questions, {len(words)} alias words", flush=True)
    common = [QA_SYSTEM, *phrases([question for _, question in questions])]
    tokenizer = train_tokenizer(corpus(words, questions, documents=3000, seed=given.seed), words=words, phrases=common)
    save_tokenizer(tokenizer, given.out)
    renderer = Renderer.load(given.out)
    print(f"vocabulary {tokenizer.get_vocab_size()}; {len(FORMAT_PIECES)} format pieces", flush=True)
    model = new_model(tokenizer.get_vocab_size(), hidden=given.hidden, layers=given.layers, seed=given.seed)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.token_to_id(END)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    train(model, Reader(renderer, words, questions, random.Random(f"reading/{given.seed}")), given)


def reading_questions(world: DemoWorld) -> Questions:
    """Questions of the demo's datasets that are not among its held-out tasks."""
    return [(t.topic, t.instruction) for t in (world.suite.train_task(i) for i in range(world.suite.train_size))]


def copies(vocabulary: int, rng: random.Random, *, rows: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random phrases in random order, each several times: after its first token, a phrase goes on as it did before."""
    ids, mask = [], []
    for _ in range(rows):
        tokens = rng.sample(range(vocabulary), length // 3)
        ends = [0, *accumulate(rng.choices((2, 3, 4), k=length // 9)), length // 3]
        phrases_ = [tokens[a:b] for a, b in pairwise(ends) if b - a > 1]
        seen: set[int] = set()
        row: list[int] = []
        known: list[bool] = []
        while len(row) < length:
            k = rng.randrange(len(phrases_))
            row += phrases_[k]
            known += [False, *[k in seen] * (len(phrases_[k]) - 1)]
            seen.add(k)
        ids.append(row[:length])
        mask.append(known[:length])
    return torch.tensor(ids), torch.tensor(mask)


def lesson(reader: Reader, given: argparse.Namespace, vocabulary: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Copying first (attention that copies is found in minutes alone, and hardly at all among other things)."""
    rng = random.Random(f"copies/{given.seed}")
    for n in range(given.copying):
        short = n < 0.8 * given.copying
        yield copies(vocabulary, rng, rows=48 if short else 24, length=36 if short else 120)
    yield from reader.batches(given.batch)


def train(model: torch.nn.Module, reader: Reader, given: argparse.Namespace) -> None:
    tiny = Tiny(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.rate, betas=(0.9, 0.98), weight_decay=0.01)
    began, log = time.monotonic(), []
    losses: list[float] = []
    hits: list[float] = []
    lessons = lesson(reader, given, model.config.vocab_size)
    for step, (ids, mask) in zip(range(1, given.steps + 1), lessons, strict=False):
        reader.most = min(7, 3 + max(0, step - given.copying) // 80)
        rate = given.rate * min(1, step / 50) * (0.5 + 0.49 * math.cos(math.pi * step / given.horizon))
        for group in optimizer.param_groups:
            group["lr"] = rate
        hidden, _ = tiny.forward(ids, torch.arange(ids.shape[1]).expand(len(ids), -1))
        wanted = mask[:, 1:]
        logits = tiny.head(hidden[:, :-1][wanted])
        loss = F.cross_entropy(logits, ids[:, 1:][wanted])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        hits.append((logits.argmax(-1) == ids[:, 1:][wanted]).float().mean().item())
        if step % 50 == 0 or step == given.steps:
            entry = {
                "step": step,
                "loss": round(sum(losses) / len(losses), 4),
                "accuracy": round(sum(hits) / len(hits), 4),
                "seconds": round(time.monotonic() - began),
                "tokens": ids.numel(),
            }
            log.append(entry)
            print(json.dumps(entry), flush=True)
            losses, hits = [], []
        if step % 200 == 0 or step == given.steps:
            model.save_pretrained(given.out)
            (given.out / "training.log").write_text("".join(json.dumps(e) + "\n" for e in log))


if __name__ == "__main__":
    main()
