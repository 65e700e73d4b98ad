"""Model folders that try to run code, to answer for the user, or to speak to the terminal."""

import json
import os
import pickle
import subprocess
from pathlib import Path

from outcomes import COMMAND

BERT = {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
        "intermediate_size": 64, "vocab_size": 50, "pad_token_id": 0}  # fmt: skip
CLASSES = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoModelForCausalLM")
MAP = {name: f"evil.Evil{name}" for name in CLASSES}
TEXT = "once upon a time a small dog lived by the river and every day it ran to the old mill " * 4
LOUD = "\x1b]0;owned\x07\x1b[2J[/b][bold]$x_$"  # a title, a clear screen, markup, mathematics


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def evil(canary):
    """Source of a module that leaves a file when it is imported, and poses as any class."""
    bodies = "\n".join(f"class Evil{name}:\n    pass" for name in CLASSES)
    return f"import pathlib\npathlib.Path({str(canary)!r}).touch()\n{bodies}\n"


def folders(root, canary):
    """What is in each folder: config, further files, and the exit code that must follow."""
    here, other = str(root / "{}"), str(root / "other")
    code = {"evil.py": evil(canary), "configuration_evil.py": evil(canary),
            "modeling_evil.py": evil(canary), "tokenization_evil.py": evil(canary)}  # fmt: skip
    touch = f"touch {canary}"
    jinja = "{{ cycler.__init__.__globals__.os.system('" + touch + "') }}"
    nested = {"model_type": "clvp_encoder", "auto_map": MAP, "_name_or_path": here}
    shadows = ("torch", "transformers", "json", "numpy", "tokenizers", "sitecustomize", "typer",
               "usercustomize", "huggingface_hub", "matplotlib")  # fmt: skip
    return {
        "prompt": ({"model_type": "clvp_encoder", "auto_map": MAP, "_name_or_path": here,
                    "name_or_path": here}, code, 2),
        "auto_map": (BERT | {"auto_map": MAP, "_name_or_path": here, "architectures": ["Evil"],
                             "trust_remote_code": True},
                     code | {"tokenizer_config.json": {"auto_map": MAP}}, 0),
        "nested": ({"model_type": "llava", "text_config": nested, "vision_config": nested},
                   code, 2),
        "unknown": ({"model_type": "evil", "auto_map": MAP, "_name_or_path": here}, code, 2),
        "elsewhere": (BERT | {"_name_or_path": other,
                              "auto_map": {"AutoModel": f"{other}--evil.X"}}, {}, 0),
        "pickled": (BERT, {"pytorch_model.bin": Bomb(touch), "training_args.bin": Bomb(touch),
                           "model.safetensors": Bomb(touch), "tokenizer.model": Bomb(touch)}, 0),
        "kernel": (BERT | {"attn_implementation": "evil/kernel:run", "_attn_implementation": "e/k",
                           "_attn_implementation_internal": "evil/kernel",
                           "experts_implementation": "evil/kernel"}, code, 0),
        "quantised": (BERT | {"quantization_config": {"quant_method": "evil", "auto_map": MAP,
                                                      "modules_to_not_convert": ["x"]},
                              "torch_dtype": "bfloat16", "dtype": "float16"}, code, 0),
        "template": (BERT, {"chat_template.jinja": jinja,
                            "tokenizer_config.json": {"chat_template": jinja}}, 0),
        "shadows": (BERT, {f"{name}.py": evil(canary) for name in shadows}, 0),
        "generation": (BERT | {"custom_generate": here, "custom_pipelines": MAP},
                       {"generation_config.json": {"custom_generate": here, "auto_map": MAP},
                        "custom_generate/generate.py": evil(canary)}, 0),
        "loud": (BERT | {"hidden_act": LOUD, "model_type": "bert"}, {}, 2),
        "loud_type": ({"model_type": LOUD}, {}, 2),
        "link": (None, {"target.json": BERT | {"auto_map": MAP, "_name_or_path": here}} | code, 0),
        "deep": (BERT | {"num_hidden_layers": 10**9}, {}, 2),
        "wide": (BERT | {"hidden_size": 2**23, "num_attention_heads": 1, "vocab_size": 2}, {}, 2),
        "labels": (BERT | {"num_labels": 10**9, "id2label": {"x": LOUD}}, {}, 0),
        "methods": (BERT | {"get_text_config": "evil", "to_dict": 1, "__class__": "evil.X",
                            "sub_configs": {"a": "evil.X"}}, code, 2),
        "tokenizer": (BERT, {"tokenizer.json": {"model": {"type": LOUD, "vocab": {"a": 10**12}}}},
                      2),
    }  # fmt: skip


NAMES = tuple(folders(Path("/nowhere"), "/nowhere/canary"))


def build(root, name):
    """Write one folder; returns it, the file that its code would leave, and the exit code."""
    canary, folder = root / f"canary-{name}", root / name
    config, files, code = folders(root, canary)[name]
    folder.mkdir(parents=True)
    (root / "other").mkdir()
    (root / "other" / "evil.py").write_text(evil(canary))
    for file, content in files.items():
        (folder / file).parent.mkdir(exist_ok=True)
        if isinstance(content, Bomb):
            (folder / file).write_bytes(pickle.dumps(content))
        else:
            text = content if isinstance(content, str) else json.dumps(content).replace("{}", name)
            (folder / file).write_text(text)
    if config is None:
        (folder / "config.json").symlink_to(folder / "target.json")
    else:
        (folder / "config.json").write_text(json.dumps(config).replace("{}", name))
    (root / "text.txt").write_text(TEXT)
    return folder, canary, code


def run(root, folder, *words):
    """`sigprop audit` as an installed command runs, inside the folder, answered "y" throughout."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "HF_HOME": str(root / "hf")}
    command = [*COMMAND, "audit", "--hf", folder, "--text", root / "text.txt", *words]
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=env, input="y\n" * 50, capture_output=True,
        text=True, timeout=900, check=False,
    )  # fmt: skip
