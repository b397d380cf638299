"""Check before a run in verl that verl's parser reads the calls of the model's chat template."""

from pathlib import Path

from sod.errors import OptionError

READ = {"hermes": "hermes"}
"""verl's multi_turn.format -> the form of calls that it reads (docs/templates.md)."""
AT = "actor_rollout_ref.rollout.multi_turn.format"


def check_calls(model: Path, parser: str) -> str:
    """Return a warning about what cannot be checked; "" if the parser reads the calls of the model's template.

    `model`: folder of the tokenizer. `parser`: verl's multi_turn.format. Raise OptionError for a template that writes calls in
    another form, and TemplateError for one that cannot be used.
    """
    if parser not in READ:
        return f"Warning: {AT}={parser} is not tested with sod; hermes is."
    if not (model / "tokenizer_config.json").is_file():
        return (
            f"Warning: the calls of {model} are not checked, because it is no local folder. They must be Hermes calls."
        )
    from transformers import AutoTokenizer

    from sod.chat.templates import Template

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    found = Template(tokenizer, {}).syntax.name
    if found != READ[parser]:
        raise OptionError(
            f"{AT}={parser} reads Hermes calls, but the chat template of {model} writes calls in the form {found}, so verl "
            "would run no call. Use a model with Hermes calls, such as Qwen3, or train with `sod train`, which reads this form."
        )
    return ""
