"""Makes a small model on disk: `python make_model.py FOLDER [--seed S] [--hidden H] [--layers L] [--kind K] …`.

Runs in the engine's environment (transformers, tokenizers). No model hub is reachable in tests, so weights are random
and seeded. They are scaled up, so that greedy answers differ from prompt to prompt and do not repeat one token.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2048
CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


def make_tokenizer(folder: Path, thinks: bool) -> None:
    """`thinks`: with the words around a thought that parsers of reasoning look for."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    # All bytes: some answers then have characters that are spread over tokens, and bytes that are none.
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>", *(["<think>", "</think>"] if thinks else [])]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    text = [" ".join(chr(97 + (i * j) % 26) * (1 + (i + j) % 4) for j in range(200)) for i in range(400)]
    tokenizer.train_from_iterator(text, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def make_llama(folder: Path, seed: int, hidden: int, layers: int) -> None:
    heads = hidden // 64
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        head_dim=64,
        max_position_embeddings=8192,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).to(torch.float32)
    model.save_pretrained(folder, safe_serialization=True)


def make_gemma(folder: Path, seed: int, hidden: int, layers: int) -> None:
    """Alternating sliding-window and full attention: two KV-cache groups."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=8192,
        sliding_window=128,
        layer_types=["sliding_attention" if i % 2 else "full_attention" for i in range(layers)],
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.2,
        query_pre_attn_scalar=64,
    )
    torch.manual_seed(seed)
    Gemma3ForCausalLM(config).to(torch.float32).save_pretrained(folder, safe_serialization=True)


def make_mistral(folder: Path, seed: int, hidden: int, layers: int) -> None:
    """Sliding windows in every layer: one KV-cache group, of whose pages only the last few are needed."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=8192,
        sliding_window=128,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    MistralForCausalLM(config).to(torch.float32).save_pretrained(folder, safe_serialization=True)


def make_adapter(folder: Path, base: Path, seed: int, rank: int = 4) -> None:
    """A LoRA adapter for the q and v projections of a llama made above."""
    from safetensors.torch import save_file

    config = json.loads((base / "config.json").read_text())
    hidden, head_dim = config["hidden_size"], config["head_dim"]
    sizes = {"q_proj": config["num_attention_heads"] * head_dim, "v_proj": config["num_key_value_heads"] * head_dim}
    torch.manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out in sizes.items():
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, hidden) * 0.2
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, rank) * 0.2
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(sizes),
        "base_model_name_or_path": str(base),
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--kind", choices=["llama", "gemma", "mistral", "adapter"], default="llama")
    parser.add_argument("--thinks", action="store_true")
    parser.add_argument("--base", type=Path)
    args = parser.parse_args()
    if args.kind == "adapter":
        make_adapter(args.folder, args.base, args.seed)
        return
    make = {"llama": make_llama, "gemma": make_gemma, "mistral": make_mistral}[args.kind]
    make(args.folder, args.seed, args.hidden, args.layers)
    make_tokenizer(args.folder, args.thinks)


if __name__ == "__main__":
    main()
