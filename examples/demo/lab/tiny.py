"""A Qwen3 forward in plain torch on a Hugging Face module's weights: groups share prompts, siblings decode at once.

For trials on one core. Equal to `Qwen3ForCausalLM` token for token; the gradient flows through both the shared prompt
and the completions, so a step costs what its distinct tokens cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

Cache = list[tuple[Tensor, Tensor]]
"""Per layer: keys and values [batch, kv heads, positions, head size]."""


def new_model(
    vocabulary: int, *, hidden: int = 128, layers: int = 4, seed: int = 0, **overrides: int
) -> Qwen3ForCausalLM:
    """A randomly initialised base."""
    torch.manual_seed(seed)
    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 64,
        "head_dim": 32,
        "intermediate_size": 11 * hidden // 4,
        "max_position_embeddings": 2048,
    } | overrides
    config = Qwen3Config(
        vocab_size=vocabulary, tie_word_embeddings=False, rope_theta=10000.0, initializer_range=0.04, **sizes
    )
    model = Qwen3ForCausalLM(config).float()
    # The residual stream starts as the tokens themselves, well above the layers' noise: copying is found sooner.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.5)
    return model


class Tiny:
    """Batched functions over one model."""

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        self.model = model
        c = model.config
        self.heads, self.kv_heads, self.size = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.eps = c.rms_norm_eps
        theta = getattr(c, "rope_theta", None) or c.rope_parameters["rope_theta"]
        frequencies = theta ** (-torch.arange(0, self.size, 2).float() / self.size)
        angles = torch.outer(torch.arange(c.max_position_embeddings).float(), frequencies)
        self.cos, self.sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        *,
        past: Cache | None = None,
        mask: Tensor | None = None,
        keep: bool = False,
    ) -> tuple[Tensor, Cache]:
        """Final hidden states [batch, tokens, hidden]. `mask` [batch, 1, tokens, past + tokens], True where seen; None:
        causal within the tokens, no past.
        """
        x = self.model.model.embed_tokens(ids)
        cos, sin = self.cos[positions][:, None], self.sin[positions][:, None]
        cache: Cache = []
        for number, layer in enumerate(self.model.model.layers):
            a = layer.self_attn
            h = self._norm(x, layer.input_layernorm)
            q = self._rotate(self._norm(self._split(a.q_proj(h), self.heads), a.q_norm), cos, sin)
            k = self._rotate(self._norm(self._split(a.k_proj(h), self.kv_heads), a.k_norm), cos, sin)
            v = self._split(a.v_proj(h), self.kv_heads)
            if past is not None:
                k, v = torch.cat([past[number][0], k], 2), torch.cat([past[number][1], v], 2)
            if keep:
                cache.append((k, v))
            o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
            x = x + a.o_proj(o.transpose(1, 2).flatten(2))
            h = self._norm(x, layer.post_attention_layernorm)
            m = layer.mlp
            x = x + m.down_proj(F.silu(m.gate_proj(h)) * m.up_proj(h))
        return self._norm(x, self.model.model.norm), cache

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.size)).transpose(1, 2)

    def _norm(self, x: Tensor, norm: nn.Module) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), norm.weight, self.eps)

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = self.size // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden)

    # -- groups --------------------------------------------------------------------------------------------------

    def prompts(self, prompts: list[list[int]]) -> tuple[Cache, Tensor, Tensor]:
        """Run right-padded prompts; returns cache, last hidden states [groups, hidden] and lengths [groups]."""
        lengths = torch.tensor([len(p) for p in prompts])
        ids = pad(prompts)
        positions = torch.arange(ids.shape[1]).expand(len(prompts), -1)
        hidden, cache = self.forward(ids, positions, keep=True)
        return cache, hidden[torch.arange(len(prompts)), lengths - 1], lengths

    @torch.no_grad()
    def generate(
        self,
        prompts: list[list[int]],
        *,
        siblings: int,
        limit: int,
        stop: int,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> list[list[int]]:
        """`siblings` completions of each prompt, group after group, the stop token included where it was written."""
        cache, last, lengths = self.prompts(prompts)
        width = cache[0][0].shape[2]
        lengths = lengths.repeat_interleave(siblings)
        past = [(k.repeat_interleave(siblings, 0), v.repeat_interleave(siblings, 0)) for k, v in cache]
        seen = torch.arange(width)[None] < lengths[:, None]
        hidden = last.repeat_interleave(siblings, 0)
        done = torch.zeros(len(lengths), dtype=torch.bool)
        out: list[Tensor] = []
        for step in range(limit):
            logits = self.head(hidden)
            token = logits.argmax(-1) if greedy else _sampled(logits, generator)
            out.append(torch.where(done, -1, token))
            done |= token == stop
            if done.all() or step == limit - 1:
                break
            seen = torch.cat([seen, torch.ones(len(lengths), 1, dtype=torch.bool)], 1)
            x, past = self.forward(
                token[:, None], (lengths + step)[:, None], past=past, mask=seen[:, None, None], keep=True
            )
            hidden = x[:, -1]
        rows = torch.stack(out, 1).tolist()
        return [[t for t in row if t >= 0] for row in rows]

    def logprobs(self, prompts: list[list[int]], completions: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """(log probabilities, entropies, mask), each [completions, longest]; completions are group after group."""
        siblings = len(completions) // len(prompts)
        cache, last, lengths = self.prompts(prompts)
        width = cache[0][0].shape[2]
        lengths = lengths.repeat_interleave(siblings)
        past = [(k.repeat_interleave(siblings, 0), v.repeat_interleave(siblings, 0)) for k, v in cache]
        ids = pad(completions)
        n = ids.shape[1]
        mask = torch.arange(n)[None] < torch.tensor([len(c) for c in completions])[:, None]
        hidden = last.repeat_interleave(siblings, 0)[:, None]
        if n > 1:
            seen = (torch.arange(width)[None] < lengths[:, None])[:, None, None].expand(-1, 1, n - 1, -1)
            causal = torch.ones(n - 1, n - 1, dtype=torch.bool).tril().expand(len(ids), 1, -1, -1)
            positions = lengths[:, None] + torch.arange(n - 1)[None]
            x, _ = self.forward(ids[:, :-1], positions, past=past, mask=torch.cat([seen, causal], -1))
            hidden = torch.cat([hidden, x], 1)
        logs = self.head(hidden[mask]).log_softmax(-1)
        chosen = torch.zeros(mask.shape).masked_scatter(mask, logs.gather(-1, ids[mask][:, None])[:, 0])
        entropy = torch.zeros(mask.shape).masked_scatter(mask, -(logs.exp() * logs).sum(-1))
        return chosen, entropy, mask


def _sampled(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


def pad(rows: list[list[int]]) -> Tensor:
    """Right-padded ids [rows, longest]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
